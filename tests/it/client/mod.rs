//! The client against the emulator, and against servers that respond as AuthPI never should.
//!
//! `emulator` covers every operation. `peer` is a server with scripted responses that records its
//! requests. `faults`, `retries` and `tokens` are about retries. `requests` checks what the client
//! sends, `refusals` its handling of error responses, `broken` of missing and malformed responses,
//! `odd` of unexpected members, `traces` what AuthPI gets to know of the caller's trace, and `settings`
//! covers clients that must not be built.

mod broken;
mod emulator;
mod ensure;
mod faults;
mod odd;
mod pages;
mod peer;
mod redeliver;
mod refusals;
mod requests;
mod retries;
mod rotation;
pub(crate) mod secrets;
mod settings;
mod tokens;
mod traces;
mod update_with;

use std::error::Error as _;

use authpi_sdk::{client::Error, client::WebhookSpec, event::EventType};

/// Everything that an error shows to a log: its message, its debug output, and those of its causes.
fn shown(error: &Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let causes: Vec<_> = causes
        .map(|cause| format!("\n{cause}\n{cause:?}"))
        .collect();
    format!("{error}\n{error:?}\n{error:#?}{}", causes.concat())
}

fn spec() -> WebhookSpec {
    WebhookSpec::new("users", "http://127.0.0.1:9/hook").events([EventType::UserCreated])
}
