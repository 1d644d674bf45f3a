//! JSON that is carried, not looked into.
//!
//! `serde_json::Value` loses key order, repeated keys and digits of big numbers; what AuthPI does not document must survive
//! a round trip as it was written, so it is kept as text.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A JSON value kept as it was written, byte for byte.
///
/// Members that AuthPI documents as "an object" without saying what is in it (`metadata`, `retry`, `circuit_breaker`, …)
/// have this type. `Debug` shows its length only. Two values are equal when their texts are.
#[derive(Clone)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON, for example a map whose keys are not strings.
    pub fn new(value: &(impl Serialize + ?Sized)) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// Reads the value as a `T`.
    ///
    /// # Errors
    /// When the JSON has another shape than `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.get())
    }

    /// The value as `serde_json` keeps raw JSON.
    pub fn as_raw_value(&self) -> &RawValue {
        &self.0
    }
}

impl From<Box<RawValue>> for RawJson {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw)
    }
}

impl From<RawJson> for Box<RawValue> {
    fn from(json: RawJson) -> Self {
        json.0
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
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self)
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

/// Calls `member` with each member of the object `json`; `null` is an object without members.
#[cfg(feature = "client")]
pub(crate) fn members<'a>(
    json: &'a RawValue,
    member: &mut dyn FnMut(&str, &'a RawValue) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    members_of_text(json.get(), member)
}

/// The same for text that is known to be JSON.
///
/// The loop exists once and not once per type, which keeps a hundred generated types cheap to compile.
pub(crate) fn members_of_text<'a>(
    json: &'a str,
    member: &mut dyn FnMut(&str, &'a RawValue) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    serde_json::Deserializer::from_str(json).deserialize_any(Object(member))
}

struct Object<'f, 'a>(&'f mut dyn FnMut(&str, &'a RawValue) -> Result<(), serde_json::Error>);

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
            let raw: &'a RawValue = map.next_value()?;
            (self.0)(&name.0, raw).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Text that is borrowed unless it holds an escape.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// What reads and writes the API's types; events do without.
#[cfg(feature = "client")]
mod api {
    use std::{fmt, marker::PhantomData};

    use serde::{
        Deserializer,
        de::{DeserializeOwned, Error as _, MapAccess, Visitor, value::MapDeserializer},
    };
    use serde_json::value::RawValue;

    use super::{Borrowed, Cow, members};

    /// The member of an object that says what the rest is.
    pub(crate) fn tag<'a>(object: &'a RawValue, name: &str) -> Result<Cow<'a, str>, serde_json::Error> {
        let mut found = None;
        members(object, &mut |member, value| {
            if member == name {
                found = Some(serde_json::from_str::<Borrowed<'a>>(value.get()).map_err(|error| at(name, &error))?.0);
            }
            Ok(())
        })?;
        required(name, found)
    }

    /// One member's value; `null` is none.
    pub(crate) fn member<T: DeserializeOwned>(name: &str, value: &RawValue) -> Result<Option<T>, serde_json::Error> {
        serde_json::from_str(value.get()).map_err(|error| at(name, &error))
    }

    /// As [`without_envelope`], for a `T` that has no member `data` of its own: in one pass where there is an envelope and nothing else.
    pub(crate) fn enveloped<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
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
            let bare = members.iter().map(|(name, value)| (name.as_str(), &**value));
            T::deserialize(MapDeserializer::new(bare)).or_else(|error: serde_json::Error| {
                let later = || members.iter().find(|(name, _)| name == "data");
                let data = first.or_else(|| serde_json::from_str(later()?.1.get()).ok());
                data.ok_or_else(|| A::Error::custom(error))
            })
        }
    }

    /// What the object `{"data": …}` holds; an object without that member holds itself.
    ///
    /// One with others beside `data` is read as itself first, since an event has a `data` of its own. Where that fails it is an
    /// envelope that has got a new member, which must break nobody.
    pub(crate) fn without_envelope<T: DeserializeOwned>(json: &RawValue) -> Result<T, serde_json::Error> {
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
            Some(data) => {
                serde_json::from_str(json.get()).or_else(|error| serde_json::from_str(data.get()).map_err(|_| error))
            }
            None => serde_json::from_str(json.get()),
        }
    }

    /// A member that must be there.
    pub(crate) fn required<T>(name: &str, value: Option<T>) -> Result<T, serde_json::Error> {
        value.ok_or_else(|| serde_json::Error::custom(format_args!("missing member `{name}`")))
    }

    /// An error of the member `name`. serde's own text shows the value, which may be a secret; this one says what was expected.
    fn at(name: &str, error: &serde_json::Error) -> serde_json::Error {
        let text = error.to_string();
        let expected = text.rsplit_once(", expected ").map_or("another shape", |(_, expected)| expected);
        let expected = expected.split(" at line ").next().unwrap_or(expected);
        serde_json::Error::custom(format_args!("`{name}`: expected {expected}"))
    }

    /// The schema of a union: its cases, and if it is open any object with the tag.
    #[cfg(feature = "schemars")]
    pub(crate) fn union_schema(tag: &str, open: bool, mut cases: Vec<schemars::Schema>) -> schemars::Schema {
        if open {
            cases.push(schemars::json_schema!({ "type": "object", "required": [tag] }));
        }
        schemars::json_schema!({ "anyOf": cases })
    }

    /// Adds to an object's schema a member that always has the same text.
    #[cfg(feature = "schemars")]
    pub(crate) fn constant(name: &'static str, value: &'static str) -> impl FnMut(&mut schemars::Schema) {
        use serde_json::{Value, json};
        move |schema| {
            let object = schema.ensure_object();
            if let Value::Object(properties) = object.entry("properties").or_insert_with(|| json!({})) {
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

/// The schema of an enumeration that may grow: the known values, then any string.
#[cfg(feature = "schemars")]
pub(crate) fn open_enum_schema<'a>(values: impl Iterator<Item = &'a str>) -> schemars::Schema {
    let values: Vec<_> = values.collect();
    schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": values }, { "type": "string" }] })
}

/// Reads a string and makes something of it.
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
        assert_eq!(json, RawJson::new(&serde_json::json!({"a": [1, 2]})).unwrap());
    }
}
