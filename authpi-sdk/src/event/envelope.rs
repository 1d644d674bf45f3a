use std::{borrow::Cow, fmt, ops::Range, sync::atomic::AtomicBool};

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{EventType, Inner, ParseError, Text};
use crate::{
    UnixMillis,
    json::{self, Raw},
    time::rfc3339,
};

/// The CloudEvents attributes of one delivery.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The id, the source and the type, in one allocation.
    text: Box<str>,
    source_at: usize,
    type_at: usize,
    time: Option<Timestamp>,
}

impl Envelope {
    fn new(id: &str, source: &str, event_type: &str, time: Option<Timestamp>) -> Self {
        Self {
            text: [id, source, event_type].concat().into_boxed_str(),
            source_at: id.len(),
            type_at: id.len() + source.len(),
            time,
        }
    }

    /// Reads the attributes of a structured delivery, without `data`. Useful for routing.
    ///
    /// # Errors
    /// When the body is not a CloudEvents 1.0 envelope in JSON.
    pub fn from_json(body: &[u8]) -> Result<Self, ParseError> {
        fn read(text: &str) -> Result<Envelope, ParseError> {
            parse::<Wire<'_>>(text, "")?.envelope("")
        }
        let text = utf8(body)?;
        read(text).or_else(|error| {
            json::without_lone_surrogates(text).map_or(Err(error), |repaired| read(&repaired))
        })
    }

    /// Reads the `ce-*` headers of a delivery in binary mode.
    ///
    /// The signature does not cover them, so use them for logs only.
    ///
    /// # Errors
    /// When an attribute is missing or cannot be read.
    pub fn from_unsigned_headers(headers: &HeaderMap) -> Result<Self, ParseError> {
        let optional = |name: &'static str| {
            let text = headers
                .get(name)
                .map(|value| value.to_str().map(str::to_owned))
                .transpose();
            text.map_err(|_| ParseError::wrong(name, "visible ASCII"))
        };
        let required = |name| optional(name)?.ok_or_else(|| ParseError::missing(name));
        if required("ce-specversion")? != "1.0" {
            return Err(ParseError::wrong("ce-specversion", "1.0"));
        }
        let time = optional("ce-time")?.map(|text| rfc3339(&text)).transpose();
        Ok(Self::new(
            &required("ce-id")?,
            &required("ce-source")?,
            &required("ce-type")?,
            time.map_err(|_| ParseError::wrong("ce-time", "an RFC 3339 time"))?,
        ))
    }

    /// The envelope's own id, which differs from the event's.
    pub fn id(&self) -> &str {
        &self.text[..self.source_at]
    }

    /// The source of the delivery: `com.authpi.webhooks/v1/<webhook id>` in AuthPI's guide.
    pub fn source(&self) -> &str {
        &self.text[self.source_at..self.type_at]
    }

    /// The id of the webhook, if the source has the form of AuthPI's guide.
    pub fn webhook_id(&self) -> Option<&str> {
        self.source()
            .strip_prefix("com.authpi.webhooks/v1/")
            .filter(|id| !id.is_empty() && !id.contains('/'))
    }

    /// The envelope's `type`: `event` in AuthPI's guide. The type of the event is
    /// [`Event::event_type`](super::Event::event_type).
    pub fn envelope_type(&self) -> &str {
        &self.text[self.type_at..]
    }

    /// The envelope's `time`, if any.
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }
}

#[expect(
    clippy::missing_fields_in_debug,
    reason = "it shows the attributes, not how they are kept"
)]
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("id", &self.id())
            .field("source", &self.source())
            .field("event_type", &self.envelope_type())
            .field("time", &self.time)
            .finish()
    }
}

/// Whether the body is a JSON array, the form of a CloudEvents batch.
pub fn is_batch(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

/// An envelope on the wire. Without `specversion` it may be the event itself (binary mode).
#[derive(Deserialize)]
struct Wire<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Cow<'a, str>,
    source: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    event_type: Cow<'a, str>,
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<Raw<'a>>,
    #[serde(borrow)]
    data_base64: Option<Raw<'a>>,
}

