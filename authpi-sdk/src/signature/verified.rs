use std::{fmt, ops::Deref, sync::Arc};

use bytes::Bytes;

use crate::event::{Event, ParseError};

/// Something that came in a delivery whose authenticity was proven. Only a
/// [`Verifier`](super::Verifier) makes one.
///
/// (With the feature `testing`, `testing::fixture` does too, so that handlers can be tested without
/// HTTP.)
#[derive(Clone)]
pub struct Verified<T> {
    value: T,
    key: Option<Arc<str>>,
}

impl<T> Verified<T> {
    pub(crate) fn new(value: T, key: Option<Arc<str>>) -> Self {
        Self { value, key }
    }

    /// The name of the secret that matched: of the signature where there is one, else of the bearer
    /// token; none where no authentication was asked for.
    pub fn key_name(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The value, without the proof.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl Verified<Bytes> {
    /// Reads the event in the verified body; see [`Event::from_json`].
    ///
    /// # Errors
    /// When the body is not a readable event. The error names the place, never the content.
    pub fn event(&self) -> Result<Verified<Event>, ParseError> {
        Event::from_json(self.value.clone()).map(|event| Verified::new(event, self.key.clone()))
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> fmt::Debug for Verified<T> {
    /// Leaves the value out: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
