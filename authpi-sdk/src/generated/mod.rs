//! Code that follows from the description in `openapi/`; `cargo xtask codegen` writes all of it but this file.
//!
//! Private: users see it through `event` (types and payloads) and `client` (the facade).

#![allow(clippy::all, clippy::pedantic, dead_code, unreachable_pub, unused_mut, reason = "written by a generator")]

#[cfg(feature = "client")]
pub(crate) mod api;
pub(crate) mod events;
