//! `authpi profile`: saved settings.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    arguments::variable,
    failure::{Failure, Result},
    output::{Output, Record},
    profile::{Profile, Profiles},
    secret,
    store::Location,
};

/// Save connection settings under a name.
///
/// They are in ~/.config/authpi/config.toml (or in the file that AUTHPI_CONFIG names), which only
/// its owner can read, since it contains the secrets of the API keys.
#[derive(Subcommand)]
pub(crate) enum Command {
    Add(Add),
    List(List),
    Use(Use),
}

/// Add a profile, or replace the one with this name.
#[derive(Args)]
#[command(
    after_help = "Example:\n  authpi profile add dev --key-id key_1 --key-secret-file key.txt"
)]
pub(crate) struct Add {
    /// The profile's name
    name: String,

    /// The address of the API. Default: AuthPI's
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,

    /// The account. Default: the only one of the key
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,

    /// The id of the API key
    #[arg(long, value_name = "ID")]
    key_id: String,

    /// A file with the secret of the API key, or - for standard input. Default: the environment
    /// variable AUTHPI_KEY_SECRET
    #[arg(long, value_name = "FILE")]
    key_secret_file: Option<PathBuf>,

    /// The receiver's store, for `authpi store`, without a password. Default: the environment
    /// variable AUTHPI_STORE, if it is set, which may have a password
    #[arg(long, value_name = "STORE")]
    store: Option<String>,

    /// The ledger under a NATS store. Default: the environment variable AUTHPI_LEDGER
    #[arg(long, value_name = "STORE")]
    ledger: Option<String>,
}

/// List the profiles, without secrets.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi profile list")]
pub(crate) struct List {}

/// Use this profile from now on, if no other is named.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi profile use dev")]
pub(crate) struct Use {
    /// The profile's name
    name: String,
}

/// A line of the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    active: bool,
    base_url: Option<String>,
    account_id: Option<String>,
    key_id: Option<String>,
}

impl Record for Listed {
    const COLUMNS: &[&str] = &["name", "active", "base_url", "account", "key"];

    fn cells(&self) -> Vec<String> {
        let text = |member: &Option<String>| member.clone().unwrap_or_default();
        vec![
            self.name.clone(),
            if self.active { "yes" } else { "" }.to_owned(),
            text(&self.base_url),
            text(&self.account_id),
            text(&self.key_id),
        ]
    }
}

impl Command {
    pub(crate) fn run(self, output: Output) -> Result {
        match self {
            Self::Add(add) => add.run(output),
            Self::List(List {}) => list(output),
            Self::Use(Use { name }) => {
                Profiles::load()?.activate(&name)?;
                output.note(&format!("{name} is the active profile"));
                Ok(())
            }
        }
    }
}

impl Add {
    fn run(self, output: Output) -> Result {
        let secret = match &self.key_secret_file {
            Some(file) => secret::read(file)?.expose().to_owned(),
            None => variable("AUTHPI_KEY_SECRET")?.ok_or_else(|| {
                Failure::usage("the secret of the API key is missing")
                    .hint("give --key-secret-file, or set AUTHPI_KEY_SECRET")
            })?,
        };
        for store in self.store.iter().chain(&self.ledger) {
            Location::from_option(store)?;
        }
        let profile = Profile {
            base_url: self.base_url,
            account_id: self.account_id,
            key_id: Some(self.key_id),
            key_secret: Some(secret),
            // An address from the environment may contain a password; one from an option was
            // refused above.
            store: self.store.or(variable("AUTHPI_STORE")?),
            ledger: self.ledger.or(variable("AUTHPI_LEDGER")?),
        };
        Profiles::load()?.add(&self.name, profile)?;
        output.note(&format!("saved the profile {}", self.name));
        Ok(())
    }
}

fn list(output: Output) -> Result {
    let profiles = Profiles::load()?;
    let mut list = output.list();
    for (name, profile) in profiles.iter() {
        list.push(Listed {
            name: name.to_owned(),
            active: profiles.active_name() == Some(name),
            base_url: profile.base_url.clone(),
            account_id: profile.account_id.clone(),
            key_id: profile.key_id.clone(),
        })?;
    }
    list.finish()
}
