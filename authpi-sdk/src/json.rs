//! JSON that is kept as text.
//!
//! `serde_json::Value` loses key order, repeated keys and digits of large numbers. Members that
//! AuthPI does not document must survive a round trip unchanged, so they are kept as text.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::UnixMillis;

/// A JSON value kept as it was written, byte for byte.
///
/// Members that AuthPI documents only as "an object" (`metadata`, `retry`, `circuit_breaker`, …)
/// have this type. `Debug` shows only the length. Two values are equal if their texts are.
#[derive(Clone)]
pub struct RawJson(Box<str>);

impl RawJson {
    /// Serializes `value` as JSON.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON, for example a map whose keys are not strings.
    pub fn new(value: &(impl Serialize + ?Sized)) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self::from)
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        &self.0
    }

    /// Reads the value as a `T`. A lone surrogate (`"\ud83d"`) is read as U+FFFD.
    ///
    /// # Errors
    /// When the JSON is not a valid `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        read(self.get())
    }

    pub(crate) fn raw(&self) -> Raw<'_> {
        Raw(&self.0)
    }
}

impl From<Box<RawValue>> for RawJson {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw.into())
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawJson({} bytes)", self.get().len())
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for RawJson {}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for RawJson {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "RawJson".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!(true)
    }
}

/// The text of one JSON value: valid JSON, without white space around it.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    pub(crate) fn get(self) -> &'a str {
        self.0
    }

    pub(crate) fn is_null(self) -> bool {
        self.0 == "null"
    }

    pub(crate) fn to_json(self) -> RawJson {
        RawJson(self.0.into())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(raw.get()))
    }
}

/// Calls `member` with each member of the object `json`; `null` is an object without members.
#[cfg(feature = "client")]
pub(crate) fn members<'a>(
    json: Raw<'a>,
    member: &mut dyn FnMut(&str, Raw<'a>) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    members_of_text(json.get(), member)
}

/// The same for text that is known to be JSON.
///
/// The loop exists once and not once per type, so that a hundred generated types compile quickly.
/// In a name, U+FFFD replaces a lone surrogate; values are passed as they are written.
pub(crate) fn members_of_text<'a>(
    json: &'a str,
    member: &mut dyn FnMut(&str, Raw<'a>) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    let mut given = 0;
    let read =
        serde_json::Deserializer::from_str(json).deserialize_any(Object(&mut |name, value| {
            given += 1;
            member(name, value)
        }));
    // An error of data comes from `member`, or the JSON is not an object.
    let Err(false) = read.as_ref().map_err(serde_json::Error::is_data) else {
        return read;
    };
    let Some(repaired) = without_lone_surrogates(json) else {
        return read;
    };
    let mut seen = 0;
    serde_json::Deserializer::from_str(&repaired).deserialize_any(Object(
        &mut |name, value: Raw<'_>| {
            seen += 1;
            if seen <= given {
                return Ok(());
            }
            // The repaired text has the same length, so positions are the same.
            let start = value.get().as_ptr() as usize - repaired.as_ptr() as usize;
            member(name, Raw(&json[start..start + value.get().len()]))
        },
    ))
}

/// `json` with `\ufffd` in place of each escaped lone surrogate; `None` if there is none.
///
/// JavaScript writes a lone surrogate when a text was cut within an emoji. It is valid JSON by the
/// grammar (RFC 8259, 8.2), but not valid text in Rust. Both escapes have six bytes, so positions
/// do not change.
pub(crate) fn without_lone_surrogates(json: &str) -> Option<String> {
    let code = |at: usize| {
        let digits = json.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |code, digit| {
            Some(code << 4 | char::from(*digit).to_digit(16)?)
        })
    };
    let (mut repaired, mut at): (Option<String>, _) = (None, 0);
    // Valid JSON has no backslash outside of strings.
    while let Some(found) = json.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        at += match code(at) {
            Some(0xd800..=0xdbff) if matches!(code(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                repaired
                    .get_or_insert_with(|| json.to_owned())
                    .replace_range(at..at + 6, "\\ufffd");
                6
            }
            Some(_) => 6,
            // Not `\u` with four digits: skip the backslash and the character after it, which may
            // have several bytes.
            None => 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    repaired
}

/// Reads JSON text as a `T`. If that fails, tries again with U+FFFD in place of lone surrogates.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(json).or_else(|error| match without_lone_surrogates(json) {
        Some(repaired) => serde_json::from_str(&repaired),
        None => Err(error),
    })
}

