//! Events: the CloudEvents [`Envelope`] of a delivery, and AuthPI's [`Event`] in it.
//!
//! The envelope is read strictly, the payload leniently. [`Event::from_json`] reads only what
//! routing needs (id, type, subject, time) and keeps every byte. `data` stays raw until
//! [`Event::data`] or [`Event::decode`] reads it. The members of `data` are deduced from AuthPI's
//! API, not documented: a member with an unexpected type goes to [`Extra`], is logged and counted,
//! and the event is still handled ([`Event::strict_payload`] makes it an error).
//!
//! A lone surrogate (`"\ud83d"`, which JavaScript writes if a text was cut within an emoji) is not
//! valid text in Rust. It is read as U+FFFD; the delivered bytes are kept unchanged.
//!
//! [`EventType`] is open: an event type that this version does not know is received, routed and
//! kept byte for byte like any other. The argument of a handler names the event type:
//! `Event<UserCreated>`, with a marker of [`types`], or plain `Event` for all types.
//!
//! The [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/handling_events/) describes how
//! handlers deal with duplicates, order and payloads.

mod envelope;
mod error;
pub(crate) mod extra;
mod mismatch;
mod subject;

use std::{
    fmt,
    marker::PhantomData,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::value::RawValue;

pub use self::{
    envelope::{Envelope, is_batch},
    error::{DataError, ParseError},
    extra::Extra,
    subject::Subject,
};
pub use crate::generated::events::{EventData, EventType, UnknownEventType, payload, types};
use crate::json;

impl EventType {
    /// The type's name with a `'static` lifetime; `None` for an unknown type.
    pub(crate) fn known_name(&self) -> Option<&'static str> {
        let known = Self::ALL.iter().find(|known| *known == self)?;
        Some(known.as_str())
    }
}

/// The type parameter of [`Event`]: a marker of [`types`], or [`AnyEvent`].
pub trait EventKind: Send + Sync + 'static {}

/// An event type that this version of the SDK knows; implemented by the markers of [`types`].
pub trait KnownEvent: EventKind {
    /// The type's name.
    const TYPE: EventType;
    /// The type of its `data`, as far as it could be deduced.
    type Data: DeserializeOwned + Serialize + Send + 'static;

    /// Reads `data` as [`Self::Data`]. The markers of [`types`] do this without serde's data model,
    /// which is faster.
    #[doc(hidden)]
    fn read(data: &str) -> Result<Self::Data, serde_json::Error> {
        json::read(data)
    }

    /// The members of `data` that are in no field, if the type keeps them.
    #[doc(hidden)]
    fn extra(_data: &Self::Data) -> Option<&Extra> {
        None
    }
}

/// An event of any type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyEvent {}

impl EventKind for AnyEvent {}

/// One AuthPI event as it was delivered. Cheap to clone; keeps every byte.
pub struct Event<K: EventKind = AnyEvent> {
    inner: Arc<Inner>,
    strict: bool,
    kind: PhantomData<fn() -> K>,
}

struct Inner {
    /// The whole delivery. It is valid UTF-8.
    body: Bytes,
    /// The position of AuthPI's event in it.
    event: Range<usize>,
    /// The position of the event's `data`.
    data: Option<Range<usize>>,
    envelope: Option<Envelope>,
    id: Arc<str>,
    event_type: EventType,
    subject: Subject,
    trace: Option<Text>,
    source: Option<Text>,
    time: Timestamp,
    /// Whether members without the deduced shape were reported.
    reported: AtomicBool,
}

/// A string of the event: its position in the body, or the decoded text if it contains escapes.
enum Text {
    At(Range<usize>),
    Decoded(String),
}

impl Event {
    /// Reads the body of a delivery: a CloudEvents 1.0 envelope in structured mode, or the event
    /// alone (binary mode).
    ///
    /// The member `specversion` of the body distinguishes the two, so the result does not depend on
    /// headers, which the signature does not cover. `data` stays raw.
    ///
    /// # Errors
    /// When the body is not UTF-8 or not JSON, when it is a batch (see
    /// [`from_batch`](Self::from_batch)), or when a member that routing needs is missing or has the
    /// wrong shape. The error names the member's path and never contains content.
    pub fn from_json(body: impl Into<Bytes>) -> Result<Self, ParseError> {
        envelope::read(&body.into()).map(Self::new)
    }

