//! `authpi diagnose`: how a captured delivery was signed.

use authpi_sdk::signature::{SignatureScheme, diagnose};
use clap::Args;
use serde::Serialize;

use crate::{
    captured::Captured,
    failure::{Failure, Result},
    output::{self, Format, Output},
    secret::SigningSecret,
};

/// Find out how a captured delivery was signed, and print the scheme as a line of Rust.
///
/// It tries every header that holds something like a signature, with the body alone, with each
/// time and id in the headers before it, with each form of the secret, and with common changes that
/// proxies make to a body.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi diagnose delivery.json --secret-file secret.txt")]
pub(crate) struct Diagnose {
    #[command(flatten)]
    captured: Captured,

    #[command(flatten)]
    secret: SigningSecret,
}

#[derive(Serialize)]
struct Diagnosed {
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_was: Option<&'static str>,
    candidates: Vec<String>,
    remarks: Vec<String>,
}

impl Diagnose {
    pub(crate) fn run(self, output: Output) -> Result {
        let (headers, body) = self.captured.read()?;
        let found = diagnose(&headers, &body, &self.secret.read()?);
        if output.format() == Format::Table {
            output::print(&format!("{found}\n"))?;
        } else {
            output.one(&Diagnosed {
                scheme: found.scheme.as_ref().map(SignatureScheme::to_rust),
                body_was: found.body_was,
                candidates: found.candidates.iter().map(ToString::to_string).collect(),
                remarks: found.remarks.clone(),
            })?;
        }
        match &found.scheme {
            Some(_) => Ok(()),
            None => Err(Failure::new("no scheme fits this secret")),
        }
    }
}