/// AuthPI's event on the wire. Members that routing does not need are read leniently, so that they
/// cannot make an event fail.
#[derive(Deserialize)]
struct WireEvent<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    trace: Option<Raw<'a>>,
    #[serde(borrow)]
    source: Option<Raw<'a>>,
    #[serde(borrow)]
    subject: Option<Raw<'a>>,
    #[serde(borrow)]
    timestamp: Option<Raw<'a>>,
    #[serde(borrow)]
    data: Option<Raw<'a>>,
}

impl Wire<'_> {
    fn envelope(&self, at: &str) -> Result<Envelope, ParseError> {
        let member = |name: &str| format!("{at}{name}");
        if self.specversion.as_deref() != Some("1.0") {
            return Err(ParseError::wrong(member("specversion"), "1.0"));
        }
        if self.id.is_empty() {
            return Err(ParseError::wrong(member("id"), "a non-empty string"));
        }
        let time = self.time.as_deref().map(rfc3339).transpose();
        let source = self
            .source
            .as_deref()
            .ok_or_else(|| ParseError::missing(member("source")))?;
        let time = time.map_err(|_| ParseError::wrong(member("time"), "an RFC 3339 time"))?;
        Ok(Envelope::new(&self.id, source, &self.event_type, time))
    }
}

/// Reads the single delivery in `body`.
pub(super) fn read(body: &Bytes) -> Result<Inner, ParseError> {
    let text = utf8(body)?;
    if is_batch(body) {
        return Err(ParseError::batch());
    }
    match read_ordinary(body, text) {
        Some(inner) => Ok(inner),
        None => read_repaired(body, text, ""),
    }
}

/// Reads a delivery with U+FFFD in place of lone surrogates, if it cannot be read otherwise. Its
/// bytes stay unchanged.
fn read_repaired(body: &Bytes, text: &str, at: &str) -> Result<Inner, ParseError> {
    read_one(body, Whole(text), text, at).or_else(|error| {
        match json::without_lone_surrogates(text) {
            // Positions are the same in both texts.
            Some(repaired) => read_one(body, Whole(&repaired), &repaired, at),
            None => Err(error),
        }
    })
}

/// The text whose slices are the parts of a delivery.
#[derive(Clone, Copy)]
struct Whole<'a>(&'a str);

impl Whole<'_> {
    /// The position of `part`, a slice of this text.
    fn place(self, part: &str) -> Range<usize> {
        let start = part.as_ptr() as usize - self.0.as_ptr() as usize;
        start..start + part.len()
    }
}

/// Reads an ordinary delivery in one pass. Returns `None` for any other, which [`read_one`] then
/// reads or reports as an error.
fn read_ordinary(body: &Bytes, text: &str) -> Option<Inner> {
    let mut found = Ordinary::default();
    let mut json = serde_json::Deserializer::from_str(text);
    OrdinaryEnvelope(&mut found).deserialize(&mut json).ok()?;
    json.end().ok()?;
    let (Some("1.0"), id) = (found.specversion, found.id.filter(|id| !id.is_empty())?) else {
        return None;
    };
    let time = found.time.map(rfc3339).transpose().ok()?;
    let envelope = Envelope::new(id, found.source?, found.event_type?, time);
    let [id, event_type, trace, source, subject, timestamp, data] = found.event;
    let event = WireEvent {
        id: plain(id?)?.into(),
        event_type: plain(event_type?)?.into(),
        trace,
        source,
        subject,
        timestamp,
        data,
    };
    // From the brace before the first name to the one after the last value.
    let whole = Whole(text);
    let before = text[..whole.place(found.first?).start]
        .strip_suffix('"')?
        .trim_ascii_end()
        .strip_suffix('{')?
        .len();
    let last = whole.place(found.last?.get()).end;
    let end = text.len() - text[last..].trim_ascii_start().strip_prefix('}')?.len();
    read_members(
        body,
        whole,
        event,
        &text[before..end],
        "data.",
        Some(envelope),
    )
    .ok()
}

/// The parts of an ordinary delivery. They are read in place, since moving them costs more than
/// reading them.
#[derive(Default)]
struct Ordinary<'a> {
    specversion: Option<&'a str>,
    id: Option<&'a str>,
    source: Option<&'a str>,
    event_type: Option<&'a str>,
    time: Option<&'a str>,
    /// The event's members, raw, in the order of [`Self::EVENT`].
    event: [Option<Raw<'a>>; 7],
    /// The first name and the last value in the event, which show where it begins and ends.
    first: Option<&'a str>,
    last: Option<Raw<'a>>,
}

