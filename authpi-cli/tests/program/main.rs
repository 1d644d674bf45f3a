//! The `authpi` program, run as a process.

mod deliveries;
mod emulate;
mod events;
mod faults;
mod listen;
mod output;
mod profiles;
mod recordings;
mod signatures;
mod state;
mod store;
mod support;
mod trigger;
mod webhooks;
