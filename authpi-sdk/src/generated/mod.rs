//! Code that follows from the description in `openapi/`: `cargo xtask codegen` writes `api.rs` and
//! `events.rs`.
//!
//! Private: users see it through `event` (types and payloads) and `client` (the facade).

// What is generated is for the facade, which need not use all of it.
#![allow(
    clippy::all,
    clippy::pedantic,
    dead_code,
    unreachable_pub,
    unused_mut,
    reason = "written by a generator"
)]

#[cfg(feature = "client")]
pub(crate) mod api;
pub(crate) mod events;

#[cfg(test)]
mod tests;
