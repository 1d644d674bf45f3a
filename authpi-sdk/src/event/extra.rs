//! The members of a payload that have no field.
//!
//! AuthPI does not document the members of an event's `data`; the fields of the payload types are
//! deduced. So a payload is read member by member. An unknown member, or one with an unexpected
//! type, is kept raw in [`Extra`], and never makes the event fail.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};

use crate::{
    RawJson,
    json::{FromRaw, Raw, members_of_text},
};

/// Members of a JSON object that are not in a field: unknown members, members with an unexpected
/// type, and, in the payload of an event, members that are `null`.
///
/// An integer with a fraction of zeros (`1.0`) fits an integer field, and a lone surrogate in a
/// string (`"\ud83d"`) is read as U+FFFD. Members are kept raw, so serializing the object writes
/// them unchanged. `Debug` shows only their names.
///
/// # Why a field is `None`
///
/// A handler that stores a copy of the payload can distinguish these cases. It should leave a
/// column unchanged if the member is absent or has an unexpected type, and clear the column if the
/// member is `null`:
///
/// | `user.username` | `user.extra.get("username")` | the payload has |
/// |---|---|---|
/// | `Some(name)` | `None` | a value |
/// | `None` | `Some` of `null`, see [`is_null`](Self::is_null) | an explicit `null` |
/// | `None` | `Some` of anything else | a member with an unexpected type |
/// | `None` | `None` | no such member |
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use authpi_sdk::event::payload::User;
/// let user: User = serde_json::from_str(r#"{"username": null, "status": 17}"#)?;
/// assert!(user.extra.is_null("username")); // clear it
/// assert!(user.status.is_none() && !user.extra.is_null("status")); // unexpected type: leave it alone
/// assert!(user.profile.is_none() && !user.extra.is_null("profile")); // absent: leave it alone
/// # Ok(()) }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extra {
    members: BTreeMap<String, RawJson>,
    mismatched: usize,
}

impl Extra {
    /// The member called `name`, raw.
    pub fn get(&self, name: &str) -> Option<&RawJson> {
        self.members.get(name)
    }

    /// The member called `name`, deserialized as a `T`; `None` if it is absent.
    ///
    /// # Errors
    /// When the member is not a valid `T`.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, serde_json::Error> {
        self.members.get(name).map(RawJson::read).transpose()
    }

    /// Whether the payload has an explicit `null` for `name`.
    pub fn is_null(&self, name: &str) -> bool {
        self.get(name).is_some_and(|json| json.raw().is_null())
    }

    /// Adds or replaces a member, and returns the previous one.
    pub fn insert(&mut self, name: impl Into<String>, value: RawJson) -> Option<RawJson> {
        self.members.insert(name.into(), value)
    }

    /// Removes a member. If you set a field after reading the payload, remove the member of that
    /// name; otherwise, the object is written with both.
    pub fn remove(&mut self, name: &str) -> Option<RawJson> {
        self.members.remove(name)
    }

    /// The members, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawJson)> {
        self.members
            .iter()
            .map(|(name, json)| (name.as_str(), json))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The number of members that have a field but did not fit it, because their shape was deduced
    /// wrongly.
    ///
    /// If this is not zero, the deduced schema of the payload needs a correction. Nothing is lost.
    /// [`Event::mismatched`](crate::event::Event::mismatched) names them.
    pub fn mismatched(&self) -> usize {
        self.mismatched
    }

    pub(crate) fn keep(&mut self, name: &str, raw: Raw<'_>) {
        self.insert(name, raw.to_json());
    }

    /// Records how a member was read. If a member is repeated, the last one wins.
    fn note(&mut self, name: &str, raw: Raw<'_>, fit: Fit) {
        let known_before = match fit {
            Fit::Fits if self.members.is_empty() => None,
            Fit::Fits => self.members.remove(name),
            Fit::Null | Fit::Misfit => self.insert(name, raw.to_json()),
            Fit::Unknown => return self.keep(name, raw),
        };
        self.mismatched += usize::from(fit == Fit::Misfit);
        self.mismatched -= usize::from(known_before.is_some_and(|before| !before.raw().is_null()));
    }

    /// Keeps a member of an answer that does not fit its field.
    #[cfg(feature = "client")]
    pub(crate) fn keep_mismatched(&mut self, name: &str, raw: Raw<'_>) {
        self.note(name, raw, Fit::Misfit);
    }
}

impl IntoIterator for Extra {
    type Item = (String, RawJson);
    type IntoIter = btree_map::IntoIter<String, RawJson>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.members.keys()).finish()
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.members.serialize(serializer)
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for Extra {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Extra".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object", "additionalProperties": true })
    }
}

/// How a member was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Fits,
    Null,
    Misfit,
    Unknown,
}

/// A generated payload, which knows its members by name.
pub(crate) trait Payload: Default {
    /// The names of the members that have a field.
    const MEMBERS: &'static [&'static str];

    /// Reads `raw` into the field of the member `name`, if there is one and the value fits.
    fn take(&mut self, name: &str, raw: Raw<'_>) -> Fit;

    /// The other members.
    fn extra_mut(&mut self) -> &mut Extra;
}