impl Ordinary<'_> {
    const EVENT: [&'static str; 7] = [
        "id",
        "type",
        "trace",
        "source",
        "subject",
        "timestamp",
        "data",
    ];
}

/// Reads the envelope into the parts.
struct OrdinaryEnvelope<'p, 'a>(&'p mut Ordinary<'a>);

impl<'de> DeserializeSeed<'de> for OrdinaryEnvelope<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OrdinaryEnvelope<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an envelope")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let parts = self.0;
        while let Some(name) = map.next_key()? {
            let part = match name {
                "specversion" => &mut parts.specversion,
                "id" => &mut parts.id,
                "source" => &mut parts.source,
                "type" => &mut parts.event_type,
                "time" => &mut parts.time,
                "data" => {
                    map.next_value_seed(OrdinaryEvent(parts))?;
                    continue;
                }
                "data_base64" => return Err(A::Error::custom("not JSON")),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            once(part, map.next_value()?)?;
        }
        Ok(())
    }
}

/// Reads the event into the parts.
struct OrdinaryEvent<'p, 'a>(&'p mut Ordinary<'a>);

impl<'de> DeserializeSeed<'de> for OrdinaryEvent<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OrdinaryEvent<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let parts = self.0;
        if parts.first.is_some() {
            return Err(twice());
        }
        while let Some(name) = map.next_key::<&'de str>()? {
            let value: Raw<'de> = map.next_value()?;
            parts.first.get_or_insert(name);
            parts.last = Some(value);
            if let Some(at) = Ordinary::EVENT.iter().position(|known| *known == name) {
                once(&mut parts.event[at], value)?;
            }
        }
        Ok(())
    }
}

fn once<T, E: de::Error>(part: &mut Option<T>, value: T) -> Result<(), E> {
    match part.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice()),
    }
}

fn twice<E: de::Error>() -> E {
    E::custom("a member twice")
}

/// The text of a string without escapes.
fn plain(raw: Raw<'_>) -> Option<&str> {
    let text = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains('\\')).then_some(text)
}

/// Reads each delivery of a batch.
pub(super) fn read_batch(body: &Bytes) -> Result<Vec<Inner>, ParseError> {
    let text = utf8(body)?;
    let parts: Vec<Raw<'_>> = parse(text, "")?;
    parts
        .into_iter()
        .enumerate()
        .map(|(n, part)| {
            // A copy, so that an event does not keep the whole batch in memory.
            let body = Bytes::copy_from_slice(part.get().as_bytes());
            read_repaired(&body, part.get(), &format!("[{n}]."))
        })
        .collect()
}

fn read_one(body: &Bytes, whole: Whole<'_>, text: &str, at: &str) -> Result<Inner, ParseError> {
    let wire: Wire<'_> = parse(text, at)?;
    if wire.specversion.is_none() {
        // Binary mode: the body is the event and must have its own time.
        return read_event(body, whole, text, at, None);
    }
    let envelope = wire.envelope(at)?;
    if wire.data_base64.is_some() {
        return Err(ParseError::wrong(
            format!("{at}data_base64"),
            "absent: AuthPI's data is JSON",
        ));
    }
    let data = given(wire.data).ok_or_else(|| ParseError::missing(format!("{at}data")))?;
    read_event(
        body,
        whole,
        data.get(),
        &format!("{at}data."),
        Some(envelope),
    )
}

fn read_event(
    body: &Bytes,
    whole: Whole<'_>,
    text: &str,
    at: &str,
    envelope: Option<Envelope>,
) -> Result<Inner, ParseError> {
    read_members(body, whole, parse(text, at)?, text, at, envelope)
}