    /// Reads a batch (`application/cloudevents-batch+json`): a JSON array of envelopes.
    ///
    /// AuthPI is not known to send batches. To a receiver, a batch is not a readable event.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json); the path begins with the index in the array.
    pub fn from_batch(body: impl Into<Bytes>) -> Result<Vec<Self>, ParseError> {
        Ok(envelope::read_batch(&body.into())?
            .into_iter()
            .map(Self::new)
            .collect())
    }

    fn new(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
            strict: false,
            kind: PhantomData,
        }
    }

    /// The event as one of type `K`.
    ///
    /// # Errors
    /// Returns the event unchanged if it has another type.
    pub fn downcast<K: KnownEvent>(self) -> Result<Event<K>, Self> {
        if self.inner.event_type == K::TYPE {
            Ok(self.assume_kind())
        } else {
            Err(self)
        }
    }

    pub(crate) fn assume_kind<K: EventKind>(self) -> Event<K> {
        Event {
            inner: self.inner,
            strict: self.strict,
            kind: PhantomData,
        }
    }
}

impl<K: EventKind> Event<K> {
    /// AuthPI's id of the event (`evt_…`), the same in every delivery of it.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    pub(crate) fn shared_id(&self) -> Arc<str> {
        self.inner.id.clone()
    }

    /// The event's type.
    pub fn event_type(&self) -> &EventType {
        &self.inner.event_type
    }

    /// The subject of the event, such as the user.
    pub fn subject(&self) -> &Subject {
        &self.inner.subject
    }

    /// When the event happened: its own `timestamp` if it has one (as in AuthPI's event log),
    /// otherwise the envelope's `time`.
    ///
    /// Deliveries arrive in any order. Compare this time, so that an older event does not overwrite
    /// what a newer one has written. The
    /// [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/handling_events/) shows how.
    pub fn time(&self) -> Timestamp {
        self.inner.time
    }

    /// When the delivery was made, according to the body: the envelope's `time`, otherwise
    /// [`time`](Self::time).
    pub fn delivered_at(&self) -> Timestamp {
        self.inner
            .envelope
            .as_ref()
            .and_then(Envelope::time)
            .unwrap_or(self.inner.time)
    }

    /// AuthPI's trace id, if any.
    pub fn trace(&self) -> Option<&str> {
        self.inner.trace.as_ref().map(|text| self.inner.text(text))
    }

    /// The part of AuthPI that sent the event (`com.authpi/v1`), if any.
    pub fn source(&self) -> Option<&str> {
        self.inner.source.as_ref().map(|text| self.inner.text(text))
    }

    /// The envelope; `None` in binary mode, where its attributes are headers that the signature
    /// does not cover.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.inner.envelope.as_ref()
    }

    /// The event's JSON, byte for byte as delivered.
    pub fn raw(&self) -> &str {
        self.inner.slice(&self.inner.event)
    }

    pub(crate) fn raw_bytes(&self) -> &[u8] {
        &self.inner.body[self.inner.event.clone()]
    }

    /// The JSON of `data`, byte for byte, if any.
    pub fn raw_data(&self) -> Option<&str> {
        self.inner
            .data
            .as_ref()
            .map(|range| self.inner.slice(range))
    }

    /// The whole delivery, byte for byte. For an event of a batch, the event's part of the batch.
    pub fn body(&self) -> &Bytes {
        &self.inner.body
    }

    /// `data` as a type of your own. A lone surrogate (`"\ud83d"`, half of a cut emoji) is read as
    /// U+FFFD.
    ///
    /// # Errors
    /// When `data` does not have that shape. An event without `data` is read as `{}`.
    /// [`DataError::path`] names the member.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        let data = self.raw_data().unwrap_or("{}");
        json::read(data).map_err(|error| DataError::locate::<T>(data, &error))
    }

    /// `data` as the payload of the event's type.
    ///
    /// # Errors
    /// When `data` is not a JSON object, or as [`strict_payload`](Self::strict_payload) says.
    pub fn decode(&self) -> Result<EventData, DataError> {
        let data = self.read_data(|data| EventData::read(self.event_type(), data))?;
        self.check(data.extra())?;
        Ok(data)
    }

    /// The members of `data` that do not have the deduced shape. Their fields are `None`, and
    /// [`Extra`] has their values.
    ///
    /// This reads the payload. The list is empty if this version does not know the event type, or
    /// if `data` is not a JSON object, which is an error of [`decode`](Self::decode).
    pub fn mismatched(&self) -> Vec<&'static str> {
        let data = self.read_data(|data| EventData::read(self.event_type(), data));
        let Ok(data) = &data else { return Vec::new() };
        let extra = data.extra().into_iter();
        extra
            .flat_map(|extra| mismatch::members(self.event_type(), extra))
            .map(|(member, _)| member)
            .collect()
    }

    /// The same event, whose `data` and [`decode`](Self::decode) fail if a member does not have the
    /// deduced shape. [`DataError::path`] names the first one.
    ///
    /// Without it, such a member is logged and counted (`authpi_payload_mismatch_total`), and its
    /// field is `None`. [`Handlers::strict_payloads`](crate::handlers::Handlers::strict_payloads)
    /// does this for all events of a receiver or worker.
    #[must_use]
    pub fn strict_payload(self) -> Self {
        Self {
            strict: true,
            ..self
        }
    }

    /// Reports members without the deduced shape: once per delivery, however often it is read.
    fn check(&self, extra: Option<&Extra>) -> Result<(), DataError> {
        match extra {
            Some(extra) if extra.mismatched() > 0 => self.mismatch(extra),
            _ => Ok(()),
        }
    }

    #[cold]
    fn mismatch(&self, extra: &Extra) -> Result<(), DataError> {
        let event_type = self.event_type();
        if !self.inner.reported.swap(true, Ordering::Relaxed) {
            mismatch::report(event_type, extra);
        }
        match mismatch::members(event_type, extra).next() {
            Some((member, _)) if self.strict => Err(DataError::mismatched(member)),
            _ => Ok(()),
        }
    }

    fn read_data<T>(
        &self,
        read: impl FnOnce(&str) -> Result<T, serde_json::Error>,
    ) -> Result<T, DataError> {
        read(self.raw_data().unwrap_or("{}")).map_err(|error| DataError::new(&error))
    }

    /// The same event as an event of any type.
    pub fn into_any(self) -> Event {
        Event {
            inner: self.inner,
            strict: self.strict,
            kind: PhantomData,
        }
    }
}

