//! The HTTP client of deliveries, and the hosts that it may send to.

mod broken;
mod hosts;
mod send;

pub(crate) use broken::Broken;
pub(crate) use hosts::Hosts;
pub(crate) use send::{Answered, Outgoing, Sender};
