//! The integration suite: one binary, a module per subject.

mod answers;
mod golden;
mod ledger;
mod over_http;