impl<K: KnownEvent> Event<K> {
    /// The payload, as far as its members could be deduced. Other members are in its `extra`.
    ///
    /// # Errors
    /// When `data` is not a JSON object. A member with an unexpected type is not an error (see
    /// [`Extra`]), unless [`strict_payload`](Self::strict_payload) makes it one.
    pub fn data(&self) -> Result<K::Data, DataError> {
        let data = self.read_data(K::read)?;
        self.check(K::extra(&data))?;
        Ok(data)
    }
}

impl Inner {
    fn text<'a>(&'a self, text: &'a Text) -> &'a str {
        match text {
            Text::At(range) => self.slice(range),
            Text::Decoded(text) => text,
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "ranges come from the parser, which has checked that the body is UTF-8"
    )]
    fn slice(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.body[range.clone()])
            .expect("the body was checked to be UTF-8 when it was parsed")
    }
}

impl<K: EventKind> Clone for Event<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            strict: self.strict,
            kind: PhantomData,
        }
    }
}

impl<K: EventKind> Serialize for Event<K> {
    /// Writes the whole delivery, byte for byte without surrounding white space.
    /// [`Event::from_json`] and [`Deserialize`] read it back.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = 0..self.inner.body.len();
        let raw: &RawValue =
            serde_json::from_str(self.inner.slice(&whole)).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    /// Reads the JSON that [`Serialize`] writes. Works with JSON only, since the bytes are kept.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body: Box<str> = Box::<RawValue>::deserialize(deserializer)?.into();
        Self::from_json(String::from(body)).map_err(D::Error::custom)
    }
}

impl<K: EventKind> fmt::Debug for Event<K> {
    /// Omits `data`: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.inner.id)
            .field("type", &self.inner.event_type)
            .field("time", &self.inner.time)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
