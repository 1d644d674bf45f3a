//! The Rust SDK for AuthPI webhooks.

pub mod ledger;
mod time;

pub use time::{Clock, UnixMillis};
