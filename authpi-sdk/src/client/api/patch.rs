//! One member of a partial update.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A member of a `PATCH`: keep it, clear it, or set it.
///
/// An `Option` cannot distinguish "keep" from "clear".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Patch<T> {
    /// Keeps the member: it is not sent.
    #[default]
    Keep,
    /// Clears the member: `null` is sent.
    Null,
    /// Sets the member. An empty list or map is a value.
    Set(T),
}

impl<T> Patch<T> {
    /// Whether the member is kept.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// The value to set, if any.
    pub const fn set(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Null => None,
        }
    }

    /// Applies `f` to the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Patch<U> {
        match self {
            Self::Keep => Patch::Keep,
            Self::Null => Patch::Null,
            Self::Set(value) => Patch::Set(f(value)),
        }
    }
}

impl<T> From<T> for Patch<T> {
    fn from(value: T) -> Self {
        Self::Set(value)
    }
}

impl<T: Serialize> Serialize for Patch<T> {
    /// `Keep` needs `skip_serializing_if = "Patch::is_keep"`; otherwise it is written as `null`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.set().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    /// With `#[serde(default)]` an absent member is `Keep`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Set))
    }
}

#[cfg(feature = "schemars")]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Patch<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Option::<T>::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Option::<T>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Update {
        #[serde(skip_serializing_if = "Patch::is_keep")]
        description: Patch<String>,
        #[serde(skip_serializing_if = "Patch::is_keep")]
        events: Patch<Vec<String>>,
    }

    #[test]
    fn keep_null_and_set_are_three_different_bodies() {
        for (update, body) in [
            (Update::default(), "{}"),
            (
                Update {
                    description: Patch::Null,
                    ..Update::default()
                },
                r#"{"description":null}"#,
            ),
            (
                Update {
                    description: Patch::Set("x".into()),
                    ..Update::default()
                },
                r#"{"description":"x"}"#,
            ),
            (
                Update {
                    events: Patch::Set(vec![]),
                    ..Update::default()
                },
                r#"{"events":[]}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&update).unwrap(), body);
            assert_eq!(serde_json::from_str::<Update>(body).unwrap(), update);
        }
    }

    #[test]
    fn a_value_becomes_a_patch_that_sets_it() {
        assert_eq!(Patch::from(3).map(|n| n + 1), Patch::Set(4));
        assert_eq!(Patch::<i32>::Null.set(), None);
    }
}
