//! `authpi verify`: whether a captured delivery is authentic.

use authpi_sdk::signature::{KeyRing, SignatureScheme, Verifier};
use clap::Args;
use serde::Serialize;

use super::sign::scheme;
use crate::{
    captured::Captured,
    failure::{Failure, Result},
    output::Output,
    secret::SigningSecret,
};

/// Say whether a captured delivery is authentic, or why not.
///
/// It fails if the delivery is not authentic. The age of a signed time is not checked, unless
/// --check-time is given: a captured delivery is old.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    authpi verify delivery.json --secret-file secret.txt\n  \
    authpi verify --body body.json -H \"x-webhook-signature: 5f2c…\" --secret-file secret.txt")]
pub(crate) struct Verify {
    #[command(flatten)]
    captured: Captured,

    #[command(flatten)]
    secret: SigningSecret,

    /// How it should be signed: authpi, timestamped or standard-webhooks
    #[arg(long, value_name = "SCHEME", default_value = "authpi", value_parser = scheme)]
    scheme: SignatureScheme,

    /// Also refuse a signed time that is too old
    #[arg(long)]
    check_time: bool,
}

#[derive(Serialize)]
struct Verdict {
    authentic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

/// Longer than any capture is kept.
const ANY_AGE: std::time::Duration = std::time::Duration::from_hours(24 * 365 * 100);

impl Verify {
    pub(crate) fn run(self, output: Output) -> Result {
        let (headers, body) = self.captured.read()?;
        let keys = KeyRing::new().with("given", self.secret.read()?);
        let scheme = if self.check_time {
            self.scheme
        } else {
            self.scheme.tolerance(ANY_AGE)
        };
        let verifier = Verifier::new(scheme, keys).max_body(usize::MAX);
        let Ok(delivery) = verifier.verify(&headers, body.clone()) else {
            let why = verifier.diagnose(&headers, &body).join("; ");
            return Err(Failure::new(format!("not authentic: {why}"))
                .hint("`authpi diagnose` looks for the scheme that fits"));
        };
        let event = delivery.event();
        output.one(&Verdict {
            authentic: true,
            event_id: event.as_ref().ok().map(|event| event.id().to_owned()),
            event_type: event
                .as_ref()
                .ok()
                .map(|event| event.event_type().to_string()),
            unreadable: event.as_ref().err().map(ToString::to_string),
        })
    }
}
