//! The store, opened as a receiver opens it, for commands that change something.

use authpi_sdk::{
    ledger::{DeadLetter, EventKey, Ledger as _, LedgerError},
    stores::{Nats, Postgres, Redis, Sqlite},
};

use super::{Location, Store, StoreOptions};
use crate::failure::{Failure, Result};

/// A store that can be changed.
pub(crate) enum Change {
    Sqlite(Sqlite),
    Postgres(Postgres),
    Redis(Redis),
    NatsSqlite(Nats<Sqlite>),
    NatsPostgres(Nats<Postgres>),
    NatsRedis(Nats<Redis>),
}

impl StoreOptions {
    /// Opens the store for a change, after its inspection, so that nothing is made or migrated.
    pub(crate) async fn open_to_change(&self, _inspected: &Store) -> Result<Change> {
        let (store, ledger) = self.locations()?;
        let opened = async {
            Ok::<_, LedgerError>(match (&store, &ledger) {
                (Location::Nats(url), Some(ledger)) => match ledger {
                    Location::Sqlite(file) => {
                        Change::NatsSqlite(Nats::connect(url, Sqlite::open(file).await?).await?)
                    }
                    Location::Redis(redis) => {
                        Change::NatsRedis(Nats::connect(url, Redis::connect(redis).await?).await?)
                    }
                    Location::Postgres(postgres) | Location::Nats(postgres) => {
                        let ledger = Postgres::connect(postgres).await?;
                        Change::NatsPostgres(Nats::connect(url, ledger).await?)
                    }
                },
                (Location::Sqlite(file), _) => Change::Sqlite(Sqlite::open(file).await?),
                (Location::Redis(url), _) => Change::Redis(Redis::connect(url).await?),
                (Location::Postgres(url) | Location::Nats(url), _) => {
                    Change::Postgres(Postgres::connect(url).await?)
                }
            })
        };
        opened
            .await
            .map_err(|error| Failure::from(error).about(&store.shown()))
    }
}

/// Calls a method of whichever store it is.
macro_rules! each {
    ($change:expr, $store:ident => $call:expr) => {
        match $change {
            Change::Sqlite($store) => $call,
            Change::Postgres($store) => $call,
            Change::Redis($store) => $call,
            Change::NatsSqlite($store) => $call,
            Change::NatsPostgres($store) => $call,
            Change::NatsRedis($store) => $call,
        }
    };
}

/// The same for stores that keep dead letters.
macro_rules! each_with_dead_letters {
    ($change:expr, $store:ident => $call:expr) => {
        match $change {
            Change::Sqlite($store) => $call,
            Change::Postgres($store) => $call,
            Change::NatsSqlite($store) => $call,
            Change::NatsPostgres($store) => $call,
            Change::NatsRedis($store) => $call,
            Change::Redis(_) => {
                return Err(Failure::new("Redis keeps no dead letters")
                    .hint("an event that was given up there is only remembered as dead"));
            }
        }
    };
}

impl Change {
    pub(crate) async fn forget(&self, key: &EventKey) -> Result<bool> {
        Ok(each!(self, store => store.forget(key).await)?)
    }

    pub(crate) async fn dead_letters(
        &self,
        endpoint: &str,
        after: Option<&DeadLetter>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>> {
        Ok(
            each_with_dead_letters!(self, store => store.dead_letters(endpoint, after, limit).await)?,
        )
    }

    pub(crate) async fn replay(&self, key: &EventKey) -> Result<bool> {
        Ok(each_with_dead_letters!(self, store => store.replay(key).await)?)
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self::new(crate::failure::chain(&error))
    }
}
