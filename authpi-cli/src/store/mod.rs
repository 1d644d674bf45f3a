//! The receiver's own store, opened for inspection: nothing is made, migrated or written.
//!
//! [`Store`] is any of them. What changes something opens the store a second time, as a receiver
//! does, but only after the inspection has found it complete.

mod change;
mod location;

use authpi_sdk::{
    ledger::{
        DeadLetter, EventKey,
        inspect::{
            Filter, InspectError, InspectErrorKind, Inspector, RecordPage, RecordView, Status,
        },
    },
    stores::{
        Nats, NatsInspector, Postgres, PostgresInspector, Redis, RedisInspector, Sqlite,
        SqliteInspector,
    },
};
use clap::Args;

pub(crate) use change::Change;
pub(crate) use location::Location;

use crate::{
    arguments::variable,
    failure::{Code, Failure, Result, chain},
    profile::{self, Profile, Profiles},
};

/// Where the store is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreOptions {
    /// The receiver's store: sqlite:FILE, or a postgres://, redis:// or nats:// URL without a
    /// password [env: AUTHPI_STORE, which may have a password] [default: the profile's]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,

    /// The ledger under a NATS store, in the same forms [env: AUTHPI_LEDGER]
    #[arg(long, value_name = "STORE")]
    ledger: Option<String>,

    /// Allow reading every key where the store has no index (Redis, NATS)
    #[arg(long)]
    scan: bool,
}

impl StoreOptions {
    /// The store, and the ledger under it if it is NATS.
    pub(crate) fn locations(&self) -> Result<(Location, Option<Location>)> {
        let environment = Profile {
            store: variable("AUTHPI_STORE")?,
            ledger: variable("AUTHPI_LEDGER")?,
            ..Profile::default()
        };
        let sources = match profile::chosen() {
            Some(name) => [Profiles::load()?.get(name)?, environment],
            None => [environment, Profiles::load()?.active().unwrap_or_default()],
        };
        let first = |given: &Option<String>, of: fn(&Profile) -> Option<&String>| {
            if let Some(given) = given {
                return Location::from_option(given).map(Some);
            }
            let text = sources.iter().find_map(of);
            text.map(|text| Location::parse(text)).transpose()
        };
        let store = first(&self.store, |profile| profile.store.as_ref())?.ok_or_else(|| {
            Failure::usage("the store is missing: give --store, or set AUTHPI_STORE")
                .hint("such as --store sqlite:hooks.db")
        })?;
        let ledger = first(&self.ledger, |profile| profile.ledger.as_ref())?;
        match (&store, &ledger) {
            (Location::Nats(_), None) => Err(Failure::usage(
                "a NATS store needs its ledger: give --ledger, or set AUTHPI_LEDGER",
            )),
            (Location::Nats(_), Some(Location::Nats(_))) => {
                Err(Failure::usage("the ledger under NATS is another store"))
            }
            (Location::Nats(_), Some(_)) => Ok((store, ledger)),
            _ => Ok((store, None)),
        }
    }

    /// Opens the store for inspection.
    pub(crate) async fn open(&self) -> Result<Store> {
        let (store, ledger) = self.locations()?;
        let (scan, shown) = (self.scan, store.shown());
        let opened = async {
            Ok::<_, InspectError>(match (&store, &ledger) {
                (Location::Nats(url), Some(ledger)) => match ledger {
                    Location::Sqlite(file) => {
                        let ledger = Sqlite::inspect(file).await?;
                        Store::NatsSqlite(Nats::inspect(url, ledger).await?.scan(scan))
                    }
                    Location::Redis(redis) => {
                        let ledger = Redis::inspect(redis).await?.scan(scan);
                        Store::NatsRedis(Nats::inspect(url, ledger).await?.scan(scan))
                    }
                    Location::Postgres(postgres) | Location::Nats(postgres) => {
                        let ledger = Postgres::inspect(postgres).await?;
                        Store::NatsPostgres(Nats::inspect(url, ledger).await?.scan(scan))
                    }
                },
                (Location::Sqlite(file), _) => Store::Sqlite(Sqlite::inspect(file).await?),
                (Location::Redis(url), _) => Store::Redis(Redis::inspect(url).await?.scan(scan)),
                (Location::Postgres(url) | Location::Nats(url), _) => {
                    Store::Postgres(Postgres::inspect(url).await?)
                }
            })
        };
        opened.await.map_err(|error| {
            let failure = Failure::from(error);
            failure.about(&shown)
        })
    }
}

/// Any store.
pub(crate) enum Store {
    Sqlite(SqliteInspector),
    Postgres(PostgresInspector),
    Redis(RedisInspector),
    NatsSqlite(NatsInspector<SqliteInspector>),
    NatsPostgres(NatsInspector<PostgresInspector>),
    NatsRedis(NatsInspector<RedisInspector>),
}

/// Calls a method of whichever store it is.
macro_rules! each {
    ($store:expr, $inspector:ident => $call:expr) => {
        match $store {
            Store::Sqlite($inspector) => $call,
            Store::Postgres($inspector) => $call,
            Store::Redis($inspector) => $call,
            Store::NatsSqlite($inspector) => $call,
            Store::NatsPostgres($inspector) => $call,
            Store::NatsRedis($inspector) => $call,
        }
    };
}

impl Store {
    /// The endpoint that a command is about: the named one, or the only one.
    pub(crate) async fn endpoint(&self, named: Option<&str>) -> Result<String> {
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        let endpoints = self
            .endpoints()
            .await
            .map_err(|failure| failure.hint("give --endpoint, or --scan to look for it"))?;
        match endpoints.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Failure::not_found("the store has no records")),
            several => Err(
                Failure::usage("the store has several endpoints").hint(format!(
                    "give --endpoint with one of {}",
                    several.join(", ")
                )),
            ),
        }
    }

    pub(crate) async fn endpoints(&self) -> Result<Vec<String>> {
        Ok(each!(self, store => store.endpoints().await)?)
    }

    pub(crate) async fn get(&self, key: &EventKey) -> Result<Option<RecordView>> {
        Ok(each!(self, store => store.get(key).await)?)
    }

    pub(crate) async fn dead_letter(&self, key: &EventKey) -> Result<Option<DeadLetter>> {
        Ok(each!(self, store => store.dead_letter(key).await)?)
    }

    pub(crate) async fn list(&self, filter: &Filter) -> Result<RecordPage> {
        Ok(each!(self, store => store.list(filter).await)?)
    }

    pub(crate) async fn status(&self, endpoint: &str) -> Result<Status> {
        Ok(each!(self, store => store.status(endpoint).await)?)
    }
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        let failure = Self::new(chain(&error));
        match error.kind() {
            InspectErrorKind::Missing => failure.code(Code::NotFound),
            InspectErrorKind::Denied => failure.code(Code::NotAuthorized),
            InspectErrorKind::NeedsScan => failure.code(Code::Usage).hint("give --scan"),
            InspectErrorKind::InvalidCursor => failure.code(Code::Usage),
            _ => failure,
        }
    }
}
