use std::{fmt, ops::Deref, sync::Arc};

use bytes::Bytes;

use crate::event::{Event, ParseError};

/// Content that is known to be authentic. A [`Verifier`](super::Verifier) creates it from a
/// delivery. The SDK also creates it for events from AuthPI's log and from dead letters.
///
/// With the feature `testing`, `testing::fixture` creates it too, so that handlers can be tested
/// without HTTP.
#[derive(Clone)]
pub struct Verified<T> {
    value: T,
    key: Option<Arc<str>>,
}

impl<T> Verified<T> {
    pub(crate) fn new(value: T, key: Option<Arc<str>>) -> Self {
        Self { value, key }
    }

    /// The name of the secret that matched: that of the signature if one was verified, otherwise
    /// that of the bearer token. `None` if no authentication was required, or if the value did not
    /// come as a delivery.
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
    /// When the body is not a readable event. The error names the path, never the content.
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
    /// Omits the value: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