/// A type that is read from the JSON of one value by itself, so that a value with an unexpected
/// type does not make its neighbours unreadable.
///
/// The methods with a default say how it is read and written as the member of an object. `Option`
/// overrides them: such a member may be absent.
pub(crate) trait FromRaw: Sized {
    /// Whether a value with an unexpected type is an error, even for an optional member: a secret
    /// that is shown once must not be lost.
    #[cfg(feature = "client")]
    const STRICT: bool = false;

    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error>;

    /// Reads a member of an event's payload. In a payload, [`RawJson`] is the type of an object.
    fn from_payload(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        Self::from_raw(raw)
    }

    /// Reads a member that was looked up by [`pick`].
    #[cfg(feature = "client")]
    fn member(name: &str, value: Option<Raw<'_>>) -> Result<Self, serde_json::Error> {
        Self::from_raw(required(name, value)?).map_err(|error| at(name, &error))
    }

    /// Reads a member into `slot`. Returns whether it had the described shape. With `lenient`, an
    /// optional member with an unexpected type is left out.
    #[cfg(feature = "client")]
    fn keep(
        slot: &mut Option<Self>,
        name: &str,
        value: Raw<'_>,
        lenient: bool,
    ) -> Result<bool, serde_json::Error> {
        let _ = lenient;
        *slot = Some(Self::from_raw(value).map_err(|error| at(name, &error))?);
        Ok(true)
    }

    /// The member that [`keep`](Self::keep) has read, if it was there.
    #[cfg(feature = "client")]
    fn kept(name: &str, slot: Option<Self>) -> Result<Self, serde_json::Error> {
        required(name, slot)
    }

    /// Whether the member is left out of what is written.
    #[cfg(feature = "client")]
    fn is_absent(&self) -> bool {
        false
    }
}

fn expected(what: &str) -> serde_json::Error {
    serde_json::Error::custom(format_args!("expected {what}"))
}

impl FromRaw for String {
    /// `Raw` is valid JSON, so a string without escapes is the text between the quotes.
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        let inner = raw
            .get()
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let inner = inner.ok_or_else(|| expected("a string"))?;
        if inner.contains('\\') {
            read(raw.get())
        } else {
            Ok(inner.to_owned())
        }
    }
}

impl FromRaw for i64 {
    /// An integer as JSON Schema defines it: also `1.0` and `1e2`.
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        let text = raw.get();
        let without_zeros = || {
            text.split_once('.')
                .filter(|(_, zeros)| zeros.bytes().all(|b| b == b'0'))
        };
        let plain = text
            .parse()
            .ok()
            .or_else(|| without_zeros()?.0.parse().ok());
        plain
            .or_else(|| integral(text))
            .ok_or_else(|| expected("an integer"))
    }
}

/// A number with an exponent, within the range of exact floats.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is checked, and the fraction is zero"
)]
fn integral(text: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) || !text.contains(['e', 'E']) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

impl FromRaw for bool {
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        raw.get().parse().map_err(|_| expected("true or false"))
    }
}

impl FromRaw for f64 {
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        serde_json::from_str(raw.get())
    }
}

impl FromRaw for UnixMillis {
    /// Nearly always an integer; otherwise anything that `UnixMillis` deserializes from.
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        raw.get()
            .parse()
            .map(Self)
            .or_else(|_| serde_json::from_str(raw.get()))
    }
}

