//! The outcome of deliveries that are sent again.
//!
//! [`Webhooks::redeliver_failed`](crate::client::Webhooks::redeliver_failed) asks AuthPI to send
//! failed deliveries again. [`Track`] does so too, and then polls each of them until it has ended.
//! [`DeliveryOutcome`] waits for one delivery.
//!
//! AuthPI has no call for a single delivery, so both read the list of deliveries, filtered by time.
//! The meaning of a delivery's status is assumed. An unknown status counts as ended if no further
//! attempt is planned.

mod end;
mod outcome;
mod track;

pub use outcome::{DeliveryOutcome, DeliveryRef};
pub use track::{RedeliveryProgress, Track};

use std::time::Duration;

/// The default time limit of [`Track`] and [`DeliveryOutcome`].
pub const DEFAULT_TRACK_FOR: Duration = Duration::from_mins(5);

/// The first pause between polls. It doubles with each poll up to the maximum, and each pause is a
/// random part of it.
const BACKOFF_INITIAL: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
