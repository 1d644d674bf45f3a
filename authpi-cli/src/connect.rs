//! Which account to call, and with which credentials.
//!
//! In this order: an option, the profile of `--profile`, the environment, the active profile.

use std::path::PathBuf;

use authpi_sdk::{
    client::{Client, ClientBuilder},
    signature::Secret,
};
use clap::Args;

use crate::{
    arguments::variable,
    failure::{Code, Failure, Result, chain},
    profile::{self, Profile, Profiles},
    secret,
};

/// How to reach the API.
///
/// Each setting comes from its option, else from the profile that `--profile` names, else from the
/// environment, else from the active profile.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connect {
    /// The address of the API [env: AUTHPI_BASE_URL] [default: AuthPI's]
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,

    /// The account [env: AUTHPI_ACCOUNT_ID] [default: the only one of the key]
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,

    /// The id of the API key [env: AUTHPI_KEY_ID]
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,

    /// A file with the secret of the API key, or - for standard input [env: AUTHPI_KEY_SECRET holds
    /// the secret itself]
    #[arg(long, value_name = "FILE")]
    key_secret_file: Option<PathBuf>,
}

/// The settings that were found.
pub(crate) struct Settings {
    pub(crate) base_url: Option<String>,
    pub(crate) account_id: Option<String>,
    pub(crate) key_id: String,
    pub(crate) key_secret: Secret,
}

impl Connect {
    /// The settings from all sources.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let sources = match profile::chosen() {
            Some(name) => vec![Profiles::load()?.get(name)?],
            None => vec![
                Profile {
                    base_url: variable("AUTHPI_BASE_URL")?,
                    account_id: variable("AUTHPI_ACCOUNT_ID")?,
                    key_id: variable("AUTHPI_KEY_ID")?,
                    key_secret: variable("AUTHPI_KEY_SECRET")?,
                    ..Profile::default()
                },
                Profiles::load()?.active().unwrap_or_default(),
            ],
        };
        let given_secret = self
            .key_secret_file
            .as_deref()
            .map(secret::read)
            .transpose()?;
        // Without options, a key's id and its secret come from the same source. With --key-id but
        // no --key-secret-file, the secret comes from the first source.
        let key = sources.iter().find(|source| source.key_id.is_some());
        let key_id = self
            .key_id
            .clone()
            .or_else(|| key?.key_id.clone())
            .ok_or_else(|| missing("the id of an API key", "AUTHPI_KEY_ID", "--key-id"))?;
        let key_secret = given_secret
            .or_else(|| {
                let other = self.key_id.is_some();
                let source = if other { sources.first() } else { key };
                source?.key_secret.as_deref().map(Secret::from)
            })
            .ok_or_else(|| {
                missing(
                    "the secret of the API key",
                    "AUTHPI_KEY_SECRET",
                    "--key-secret-file",
                )
            })?;
        let first = |given: &Option<String>, of: fn(&Profile) -> &Option<String>| {
            given
                .clone()
                .or_else(|| sources.iter().find_map(|source| of(source).clone()))
        };
        Ok(Settings {
            base_url: first(&self.base_url, |source| &source.base_url),
            account_id: first(&self.account_id, |source| &source.account_id),
            key_id,
            key_secret,
        })
    }

    /// A client with these settings.
    pub(crate) fn client(&self) -> Result<Client> {
        self.settings()?
            .builder()
            .build()
            .map_err(|error| Failure::new(chain(&error)).code(Code::Usage))
    }
}

impl Settings {
    fn builder(self) -> ClientBuilder {
        let mut builder = Client::builder()
            .api_key(self.key_id, self.key_secret)
            .user_agent(concat!("authpi-cli/", env!("CARGO_PKG_VERSION")));
        if let Some(base_url) = self.base_url {
            builder = builder.base_url(base_url);
        }
        if let Some(account_id) = self.account_id {
            builder = builder.account(account_id);
        }
        builder
    }
}

fn missing(what: &str, variable: &str, option: &str) -> Failure {
    Failure::usage(format!("{what} is missing: set {variable} or give {option}")).hint(
        "`authpi emulate` prints the variables of an emulator; `authpi profile add` saves a profile",
    )
}
