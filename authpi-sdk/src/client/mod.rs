//! The typed client.

mod connection;
mod patch;

pub use connection::Connection;
pub use patch::Patch;
