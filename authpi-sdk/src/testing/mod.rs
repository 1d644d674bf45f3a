//! Helpers for tests of code that uses this SDK: signed or verified deliveries of every event type,
//! and a clock that a test controls.
//!
//! ```
//! use authpi_sdk::event::types::UserCreated;
//! use authpi_sdk::signature::{KeyRing, SignatureScheme, Verifier};
//! use authpi_sdk::testing::Fixture;
//!
//! let delivery = Fixture::of::<UserCreated>().id("evt_1").subject("user_id", "usr_1");
//! let request = delivery.request(&SignatureScheme::authpi(), &"whs_test".into()).unwrap();
//!
//! let verifier = Verifier::authpi(KeyRing::new().with("test", "whs_test"));
//! let verified = verifier.verify(request.headers(), delivery.body()).unwrap();
//! assert_eq!(verified.event().unwrap().subject().user_id(), Some("usr_1"));
//! ```

mod clock;
mod fixture;
mod recording;

pub use clock::ManualClock;
pub use fixture::{Fixture, fixture, signed_request};
pub use recording::{RecordedAnswer, Recording, RecordingError};
