//! SDK

pub mod event;
mod generated;
pub mod handlers;
pub mod ledger;
pub mod receiver;
pub mod signature;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time;

pub use handlers::Result;
pub use time::{Clock, UnixMillis};