fn read_members(
    body: &Bytes,
    whole: Whole<'_>,
    event: WireEvent<'_>,
    text: &str,
    at: &str,
    envelope: Option<Envelope>,
) -> Result<Inner, ParseError> {
    for (name, value) in [("id", &event.id), ("type", &event.event_type)] {
        if value.is_empty() {
            return Err(ParseError::wrong(
                format!("{at}{name}"),
                "a non-empty string",
            ));
        }
    }
    let own_time = given(event.timestamp)
        .and_then(lenient::<UnixMillis>)
        .and_then(|millis| millis.timestamp().ok());
    let time = own_time
        .or_else(|| envelope.as_ref()?.time)
        .ok_or_else(|| {
            ParseError::missing(if envelope.is_some() {
                at.replace("data.", "time")
            } else {
                format!("{at}timestamp")
            })
        })?;
    Ok(Inner {
        event: whole.place(text),
        data: given(event.data).map(|raw| whole.place(raw.get())),
        envelope,
        id: event.id.into(),
        event_type: EventType::from(&*event.event_type),
        subject: given(event.subject).and_then(lenient).unwrap_or_default(),
        trace: given(event.trace).and_then(|raw| string(whole, raw)),
        source: given(event.source).and_then(|raw| string(whole, raw)),
        time,
        reported: AtomicBool::new(false),
        body: body.clone(),
    })
}

/// A member that is present and not null.
fn given(raw: Option<Raw<'_>>) -> Option<Raw<'_>> {
    raw.filter(|raw| !raw.is_null())
}

fn lenient<T: DeserializeOwned>(raw: Raw<'_>) -> Option<T> {
    json::read(raw.get()).ok()
}

fn string(whole: Whole<'_>, raw: Raw<'_>) -> Option<Text> {
    match plain(raw) {
        Some(text) => Some(Text::At(whole.place(text))),
        None => lenient(raw).map(Text::Decoded),
    }
}

fn utf8(body: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(body).map_err(|_| ParseError::not_utf8())
}

/// Parses the text. If that fails, parses it again to find the path of the error.
fn parse<'a, T: Deserialize<'a>>(text: &'a str, at: &str) -> Result<T, ParseError> {
    serde_json::from_str(text).map_err(|error| ParseError::locate::<T>(text, at, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_in_one_pass_finds_what_reading_member_by_member_finds() {
        let outer = |data: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"d","source":"s","type":"event","time":"2026-01-01T00:00:00Z",{data}}}"#
            )
        };
        let ordinary = [
            r#""data":{"id":"e","type":"user.created"}"#,
            r#""data" : { "id" : "e" , "type" : "user.created" } , "more" : { "data": {} }"#,
            "\"data\":\n{\n\t\"data\":{\"a\":[1, {\"id\":\"x\"}]},\r\n\"type\":\"user.created\",\"id\":\"e\"\n}\n",
            r#""data":{"trace":"t","source":"\u0073","id":"e","type":"x.y","subject":{"user_id":"u"},"timestamp":1.5,"data":null}"#,
            r#""data":{"trace":7,"source":null,"id":"e","type":"x.y","subject":[],"timestamp":"never","data":"\"}"}"#,
            r#""data":{"id":"e","type":"x.y","unknown":"{","unknown":"}"}"#,
        ];
        let others = [
            r#""data":{"id":"\u0065","type":"user.created"}"#,
            r#""data":{"\u0069d":"e","type":"user.created"}"#,
            r#""data":{"id":"e","id":"e","type":"user.created"}"#,
            r#""data":{"id":"","type":"user.created"}"#,
            r#""data":{"id":1,"type":"user.created"}"#,
            r#""data":{}"#,
            r#""data":null"#,
            r#""data":[{"id":"e","type":"user.created"}]"#,
            r#""data":{"id":"e","type":"user.created"},"data_base64":"e30=""#,
            r#""data":{"id":"e","type":"user.created"},"data":{"id":"e","type":"user.created"}"#,
        ];
        for (text, is_ordinary) in ordinary
            .map(|text| (text, true))
            .into_iter()
            .chain(others.map(|text| (text, false)))
        {
            let body = Bytes::from(outer(text));
            let text = utf8(&body).unwrap();
            let Some(inner) = read_ordinary(&body, text) else {
                assert!(!is_ordinary, "not read in one pass: {text}");
                continue;
            };
            let slow = read_one(&body, Whole(text), text, "").unwrap();
            let all = |inner: Inner| {
                let text =
                    |text: &Option<Text>| text.as_ref().map(|text| inner.text(text).to_owned());
                let (trace, source) = (text(&inner.trace), text(&inner.source));
                let routed = (
                    inner.event,
                    inner.data,
                    inner.envelope,
                    inner.id,
                    inner.event_type,
                    inner.time,
                );
                (routed, format!("{:?}", inner.subject), trace, source)
            };
            assert_eq!(all(inner), all(slow), "{text}");
        }
    }
}