impl FromRaw for RawJson {
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        Ok(raw.to_json())
    }

    fn from_payload(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        if raw.get().starts_with('{') {
            Self::from_raw(raw)
        } else {
            Err(expected("an object"))
        }
    }
}

impl<T: FromRaw> FromRaw for Vec<T> {
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        let items: Vec<Raw<'_>> = serde_json::from_str(raw.get())?;
        items.into_iter().map(T::from_raw).collect()
    }

    fn from_payload(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        let items: Vec<Raw<'_>> = serde_json::from_str(raw.get())?;
        items.into_iter().map(T::from_payload).collect()
    }
}

impl<T: FromRaw> FromRaw for BTreeMap<String, T> {
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        let mut all = Self::new();
        if raw.get() == "null" {
            return Err(expected("an object"));
        }
        members_of_text(raw.get(), &mut |name, value| {
            all.insert(name.to_owned(), T::from_raw(value)?);
            Ok(())
        })?;
        Ok(all)
    }
}

struct Object<'f, 'a>(&'f mut dyn FnMut(&str, Raw<'a>) -> Result<(), serde_json::Error>);

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Borrowed<'a>>()? {
            let raw: Raw<'a> = map.next_value()?;
            (self.0)(&name.0, raw).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Text that is borrowed unless it contains an escape.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// Functions for the API's types; events do not need them.
#[cfg(feature = "client")]
mod api {
    use std::{borrow::Cow, fmt, marker::PhantomData};

    use serde::{
        Deserializer,
        de::{DeserializeOwned, Error as _, MapAccess, Visitor, value::MapDeserializer},
    };
    use serde_json::value::RawValue;

    use super::{FromRaw, Raw, members};

    impl<T: FromRaw> FromRaw for Option<T> {
        fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
            if raw.get() == "null" {
                Ok(None)
            } else {
                T::from_raw(raw).map(Some)
            }
        }

        fn member(name: &str, value: Option<Raw<'_>>) -> Result<Self, serde_json::Error> {
            let Some(value) = value else { return Ok(None) };
            match Self::from_raw(value) {
                Err(error) if T::STRICT => Err(at(name, &error)),
                Err(_) => {
                    tracing::debug!(
                        member = name,
                        "a member of a response does not have the described shape"
                    );
                    Ok(None)
                }
                read => read,
            }
        }

        fn keep(
            slot: &mut Option<Self>,
            name: &str,
            value: Raw<'_>,
            lenient: bool,
        ) -> Result<bool, serde_json::Error> {
            let read = Self::from_raw(value);
            let fits = read.is_ok();
            *slot = match read {
                Err(error) if T::STRICT || !lenient => return Err(at(name, &error)),
                read => read.ok(),
            };
            Ok(fits)
        }

        fn kept(_: &str, slot: Option<Self>) -> Result<Self, serde_json::Error> {
            Ok(slot.flatten())
        }

