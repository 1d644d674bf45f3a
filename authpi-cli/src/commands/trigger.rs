//! `authpi trigger`: creates events in a running emulator.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use authpi_emulator::NewEvent;
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::faults;
use crate::{
    arguments::duration,
    connect::Connect,
    failure::{Code, Failure, Result},
    files::read,
    output::{self, Format, Output},
    stop::Stop,
};

/// Create events in a running emulator, and print them as JSON.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    authpi trigger user.created --subject user_id=usr_1\n  \
    authpi trigger user.updated --count 100 --every 50ms\n  \
    authpi trigger --from events.ndjson")]
pub(crate) struct Trigger {
    /// The type of event, such as user.created
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    event_type: Option<String>,

    /// An id in the event's subject, such as user_id=usr_1. Default: an example. May be repeated
    #[arg(long, value_name = "ID=VALUE", value_parser = parse_member, conflicts_with = "from")]
    subject: Vec<(String, String)>,

    /// A file with the event's payload, a JSON object, or - for standard input. Default: an example
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    data: Option<PathBuf>,

    /// A file with one event per line: type, and optionally subject and data, as `authpi events
    /// export` writes them; - for standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// How many events to create from each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// The pause between two events, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    every: Option<Duration>,

    /// Allow a type that is not in AuthPI's catalogue, such as user.teleported; webhooks with all
    /// events receive it
    #[arg(long)]
    allow_unknown_type: bool,

    /// How many times to deliver each to each webhook
    #[arg(long, value_name = "N", default_value_t = 1)]
    copies: u32,

    #[command(flatten)]
    connect: Connect,
}

/// A line of `--from`. Other members of the log are ignored.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    event_type: String,
    subject: Option<Value>,
    data: Option<Value>,
}

impl Trigger {
    pub(crate) async fn run(self, output: Output) -> Result {
        let emulator = faults::emulator(&self.connect)?;
        let mut stop = Stop::listen()?;
        let mut first = true;
        let mut undelivered_types = HashSet::new();
        for event in self.events()? {
            for _ in 0..self.count {
                if let (false, Some(pause)) = (first, self.every) {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stop.requested() => return Ok(()),
                    }
                }
                first = false;
                let triggered = emulator.trigger(event.clone()).await?;
                let event_type = triggered.event["type"].as_str().unwrap_or_default();
                // Once for each type: with --count, a line per event would hide everything else.
                if triggered.deliveries == 0 && undelivered_types.insert(event_type.to_owned()) {
                    output::note(&format!(
                        "no active webhook is subscribed to {event_type} for this subject: the event was logged, not delivered"
                    ));
                }
                if output.format() == Format::Json {
                    output.one(&triggered.event)?;
                } else {
                    output::print(&format!("{}\n", triggered.event))?;
                }
            }
        }
        Ok(())
    }

    fn events(&self) -> Result<Vec<NewEvent>> {
        let with_options = |event: NewEvent| {
            let event = event.copies(self.copies);
            if self.allow_unknown_type {
                event.allow_unknown_type()
            } else {
                event
            }
        };
        if let Some(file) = &self.from {
            let bytes = read(file)?;
            let lines = bytes.split(|byte| *byte == b'\n').enumerate();
            let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
            return lines
                .map(|(at, line)| {
                    let line: Line = serde_json::from_slice(line).map_err(|error| {
                        let what = format!("{}, line {}", file.display(), at + 1);
                        Failure::because(what, &error).code(Code::Usage)
                    })?;
                    let mut event = NewEvent::new(line.event_type);
                    if let Some(subject) = line.subject {
                        event = event.subject(subject);
                    }
                    if let Some(data) = line.data {
                        event = event.data(data);
                    }
                    Ok(with_options(event))
                })
                .collect();
        }
        let mut event = NewEvent::new(self.event_type.clone().unwrap_or_default());
        if !self.subject.is_empty() {
            let mut members = Map::new();
            for (name, value) in &self.subject {
                let value = Value::String(value.clone());
                if members.insert(name.clone(), value).is_some() {
                    return Err(Failure::usage(format!("--subject names {name} twice")));
                }
            }
            event = event.subject(Value::Object(members));
        }
        if let Some(file) = &self.data {
            let data: Value = serde_json::from_slice(&read(file)?).map_err(|error| {
                Failure::because(format!("{} is not JSON", file.display()), &error)
                    .code(Code::Usage)
            })?;
            if !data.is_object() {
                return Err(Failure::usage(format!(
                    "{} is not a JSON object",
                    file.display()
                )));
            }
            event = event.data(data);
        }
        Ok(vec![with_options(event)])
    }
}

fn parse_member(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be of the form user_id=usr_1".to_owned()),
    }
}
