#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
#[cfg(feature = "client")]
pub mod client;
mod crash;
#[cfg(feature = "client")]
pub mod endpoint;
pub mod event;
#[cfg(feature = "client")]
mod files;
mod generated;
#[cfg(all(
    any(doc, doctest),
    feature = "client",
    feature = "postgres",
    feature = "nats"
))]
pub mod guide;
pub mod handlers;
mod hex;
mod json;
pub mod ledger;
mod macros;
pub mod receiver;
#[cfg(feature = "client")]
pub mod reconcile;
pub mod signature;
pub mod stores;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time;
#[cfg(feature = "unstable")]
pub mod unstable;
pub mod worker;

#[cfg(feature = "client")]
pub use client::Client;
pub use event::{Event, EventType};
pub use handlers::{Context, HandlerError, HandlerResult, Handlers};
pub use json::RawJson;
pub use receiver::Receiver;
pub use signature::{KeyRing, Secret, Verifier};
pub use time::{Clock, UnixMillis};
pub use worker::Worker;
