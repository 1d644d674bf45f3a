//! `authpi trigger`: creates an event in a running emulator.

use std::error::Error;

use authpi_emulator::{NewEvent, RemoteEmulator};
use clap::Args;
use serde_json::{Map, Value};

use crate::output;

/// Create an event in a running emulator.
///
/// The address and the API key are read from the environment variables that `authpi emulate`
/// prints, or from the options. Prints the event as JSON.
#[derive(Args)]
#[expect(
    clippy::doc_markdown,
    reason = "the program prints these texts as they stand"
)]
pub(crate) struct Trigger {
    /// The type of event, such as user.created
    event_type: String,

    /// An id in the event's subject, such as user_id=usr_1. Default: an example. May be repeated
    #[arg(long, value_name = "ID=VALUE", value_parser = parse_member)]
    subject: Vec<(String, String)>,

    /// The event's payload, a JSON object. Default: an example
    #[arg(long, value_name = "JSON", value_parser = parse_data)]
    data: Option<Value>,

    /// Allow a type that is not in AuthPI's catalogue, such as user.teleported; webhooks with all
    /// events receive it
    #[arg(long)]
    allow_unknown_type: bool,

    /// How many times to deliver it to each webhook
    #[arg(long, value_name = "N", default_value_t = 1)]
    copies: u32,

    /// The emulator's address
    #[arg(long, value_name = "URL", env = "AUTHPI_BASE_URL")]
    base_url: Option<String>,

    /// The id of the emulator's API key
    #[arg(long, value_name = "ID", env = "AUTHPI_KEY_ID")]
    key_id: Option<String>,

    /// The secret of the emulator's API key; prefer the environment variable, since other users can
    /// see a program's arguments
    #[arg(
        long,
        value_name = "SECRET",
        env = "AUTHPI_KEY_SECRET",
        hide_env_values = true
    )]
    key_secret: Option<String>,

    /// The account that the emulator must have. Default: not checked
    #[arg(long, value_name = "ID", env = "AUTHPI_ACCOUNT_ID")]
    account_id: Option<String>,
}

impl Trigger {
    pub(crate) async fn run(self) -> Result<(), Box<dyn Error>> {
        let base_url = required(self.base_url, "AUTHPI_BASE_URL", "--base-url")?;
        let key_id = required(self.key_id, "AUTHPI_KEY_ID", "--key-id")?;
        let key_secret = required(self.key_secret, "AUTHPI_KEY_SECRET", "--key-secret")?;
        let mut emulator = RemoteEmulator::new(&base_url, &key_id, &key_secret)?;
        if let Some(account_id) = self.account_id.filter(|id| !id.is_empty()) {
            emulator = emulator.account(account_id);
        }
        let mut event = NewEvent::new(&self.event_type).copies(self.copies);
        if self.allow_unknown_type {
            event = event.allow_unknown_type();
        }
        if !self.subject.is_empty() {
            let mut members = Map::new();
            for (name, value) in self.subject {
                if members.insert(name.clone(), Value::String(value)).is_some() {
                    return Err(format!("--subject names {name} twice").into());
                }
            }
            event = event.subject(Value::Object(members));
        }
        if let Some(data) = self.data {
            event = event.data(data);
        }
        let triggered = emulator.trigger(event).await?;
        if triggered.deliveries == 0 {
            output::note(&format!(
                "no active webhook is subscribed to {} for this subject: the event was logged, not delivered",
                self.event_type
            ));
        }
        output::print(&format!("{}\n", triggered.event))
    }
}

/// A required setting. An empty environment variable counts as not set.
fn required(given: Option<String>, variable: &str, option: &str) -> Result<String, String> {
    given.filter(|value| !value.is_empty()).ok_or_else(|| {
        format!(
            "{variable} is not set: start `authpi emulate` and export the variables that it prints, or give {option}"
        )
    })
}

fn parse_member(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be of the form user_id=usr_1".to_owned()),
    }
}

fn parse_data(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => Ok(Value::Object(members)),
        Ok(_) => Err("must be a JSON object".to_owned()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}