        fn is_absent(&self) -> bool {
            self.is_none()
        }
    }

    /// Reads an answer in one pass. If that fails, reads it again member by member, so that a
    /// member with an unexpected type does not affect others: see [`FromRaw::member`]. Bytes that
    /// are not UTF-8 are read as U+FFFD, like lone surrogates.
    ///
    /// # Errors
    /// When a required member is missing or has an unexpected type, when a secret has an
    /// unexpected type, or when the body is not JSON.
    pub(crate) fn answer<T: DeserializeOwned + FromRaw>(
        body: &[u8],
    ) -> Result<T, serde_json::Error> {
        serde_json::from_slice(body).or_else(|error| {
            let text = String::from_utf8_lossy(body);
            match serde_json::from_str::<Raw<'_>>(&text) {
                Ok(raw) => T::from_raw(raw),
                Err(_) => Err(error),
            }
        })
    }

    /// The members of these names, raw.
    pub(crate) fn pick<'a, const N: usize>(
        object: Raw<'a>,
        names: [&str; N],
    ) -> Result<[Option<Raw<'a>>; N], serde_json::Error> {
        let mut picked = [None; N];
        members(object, &mut |name, value| {
            if let Some(at) = names.iter().position(|wanted| *wanted == name) {
                picked[at] = Some(value);
            }
            Ok(())
        })?;
        Ok(picked)
    }

    /// The content of the object `{"data": …}`, read member by member; an object without that
    /// member is the content itself. `own`: the content has a `data` of its own, so it is tried
    /// first if there are other members.
    pub(crate) fn held<T: FromRaw>(json: Raw<'_>, own: bool) -> Result<T, serde_json::Error> {
        let (mut data, mut others) = (None, 0);
        members(json, &mut |name, value| {
            if name == "data" {
                data = Some(value);
            } else {
                others += 1;
            }
            Ok(())
        })?;
        match data {
            Some(data) if others == 0 => T::from_raw(data),
            Some(data) if own => {
                T::from_raw(json).or_else(|error| T::from_raw(data).map_err(|_| error))
            }
            Some(data) => T::from_raw(data).or_else(|error| T::from_raw(json).map_err(|_| error)),
            None => T::from_raw(json),
        }
    }

    /// The member of an object that identifies its case.
    pub(crate) fn tag<'a>(object: Raw<'a>, name: &str) -> Result<Cow<'a, str>, serde_json::Error> {
        let mut found = None;
        members(object, &mut |member, value| {
            if member == name {
                found = Some(
                    String::from_raw(value)
                        .map_err(|error| at(name, &error))?
                        .into(),
                );
            }
            Ok(())
        })?;
        required(name, found)
    }

    /// As [`without_envelope`], for a `T` without a member `data`: in one pass if there is only the
    /// envelope.
    pub(crate) fn enveloped<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        deserializer.deserialize_map(Envelope(PhantomData))
    }

    struct Envelope<T>(PhantomData<T>);

    impl<'de, T: DeserializeOwned> Visitor<'de> for Envelope<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let (mut first, mut members) = (None, Vec::<(String, Box<RawValue>)>::new());
            while let Some(name) = map.next_key::<String>()? {
                if name == "data" && first.is_none() && members.is_empty() {
                    first = Some(map.next_value::<T>()?);
                } else {
                    members.push((name, map.next_value()?));
                }
            }
            if members.is_empty()
                && let Some(data) = first
            {
                return Ok(data);
            }
            let bare = members
                .iter()
                .map(|(name, value)| (name.as_str(), &**value));
            T::deserialize(MapDeserializer::new(bare)).or_else(|error: serde_json::Error| {
                let later = || members.iter().find(|(name, _)| name == "data");
                let data = first.or_else(|| serde_json::from_str(later()?.1.get()).ok());
                data.ok_or_else(|| A::Error::custom(error))
            })
        }
    }

    /// The content of the object `{"data": …}`; an object without that member is the content
    /// itself.
    ///
    /// An object with other members beside `data` is first read as the content, since an event has
    /// a `data` of its own. If that fails, it is read as an envelope with new members, which AuthPI
    /// may add.
    pub(crate) fn without_envelope<T: DeserializeOwned>(
        json: Raw<'_>,
    ) -> Result<T, serde_json::Error> {
        let (mut data, mut others) = (None, 0);
        members(json, &mut |name, value| {
            if name == "data" {
                data = Some(value);
            } else {
                others += 1;
            }
            Ok(())
        })?;
        match data {
            Some(data) if others == 0 => serde_json::from_str(data.get()),
            Some(data) => serde_json::from_str(json.get())
                .or_else(|error| serde_json::from_str(data.get()).map_err(|_| error)),
            None => serde_json::from_str(json.get()),
        }
    }

    /// A required member.
    pub(crate) fn required<T>(name: &str, value: Option<T>) -> Result<T, serde_json::Error> {
        value.ok_or_else(|| serde_json::Error::custom(format_args!("missing member `{name}`")))
    }

    /// An error in the member `name`. serde's own text contains the value, which may be a secret;
    /// this text only says what was expected.
    pub(crate) fn at(name: &str, error: &serde_json::Error) -> serde_json::Error {
        let text = error.to_string();
        let expected = text
            .rsplit_once("expected ")
            .map_or("another shape", |(_, expected)| expected);
        let expected = expected.split(" at line ").next().unwrap_or(expected);
        serde_json::Error::custom(format_args!("`{name}`: expected {expected}"))
    }

    /// The schema of a union: its cases, and, if it is open, any object with the tag.
    #[cfg(feature = "schemars")]
    pub(crate) fn union_schema(
        tag: &str,
        open: bool,
        mut cases: Vec<schemars::Schema>,
    ) -> schemars::Schema {
        if open {
            cases.push(schemars::json_schema!({ "type": "object", "required": [tag] }));
        }
        schemars::json_schema!({ "anyOf": cases })
    }

    /// Adds a constant member to an object's schema.
    #[cfg(feature = "schemars")]
    pub(crate) fn constant(
        name: &'static str,
        value: &'static str,
    ) -> impl FnMut(&mut schemars::Schema) {
        use serde_json::{Value, json};
        move |schema| {
            let object = schema.ensure_object();
            if let Value::Object(properties) =
                object.entry("properties").or_insert_with(|| json!({}))
            {
                properties.insert(name.to_owned(), json!({ "type": "string", "const": value }));
            }
            if let Value::Array(required) = object.entry("required").or_insert_with(|| json!([])) {
                required.push(json!(name));
            }
        }
    }
}
#[cfg(feature = "client")]
pub(crate) use api::*;

