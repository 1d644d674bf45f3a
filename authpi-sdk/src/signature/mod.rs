//! Is this delivery really AuthPI's? Verification without I/O.
//!
//! [`Verifier::begin`] reads the headers, [`Verifying::update`] hashes each frame of the body as it
//! arrives, and [`Verifying::finish`] hands out a [`Verified`] body or the reason why not. Every
//! framework is a loop around these three, and [`Verifier::verify`] is that loop for a body that is
//! there already. Nobody but the verifier makes a [`Verified`] value, and handlers, ledger keys and
//! logs take nothing else.
//!
//! # What is known, and what is assumed
//!
//! AuthPI documents the header `X-Webhook-Signature`, HMAC-SHA256, and a secret `whs_…` that is
//! shown once. What exactly is signed, and how the header writes it, is not documented. So a
//! [`SignatureScheme`] is a value, and [`SignatureScheme::authpi`] is the one place that holds our
//! assumption: the HMAC of the raw body under the whole secret, in hex or base64. [`diagnose`]
//! settles it with one captured delivery: it tries every combination and prints the scheme that
//! fits as a line of Rust to paste.

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
