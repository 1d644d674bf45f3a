//! `authpi replay`: sends recorded deliveries again.

use std::{path::PathBuf, time::Duration};

use authpi_sdk::{event::Event, signature::SignatureScheme, testing::Recording};
use clap::Args;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use serde::Serialize;

use super::{listen::Attempt, sign::scheme};
use crate::{
    arguments::duration,
    failure::{Failure, Result, chain},
    forward::{Answer, Target},
    output::{Output, Record},
    secret::SigningSecret,
};

/// Send recorded deliveries again, in the order given.
///
/// Each gets a new signature with the current time, so that a receiver accepts it; --as-recorded
/// keeps the recorded signature. Headers that were redacted are left out. It fails if an answer is
/// not 200.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    authpi replay recordings/*.json --to http://127.0.0.1:8080/hooks --secret-file secret.txt")]
pub(crate) struct Replay {
    /// The recordings
    #[arg(required = true)]
    files: Vec<PathBuf>,

    /// The receiver's address. If it has no path, the recorded path is used
    #[arg(long, value_name = "URL")]
    to: String,

    /// Keep the recorded signature; no secret is needed
    #[arg(long)]
    as_recorded: bool,

    /// The pause between two deliveries, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s")]
    every: Duration,

    /// How to sign: authpi, timestamped or standard-webhooks
    #[arg(long, value_name = "SCHEME", default_value = "authpi", value_parser = scheme)]
    scheme: SignatureScheme,

    #[command(flatten)]
    secret: SigningSecret,
}

#[derive(Serialize)]
struct Replayed {
    file: String,
    #[serde(flatten)]
    attempt: Attempt,
}

impl Record for Replayed {
    const COLUMNS: &[&str] = &["file", "time", "type", "event", "attempt", "status", "ms"];

    fn cells(&self) -> Vec<String> {
        let mut cells = self.attempt.cells();
        cells.insert(0, self.file.clone());
        cells
    }

    fn line(&self) -> String {
        self.attempt.line()
    }
}

impl Replay {
    pub(crate) async fn run(self, output: Output) -> Result {
        let target = Target::parse(&self.to)?;
        let secret = if self.as_recorded {
            None
        } else {
            Some(self.secret.read()?)
        };
        let recordings: Vec<_> = self
            .files
            .iter()
            .map(|file| {
                Recording::read(file)
                    .map(|recording| (file, recording))
                    .map_err(|error| {
                        Failure::usage(format!("{}: {}", file.display(), chain(&error)))
                    })
            })
            .collect::<Result<_>>()?;
        let mut refused = 0;
        for (at, (file, recording)) in recordings.into_iter().enumerate() {
            if at > 0 && !self.every.is_zero() {
                tokio::time::sleep(self.every).await;
            }
            let event = Event::from_json(recording.body.clone()).ok();
            let id = event.as_ref().map_or("-", |event| event.id());
            let mut headers: HeaderMap = recording
                .headers
                .iter()
                .filter(|(_, value)| *value != "REDACTED")
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            let now = Timestamp::now();
            if let Some(secret) = &secret {
                let signed = self
                    .scheme
                    .sign(secret, &format!("msg_{id}"), now, &recording.body)
                    .map_err(|error| Failure::usage(error.to_string()))?;
                for (name, value) in &signed {
                    headers.insert(name, value.clone());
                }
            }
            let method = Method::try_from(recording.method.as_str()).unwrap_or(Method::POST);
            let sent = target
                .send(
                    method,
                    Some(&recording.path),
                    headers,
                    recording.body.clone(),
                )
                .await;
            let answer = sent.as_ref().ok().map(Answer::recorded);
            refused += usize::from(answer.as_ref().is_none_or(|answer| answer.status != 200));
            output.line(&Replayed {
                file: file.display().to_string(),
                attempt: Attempt::new(
                    now,
                    event
                        .as_ref()
                        .map_or("-", |event| event.event_type().as_str()),
                    id,
                    answer.as_ref(),
                    sent.err(),
                ),
            })?;
        }
        if refused == 0 {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{refused} of {} deliveries were not accepted",
            self.files.len()
        )))
    }
}