/// The object-safe part of [`Payload`], so that the reading loop exists once and not once per
/// payload.
trait Sink {
    fn put(&mut self, name: &str, raw: Raw<'_>);
}

impl<P: Payload> Sink for P {
    fn put(&mut self, name: &str, raw: Raw<'_>) {
        let fit = self.take(name, raw);
        self.extra_mut().note(name, raw, fit);
    }
}

fn fill(sink: &mut dyn Sink, data: &str) -> Result<(), serde_json::Error> {
    members_of_text(data, &mut |name, raw| {
        sink.put(name, raw);
        Ok(())
    })
}

/// Reads a payload from JSON text. If it is valid JSON, this fails only if it is neither an object
/// nor `null`.
pub(crate) fn read<P: Payload>(data: &str) -> Result<P, serde_json::Error> {
    let mut payload = P::default();
    fill(&mut payload, data)?;
    Ok(payload)
}

/// Reads a payload from any deserializer.
pub(crate) fn deserialize<'de, P: Payload, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<P, D::Error> {
    let data = RawJson::deserialize(deserializer)?;
    read(data.get()).map_err(D::Error::custom)
}

/// Reads a member into its field; `null` clears it.
pub(crate) fn fit<T: FromRaw>(field: &mut Option<T>, raw: Raw<'_>) -> Fit {
    if raw.is_null() {
        *field = None;
        return Fit::Null;
    }
    // If a member is repeated, the last one wins.
    *field = T::from_payload(raw).ok();
    if field.is_some() {
        Fit::Fits
    } else {
        Fit::Misfit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, PartialEq, Debug, Serialize)]
    struct Sample {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<i64>,
        #[serde(flatten)]
        extra: Extra,
    }

    impl Payload for Sample {
        const MEMBERS: &'static [&'static str] = &["id", "count"];

        fn take(&mut self, name: &str, raw: Raw<'_>) -> Fit {
            match name {
                "id" => fit(&mut self.id, raw),
                "count" => fit(&mut self.count, raw),
                _ => Fit::Unknown,
            }
        }
        fn extra_mut(&mut self) -> &mut Extra {
            &mut self.extra
        }
    }

    fn sample(json: &str) -> Sample {
        read(json).unwrap()
    }

    #[test]
    fn a_member_of_another_shape_is_kept_raw_and_counted() {
        let read = sample(r#"{"id": {"of": 1.00}, "count": "7", "new": [1,  2]}"#);
        assert_eq!((read.id, read.count), (None, None));
        assert_eq!(read.extra.mismatched(), 2);
        assert_eq!(read.extra.get("id").unwrap().get(), r#"{"of": 1.00}"#);
        assert_eq!(read.extra.get("new").unwrap().get(), "[1,  2]");
        assert_eq!(read.extra.read::<i64>("absent").unwrap(), None);
    }

    #[test]
    fn a_payload_that_is_written_reads_back_equal() {
        for json in [
            r#"{"id":"a","count":3}"#,
            r#"{"id":"\u00e9\n","count":null,"x":12345678901234567890123}"#,
            r#"{"id":1,"count":1.5,"\u0061":{}}"#,
            r#"{"id":1,"id":"twice"}"#,
            r#"{"id":null,"id":"twice"}"#,
            r#"{"id":"twice","id":null}"#,
            r#"{"id":1,"id":2}"#,
            r#"{"id":"twice","id":1}"#,
            r#"{"id":1,"id":null}"#,
            r#"{"id":null,"unknown":null}"#,
            "{}",
        ] {
            let first = sample(json);
            assert_eq!(
                sample(&serde_json::to_string(&first).unwrap()),
                first,
                "{json}"
            );
        }
    }

    #[test]
    fn absent_null_and_mismatched_fields_are_distinguished() {
        for (json, value, null, kept) in [
            (r#"{"id":"a"}"#, Some("a"), false, None),
            (r#"{"id":null}"#, None, true, Some("null")),
            (r#"{"id": null }"#, None, true, Some("null")),
            (r#"{"id":17}"#, None, false, Some("17")),
            (r#"{"id":17,"id":null}"#, None, true, Some("null")),
            ("{}", None, false, None),
            (r#"{"id":null,"id":"a"}"#, Some("a"), false, None),
            (r#"{"id":"a","id":null}"#, None, true, Some("null")),
        ] {
            for read in [
                sample(json),
                sample(&serde_json::to_string(&sample(json)).unwrap()),
            ] {
                assert_eq!(
                    (read.id.as_deref(), read.extra.is_null("id")),
                    (value, null),
                    "{json}"
                );
                assert_eq!(read.extra.get("id").map(RawJson::get), kept, "{json}");
                assert_eq!(read.extra.len(), usize::from(kept.is_some()), "{json}");
            }
        }
        let mut read = sample(r#"{"id":null}"#);
        read.id = Some("set".to_owned());
        read.extra.remove("id");
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"id":"set"}"#);
    }

    #[test]
    fn null_is_an_empty_payload_and_anything_but_an_object_is_an_error() {
        assert_eq!(sample("null"), Sample::default());
        for bad in ["[]", "1", "\"x\"", "true"] {
            assert!(read::<Sample>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn extra_shows_names_and_never_values() {
        let read = sample(r#"{"id":"a","pin":"4711"}"#);
        assert_eq!(format!("{:?}", read.extra), r#"{"pin"}"#);
    }
}
