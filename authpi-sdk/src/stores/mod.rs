//! Stores: where records and the events of an inbox are kept.
//!
//! [`Memory`] needs no setup and is lost at exit; `Sqlite` (feature `sqlite`) keeps records and
//! dead letters in a file. Replicas on several hosts can share `Postgres` (feature `postgres`),
//! which keeps dead letters too, or `Redis` (feature `redis`). `Nats` (feature `nats`) adds an
//! inbox in NATS JetStream to any of them. Any implementation of [`Ledger`](crate::ledger::Ledger)
//! that passes the conformance suite (feature `testing`) works as well.
//!
//! `SqliteInspector`, `PostgresInspector`, `RedisInspector` and `NatsInspector` read a store
//! without changing it: [`ledger::inspect`](crate::ledger::inspect).

#[cfg(any(
    feature = "sqlite",
    feature = "postgres",
    feature = "redis",
    feature = "nats"
))]
mod inspect;
mod memory;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "redis", feature = "nats"))]
mod timeout;

pub use memory::Memory;
#[cfg(feature = "nats")]
pub use nats::{Nats, NatsInspector, NatsOptions};
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresInspector, PostgresOptions, PostgresTransaction};
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisConnection, RedisInspector, RedisOptions};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteInspector, SqliteOptions, SqliteTransaction};
