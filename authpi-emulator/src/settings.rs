//! The settings of an emulator.

use std::time::Duration;

use authpi_sdk::signature::SignatureScheme;

use crate::{log::Log, outgoing::Hosts};

/// Set by [`Builder`](crate::Builder).
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) retry_delays: Vec<Duration>,
    pub(crate) delivery_timeout: Duration,
    pub(crate) failing_after: u32,
    pub(crate) keep: usize,
    pub(crate) max_pending: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) hosts: Hosts,
    pub(crate) log: Log,
    pub(crate) scheme: SignatureScheme,
    /// Whether a receiver's `Retry-After` replaces the next delay.
    pub(crate) honor_retry_after: bool,
}

impl Settings {
    /// The first attempt, and one after each delay.
    pub(crate) fn attempt_budget(&self) -> u32 {
        u32::try_from(self.retry_delays.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }
}