/// The schema of an open enum: the known values, or any string.
#[cfg(feature = "schemars")]
pub(crate) fn open_enum_schema<'a>(values: impl Iterator<Item = &'a str>) -> schemars::Schema {
    let values: Vec<_> = values.collect();
    schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": values }, { "type": "string" }] })
}

/// Visits a string.
pub(crate) struct Text<F>(pub(crate) F);

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok((self.0)(text))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn raw_json_comes_back_byte_for_byte_and_stays_out_of_debug() {
        let text = r#"{"b":12345678901234567890123, "a":1.0,"b":"\u00e9"}"#;
        let json: RawJson = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
        assert_eq!(format!("{json:?}"), "RawJson(51 bytes)");
    }

    #[test]
    fn raw_json_is_read_out_of_a_value_too() {
        let json: RawJson = serde_json::from_value(serde_json::json!({"a": [1, 2]})).unwrap();
        assert_eq!(
            json,
            RawJson::new(&serde_json::json!({"a": [1, 2]})).unwrap()
        );
    }

    #[test]
    fn a_lone_surrogate_is_replaced_and_all_else_keeps_its_place() {
        for (json, repaired) in [
            (r#""\ud83d""#, Some(r#""\ufffd""#)),
            (r#""\uDE00""#, Some(r#""\ufffd""#)),
            (
                r#""\ud83d\ude00 \ud83d!""#,
                Some(r#""\ud83d\ude00 \ufffd!""#),
            ),
            (r#""\ud83d\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\ude00\ud83d""#, Some(r#""\ufffd\ufffd""#)),
            (r#"{"\ud83d":"\u00e9"}"#, Some(r#"{"\ufffd":"\u00e9"}"#)),
            (r#""\ud83d\u0041""#, Some(r#""\ufffd\u0041""#)),
            (r#""\ud83d\n""#, Some(r#""\ufffd\n""#)),
            (r#""\\ud83d""#, None),
            (r#""\\\ud83d""#, Some(r#""\\\ufffd""#)),
            (r#""\ud83d\ude00""#, None),
            (r#""ud83d \u00e9 \" é""#, None),
            (r#""\ud8"#, None),
            (r#""\u"#, None),
            ("\\", None),
            ("\"\\é", None),
            ("", None),
        ] {
            assert_eq!(without_lone_surrogates(json).as_deref(), repaired, "{json}");
        }
    }

    #[test]
    fn names_with_lone_surrogates_are_read_and_values_stay_unchanged() {
        let json = r#"{"a":"\ud83d","b\udc00":["\ud83d", 1.0],"c":{"\udead":1}}"#;
        let mut seen = Vec::new();
        members_of_text(json, &mut |name, value| {
            seen.push((name.to_owned(), value.get().to_owned()));
            Ok(())
        })
        .unwrap();
        let expected = [
            ("a", r#""\ud83d""#),
            ("b\u{fffd}", r#"["\ud83d", 1.0]"#),
            ("c", r#"{"\udead":1}"#),
        ];
        assert_eq!(
            seen,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn an_integer_may_be_written_as_a_float_without_a_fraction() {
        let read = |text: &str| i64::from_raw(serde_json::from_str(text).unwrap()).ok();
        for (text, number) in [
            ("7", 7),
            ("1.0", 1),
            ("-2.000", -2),
            ("-0.0", 0),
            ("1e2", 100),
            ("1.5E1", 15),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775807.0", i64::MAX),
        ] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for text in [
            "1.5",
            "1e-2",
            "1e300",
            "9223372036854775808",
            "9223372036854775808.0",
            "1e400",
            "\"1\"",
            "null",
            "[1]",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn raw_json_with_a_lone_surrogate_is_read() {
        let json: RawJson = serde_json::from_str(r#"["cut \ud83d"]"#).unwrap();
        assert_eq!(json.read::<Vec<String>>().unwrap(), ["cut \u{fffd}"]);
        assert_eq!(json.get(), r#"["cut \ud83d"]"#);
    }

    /// JSON text of what a JavaScript string may contain: characters, and lone surrogates.
    fn pieces() -> impl Strategy<Value = Vec<Result<char, u16>>> {
        let half = (0xd800..=0xdfff_u16).prop_map(Err);
        prop::collection::vec(prop_oneof![any::<char>().prop_map(Ok), half], 0..20)
    }

    /// The string as JavaScript writes it: lone surrogates as escapes, other characters with or
    /// without.
    fn written(pieces: &[Result<char, u16>], escape: bool) -> String {
        let mut json = String::from("\"");
        for piece in pieces {
            match piece {
                Err(half) => write!(json, "\\u{half:04x}").unwrap(),
                Ok(c) if escape || *c < ' ' || matches!(c, '"' | '\\') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(json, "\\u{unit:04X}").unwrap();
                    }
                }
                Ok(c) => json.push(*c),
            }
        }
        json + "\""
    }

    proptest! {
        #[test]
        fn every_string_that_javascript_writes_is_read_as_it_would_replace_it(pieces in pieces(), escape: bool) {
            let units: Vec<u16> = pieces
                .iter()
                .flat_map(|piece| match piece {
                    Ok(c) => c.encode_utf16(&mut [0; 2]).to_vec(),
                    Err(half) => vec![*half],
                })
                .collect();
            let json = written(&pieces, escape);
            // Two adjacent escapes are a surrogate pair only if the first is a high and the second
            // a low surrogate. An escaped surrogate next to an unescaped character is always a lone
            // one.
            prop_assert_eq!(read::<String>(&json).unwrap(), String::from_utf16_lossy(&units));
            let member = format!("{{{json}:{json}}}");
            let mut names = Vec::new();
            members_of_text(&member, &mut |name, value| {
                names.push((name.to_owned(), value.get().to_owned()));
                Ok(())
            }).unwrap();
            prop_assert_eq!(names, [(String::from_utf16_lossy(&units), json)]);
        }

        #[test]
        fn mending_changes_no_length_and_leaves_nothing_to_mend(text in "(\\\\|u|d8|3d|dc00|[\"é😀a-f0-9]){0,30}") {
            if let Some(repaired) = without_lone_surrogates(&text) {
                prop_assert_eq!(repaired.len(), text.len());
                prop_assert_eq!(without_lone_surrogates(&repaired), None);
            }
        }
    }
}
