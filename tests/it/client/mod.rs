//! The client against the emulator, and against peers that answer as AuthPI never should.
//!
//! `emulator` goes through every operation; `peer` is a server that says exactly what a test tells
//! it to say and writes down what it was asked; `faults`, `retries` and `tokens` are about calls
//! that are made again; `requests` looks at what the client sends, `refusals` at what it makes of
//! answers that are no success, `broken` at answers that are no answers, `odd` at answers with odd
//! members, and `settings` at clients that must not be built. A test named `mistake_<n>_…` proves
//! that one of the mistakes found in well-known SDKs is not made here.

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
mod update_with;

use std::error::Error as _;

use authpi_sdk::{client::Error, client::WebhookSpec, event::EventType};

/// All that an error shows of itself to a log: its message, its debug output, and those of its
/// causes.
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
