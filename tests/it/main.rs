//! The integration suite: one binary, a module per subject.

mod answers;
mod client;
mod copies;
mod crash;
mod disk;
mod emulator;
mod events;
mod flood;
mod floors;
mod golden;
mod handlers;
mod inbox;
mod ledger;
mod mistakes;
mod over_http;
mod prism;
mod reconcile;
mod servers;
mod standard_webhooks;
mod stores;
mod telemetry;
mod transactions;
mod types;
