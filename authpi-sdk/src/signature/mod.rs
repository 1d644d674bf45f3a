//! Verifies that a delivery comes from AuthPI, without I/O.
//!
//! [`Verifier::begin`] reads the headers, [`Verifying::update`] hashes each frame of the body as it
//! arrives, and [`Verifying::finish`] returns a [`Verified`] body or the reason for the refusal.
//! [`Verifier::verify`] does all three for a complete body. Receivers, handlers and ledger keys
//! only accept [`Verified`] values.
//!
//! # What is known, and what is assumed
//!
//! AuthPI documents the header `X-Webhook-Signature`, HMAC-SHA256, and a secret `whs_…` that is
//! shown once. It does not document which bytes are signed, nor how the header is written. So a
//! [`SignatureScheme`] is a value, and the assumption is in one place, [`SignatureScheme::authpi`]:
//! the HMAC of the raw body with the whole secret as the key, in hex or base64. [`diagnose`] checks
//! it with one captured delivery: it tries every combination, and prints the scheme that matches as
//! a line of Rust.

mod diagnose;
mod key_ring;
mod scheme;
mod secret;
mod verified;
mod verifier;

pub use diagnose::{Diagnosis, diagnose};
pub use key_ring::{KeyRing, KeyRingError, MAX_KEYS};
pub use scheme::{
    Encoding, HeaderFormat, KeyEncoding, SignError, SignatureScheme, SignedContent, TimeUnit,
    UnknownScheme,
};
pub use secret::{Secret, SecretError};
pub use verified::Verified;
pub(crate) use verifier::FIRST_BUFFER;
pub use verifier::{DEFAULT_MAX_BODY, Verifier, VerifyError, Verifying};
