//! Written by `cargo xtask codegen`.
pub(crate) mod events;
