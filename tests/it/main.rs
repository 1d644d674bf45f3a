//! The integration suite: one binary, a module per subject.

mod answers;
mod client;
mod copies;
mod crash;
mod disk;
mod docs;
mod drivers;
mod emulator;
mod events;
mod flood;
mod golden;
mod handlers;
mod inbox;
mod inspector;
mod layering;
mod ledger;
mod over_http;
mod prism;
mod reconcile;
mod regressions;
mod servers;
mod standard_webhooks;
mod support;
mod telemetry;
mod transactions;
mod types;
