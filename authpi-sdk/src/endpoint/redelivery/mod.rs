//! What becomes of deliveries that are sent again.
//!
//! [`Webhooks::redeliver_failed`](crate::client::Webhooks::redeliver_failed) asks AuthPI to send
//! what failed; [`Track`] asks too, and then looks at each of those deliveries until it is over
//! (`track.rs`). [`DeliveryOutcome`] waits for one delivery (`outcome.rs`).
//!
//! AuthPI has no call that gives one delivery, so both look through the list of deliveries,
//! narrowed down by time. How a delivery's status reads is assumed; one that this version does not
//! know counts as over when no further attempt is planned.

mod delivery_ref;
mod outcome;
mod track;

pub use outcome::{DeliveryOutcome, DeliveryRef};
pub use track::{RedeliveryProgress, Track};

use std::time::Duration;

/// How long to look at most, unless told otherwise.
pub const DEFAULT_TRACK_FOR: Duration = Duration::from_mins(5);

/// The first pause between looks; doubled from look to look, up to the longest, and each a random
/// part of it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
