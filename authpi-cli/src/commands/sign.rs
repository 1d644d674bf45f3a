//! `authpi sign`: the signature headers of a body.

use std::path::PathBuf;

use authpi_sdk::signature::SignatureScheme;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    arguments,
    failure::{Failure, Result},
    files::read,
    output::{self, Format, Output},
    secret::SigningSecret,
};

/// Sign a body as AuthPI would, and print the headers.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi sign body.json --secret-file secret.txt")]
pub(crate) struct Sign {
    /// A file with the exact bytes of the body; - for standard input
    body: PathBuf,

    #[command(flatten)]
    secret: SigningSecret,

    /// How to sign: authpi, timestamped or standard-webhooks
    #[arg(long, value_name = "SCHEME", default_value = "authpi", value_parser = scheme)]
    scheme: SignatureScheme,

    /// The message id, for schemes that sign one
    #[arg(long, value_name = "ID", default_value = "msg_authpi_cli")]
    message_id: String,

    /// The time to sign, for schemes that sign one. Default: now
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    time: Option<Timestamp>,
}

/// The name of a signature scheme.
pub(crate) fn scheme(text: &str) -> std::result::Result<SignatureScheme, String> {
    text.parse()
        .map_err(|_| "must be authpi, timestamped or standard-webhooks".to_owned())
}

impl Sign {
    pub(crate) fn run(self, output: Output) -> Result {
        let (body, secret) = (read(&self.body)?, self.secret.read()?);
        let time = self.time.unwrap_or_else(Timestamp::now);
        let headers = self
            .scheme
            .sign(&secret, &self.message_id, time, &body)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let pairs = headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        });
        if output.format() == Format::Table {
            let lines: Vec<_> = pairs
                .map(|(name, value)| format!("{name}: {value}\n"))
                .collect();
            return output::print(&lines.concat());
        }
        output.one(
            &pairs
                .map(|(name, value)| (name, Value::from(value)))
                .collect::<Map<_, _>>(),
        )
    }
}
