//! The macros that expand generated code.
//!
//! `cargo xtask codegen` writes tables of types and members; these macros add the code that is the
//! same for each. Their input has the syntax of Rust items, so that `xtask` can parse it and report
//! changes. The wire name is written as a discriminant: `Active = "active"`.

/// An open enum: unknown values are kept unchanged. The unknown case cannot be constructed or
/// matched by value, so that naming it later breaks no user.
///
/// ```text
/// open_enum! {
///     /// The state of a webhook.
///     pub enum WebhookStatus {
///         Unknown(UnknownWebhookStatus),
///         Active = "active",
///     }
/// }
/// ```
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            Unknown($unknown:ident),
            $($case:ident = $wire:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(
                #[doc = concat!("`", $wire, "`")]
                $case,
            )*
            /// A value that this version does not know, unchanged.
            Unknown($unknown),
        }

        #[doc = concat!("A value of [`", stringify!($name), "`] that this version does not know.")]
        #[doc = "Only parsing creates one."]
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $unknown(Box<str>);

        impl $unknown {
            /// The value, unchanged.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Debug for $unknown {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The known values, in the order of the description.
            pub const ALL: &'static [Self] = &[$(Self::$case),*];

            /// The value on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$case => $wire,)*
                    Self::Unknown(other) => &other.0,
                }
            }

            fn known(text: &str) -> Option<Self> {
                const WIRE: &[&str] = &[$($wire),*];
                static BY_LENGTH: [(&str, usize); WIRE.len()] = crate::macros::by_length(WIRE);
                let case = crate::macros::find(&BY_LENGTH, text)?;
                Self::ALL.get(case).cloned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Ord for $name {
            /// By text, so that an unknown value that gets a name later keeps its position.
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::known(text).unwrap_or_else(|| Self::Unknown($unknown(text.into())))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::known(&text).unwrap_or_else(|| Self::Unknown($unknown(text.into())))
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::convert::Infallible;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ok(text.into())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(crate::json::Text(|text: &str| Self::from(text)))
            }
        }

        impl crate::json::FromRaw for $name {
            fn from_raw(raw: crate::json::Raw<'_>) -> Result<Self, serde_json::Error> {
                <String as crate::json::FromRaw>::from_raw(raw).map(Self::from)
            }
        }

        #[cfg(feature = "schemars")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::json::open_enum_schema(Self::ALL.iter().map(Self::as_str))
            }
        }
    };
}
pub(crate) use open_enum;

/// The texts with their positions, shortest first.
pub(crate) const fn by_length<const N: usize>(
    texts: &[&'static str],
) -> [(&'static str, usize); N] {
    let mut sorted = [("", 0); N];
    let mut n = 0;
    while n < N {
        let mut at = n;
        while at > 0 && texts[n].len() < sorted[at - 1].0.len() {
            sorted[at] = sorted[at - 1];
            at -= 1;
        }
        sorted[at] = (texts[n], n);
        n += 1;
    }
    sorted
}

/// The position of `text` in the texts that [`by_length`] sorted.
///
/// Few texts have the same length, so few are compared. A binary search by text has to wait for
/// each comparison before the next one: with a hundred texts it takes two to four times as long.
pub(crate) fn find(sorted: &[(&str, usize)], text: &str) -> Option<usize> {
    let first = sorted.partition_point(|(known, _)| known.len() < text.len());
    sorted[first..]
        .iter()
        .take_while(|(known, _)| known.len() == text.len())
        .find(|(known, _)| *known == text)
        .map(|(_, position)| *position)
}

/// The event types, with the payload of each. A type `SessionCreated(Session)` becomes a case of
/// [`EventType`](crate::event::EventType) and a marker type for handlers.
///
/// ```text
/// event_types! {
///     /// Names of events.
///     pub enum EventType {
///         Unknown(UnknownEventType),
///         /// A session was opened.
///         SessionCreated(Session) = "session.created",
///     }
/// }
/// ```
macro_rules! event_types {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            Unknown($unknown:ident),
            $(
                $(#[$case_meta:meta])*
                $case:ident($payload:ident) = $wire:literal,
            )*
        }
    ) => {
        crate::macros::open_enum! {
            $(#[$meta])*
            pub enum $name {
                Unknown($unknown),
                $($case = $wire,)*
            }
        }

        impl $name {
            /// The members of the type's payload; none if the type is unknown.
            pub(crate) fn members(&self) -> &'static [&'static str] {
                use crate::event::extra::Payload;
                match self {
                    $(Self::$case => <payload::$payload as Payload>::MEMBERS,)*
                    Self::Unknown(_) => &[],
                }
            }
        }

        impl EventData {
            /// Deserializes `data` as the payload of this event type only.
            ///
            /// # Errors
            /// If the type is known and `data` is neither an object nor `null`.
            pub fn decode(
                event_type: &$name,
                data: &crate::RawJson,
            ) -> Result<Self, serde_json::Error> {
                Self::read(event_type, data.get())
            }

            /// The same for text that is valid JSON.
            pub(crate) fn read(event_type: &$name, data: &str) -> Result<Self, serde_json::Error> {
                match event_type {
                    $($name::$case => Self::boxed(data).map(Self::$payload),)*
                    $name::Unknown(_) => {
                        serde_json::from_str(data).map(Self::Unknown)
                    }
                }
            }

            /// Not inlined: one copy per payload instead of one per event type.
            #[inline(never)]
            fn boxed<P: crate::event::extra::Payload>(
                data: &str,
            ) -> Result<Box<P>, serde_json::Error> {
                crate::event::extra::read(data).map(Box::new)
            }
        }

        /// A marker for each event type: a handler of `Event<UserCreated>` is called for
        /// `user.created` only.
        pub mod types {
            use super::$name;

            $(
                #[doc = concat!("`", $wire, "`:")]
                $(#[$case_meta])*
                #[derive(Clone, Copy, Debug)]
                pub enum $case {}

                impl crate::event::EventKind for $case {}

                impl crate::event::KnownEvent for $case {
                    const TYPE: $name = $name::$case;
                    type Data = super::payload::$payload;

                    fn read(data: &str) -> Result<Self::Data, serde_json::Error> {
                        crate::event::extra::read(data)
                    }

                    fn extra(data: &Self::Data) -> Option<&crate::event::Extra> {
                        Some(&data.extra)
                    }
                }
            )*
        }
    };
}
pub(crate) use event_types;

/// The payloads of events. The type of each member is that of its value; each field is an `Option`.
///
/// Payloads are read leniently, because the members of `data` are deduced, not documented: a member
/// with an unexpected type must not make an event fail.
///
/// ```text
/// payloads! {
///     /// An AuthPI account.
///     pub struct Account {
///         /// Id of the account.
///         pub id: String,
///     }
/// }
/// ```
macro_rules! payloads {
    (
        $(
            $(#[doc = $doc:literal])*
            pub struct $name:ident {
                $(
                    $(#[doc = $field_doc:literal])*
                    $(#[wire = $wire:literal])?
                    pub $field:ident: $type:ty,
                )*
            }
        )*
    ) => {
        /// The payload of an event, one variant per kind of payload.
        #[derive(Clone)]
        #[non_exhaustive]
        pub enum EventData {
            $(
                $(#[doc = $doc])*
                $name(Box<payload::$name>),
            )*
            /// The payload of an event type that this version does not know, byte for byte.
            Unknown(crate::RawJson),
        }

        impl EventData {
            /// Members without a field, and members with an unexpected type; `None` for an unknown
            /// event type.
            pub fn extra(&self) -> Option<&crate::event::Extra> {
                match self {
                    $(Self::$name(payload) => Some(&payload.extra),)*
                    Self::Unknown(_) => None,
                }
            }
        }

        impl std::fmt::Debug for EventData {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$name(payload) => payload.fmt(f),)*
                    Self::Unknown(raw) => write!(f, "Unknown({} bytes)", raw.get().len()),
                }
            }
        }

        impl serde::Serialize for EventData {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$name(payload) => payload.serialize(serializer),)*
                    Self::Unknown(raw) => raw.serialize(serializer),
                }
            }
        }

        /// The payloads of events: the content of `data`.
        ///
        /// AuthPI does not document the members; they are deduced from the resources of its Core
        /// API. So each is optional, and a member without a field, or with an unexpected type, is
        /// in `extra`. `Debug` shows no member.
        pub mod payload {
            use crate::event::{
                Extra,
                extra::{Fit, Payload, fit},
            };

            $(
                $(#[doc = $doc])*
                #[derive(Clone, Default, PartialEq)]
                #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
                #[non_exhaustive]
                pub struct $name {
                    $(
                        $(#[doc = $field_doc])*
                        $(#[cfg_attr(feature = "schemars", schemars(rename = $wire))])?
                        pub $field: Option<$type>,
                    )*
                    /// Members without a field, and members with an unexpected type, unchanged.
                    #[cfg_attr(feature = "schemars", schemars(flatten))]
                    pub extra: Extra,
                }

                impl Payload for $name {
                    const MEMBERS: &'static [&'static str] =
                        &[$(crate::macros::wire!($field $($wire)?)),*];

                    fn take(&mut self, name: &str, raw: crate::json::Raw<'_>) -> Fit {
                        match name {
                            $(crate::macros::wire!($field $($wire)?) => fit(&mut self.$field, raw),)*
                            _ => Fit::Unknown,
                        }
                    }

                    fn extra_mut(&mut self) -> &mut Extra {
                        &mut self.extra
                    }
                }

                impl std::fmt::Debug for $name {
                    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.debug_struct(stringify!($name)).finish_non_exhaustive()
                    }
                }

                impl<'de> serde::Deserialize<'de> for $name {
                    fn deserialize<D: serde::Deserializer<'de>>(
                        deserializer: D,
                    ) -> Result<Self, D::Error> {
                        crate::event::extra::deserialize(deserializer)
                    }
                }

                impl serde::Serialize for $name {
                    fn serialize<S: serde::Serializer>(
                        &self,
                        serializer: S,
                    ) -> Result<S::Ok, S::Error> {
                        let mut map = serializer.serialize_map(None)?;
                        $(
                            if let Some(value) = &self.$field {
                                serde::ser::SerializeMap::serialize_entry(
                                    &mut map,
                                    crate::macros::wire!($field $($wire)?),
                                    value,
                                )?;
                            }
                        )*
                        for (name, value) in self.extra.iter() {
                            serde::ser::SerializeMap::serialize_entry(&mut map, name, value)?;
                        }
                        serde::ser::SerializeMap::end(map)
                    }
                }
            )*
        }
    };
}
pub(crate) use payloads;

/// The wire name of a field: the given one, or the field's own. A raw identifier needs a given one.
macro_rules! wire {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $wire:literal) => {
        $wire
    };
}
pub(crate) use wire;

#[cfg(feature = "client")]
pub(crate) use api::*;

/// The macros of the API's types; events do without.
#[cfg(feature = "client")]
mod api {
    /// An enum of values that are only sent.
    macro_rules! closed_enum {
        (
            $(#[$meta:meta])*
            pub enum $name:ident {
                $($case:ident = $wire:literal,)*
            }
        ) => {
            $(#[$meta])*
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
                serde::Serialize, serde::Deserialize,
            )]
            #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
            #[non_exhaustive]
            pub enum $name {
                $(
                    #[doc = concat!("`", $wire, "`")]
                    #[serde(rename = $wire)]
                    $case,
                )*
            }

            impl $name {
                /// All values, in the order of the description.
                pub const ALL: &'static [Self] = &[$(Self::$case),*];

                /// The value on the wire.
                pub const fn as_str(self) -> &'static str {
                    match self {
                        $(Self::$case => $wire,)*
                    }
                }
            }

            impl std::fmt::Display for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(self.as_str())
                }
            }

            impl crate::json::FromRaw for $name {
                fn from_raw(raw: crate::json::Raw<'_>) -> Result<Self, serde_json::Error> {
                    crate::json::read(raw.get())
                }
            }
        };
    }
    pub(crate) use closed_enum;

    /// An object whose unknown members are dropped.
    ///
    /// serde reads it in one pass. If that fails, it is read member by member
    /// ([`FromRaw`](crate::json::FromRaw)): an optional member with an unexpected type is then
    /// absent.
    /// `#[derive(Default)]` is for an object without required members.
    macro_rules! object {
        (
            $(#[derive($($derive:ident),*)])?
            $(#[doc = $doc:literal])*
            pub struct $name:ident {
                $(
                    $(#[doc = $field_doc:literal])*
                    $(#[wire = $wire:literal])?
                    $(#[serde($($serde:tt)*)])?
                    pub $field:ident: $type:ty,
                )*
            }
        ) => {
            $(#[doc = $doc])*
            #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize $($(, $derive)*)?)]
            #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
            #[non_exhaustive]
            pub struct $name {
                $(
                    $(#[doc = $field_doc])*
                    $(#[serde(rename = $wire)])?
                    $(#[serde($($serde)*)])?
                    pub $field: $type,
                )*
            }

            impl crate::json::FromRaw for $name {
                fn from_raw(raw: crate::json::Raw<'_>) -> Result<Self, serde_json::Error> {
                    let [$($field),*] =
                        crate::json::pick(raw, [$(crate::macros::wire!($field $($wire)?)),*])?;
                    Ok(Self {
                        $(
                            $field: crate::json::FromRaw::member(
                                crate::macros::wire!($field $($wire)?),
                                $field,
                            )?,
                        )*
                    })
                }
            }
        };
    }
    pub(crate) use object;

    /// A resource in AuthPI's envelope, `{"data": …}`. AuthPI's guide shows some responses without
    /// the envelope, and AuthPI's own SDK accepts both, so both are accepted.
    ///
    /// `#[whole]` is for a resource with its own `data`, or that keeps its text: the first member
    /// does not distinguish it from its envelope.
    macro_rules! envelope {
        (
            #[whole]
            $(#[doc = $doc:literal])*
            pub struct $name:ident {
                $(#[doc = $data_doc:literal])*
                pub data: $type:ty,
            }
        ) => {
            crate::macros::envelope! {
                @ $(#[doc = $doc])* $name { $(#[doc = $data_doc])* $type, true }
                deserializer => {
                    let json = <crate::RawJson as serde::Deserialize>::deserialize(deserializer)?;
                    crate::json::without_envelope(json.raw()).map_err(serde::de::Error::custom)
                }
            }
        };
        (
            $(#[doc = $doc:literal])*
            pub struct $name:ident {
                $(#[doc = $data_doc:literal])*
                pub data: $type:ty,
            }
        ) => {
            crate::macros::envelope! {
                @ $(#[doc = $doc])* $name { $(#[doc = $data_doc])* $type, false }
                deserializer => { crate::json::enveloped(deserializer) }
            }
        };
        (
            @ $(#[doc = $doc:literal])*
            $name:ident { $(#[doc = $data_doc:literal])* $type:ty, $own:literal }
            $deserializer:ident => $read:block
        ) => {
            $(#[doc = $doc])*
            #[derive(Clone, Debug, PartialEq, serde::Serialize)]
            #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
            #[non_exhaustive]
            pub struct $name {
                $(#[doc = $data_doc])*
                pub data: $type,
            }

            impl<'de> serde::Deserialize<'de> for $name {
                /// With or without the envelope.
                fn deserialize<D: serde::Deserializer<'de>>(
                    $deserializer: D,
                ) -> Result<Self, D::Error> {
                    let data: Result<$type, D::Error> = $read;
                    data.map(|data| Self { data })
                }
            }

            impl crate::json::FromRaw for $name {
                fn from_raw(raw: crate::json::Raw<'_>) -> Result<Self, serde_json::Error> {
                    Ok(Self { data: crate::json::held(raw, $own)? })
                }
            }
        };
    }
    pub(crate) use envelope;

    /// An object that keeps unknown members: a case of an open union.
    ///
    /// `#[lenient]` is for an object that is only received: an optional member with an unexpected
    /// type is kept among the unknown ones. `#[constant("type" = "bearer")]` is a member that is
    /// always written and whose value is not checked.
    macro_rules! tagged {
        (
            #[lenient]
            $($rest:tt)*
        ) => {
            crate::macros::tagged! { @ true, $($rest)* }
        };
        (
            @ $lenient:literal,
            $(#[constant($constant:literal = $value:literal)])*
            $(#[derive($($derive:ident),*)])?
            $(#[doc = $doc:literal])*
            pub struct $name:ident {
                $(
                    $(#[doc = $field_doc:literal])*
                    $(#[wire = $wire:literal])?
                    pub $field:ident: $type:ty,
                )*
            }
        ) => {
            $(#[doc = $doc])*
            #[derive(Clone, Debug, PartialEq $($(, $derive)*)?)]
            #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
            $(
                #[cfg_attr(
                    feature = "schemars",
                    schemars(transform = crate::json::constant($constant, $value))
                )]
            )*
            #[non_exhaustive]
            pub struct $name {
                $(
                    $(#[doc = $field_doc])*
                    $(#[cfg_attr(feature = "schemars", schemars(rename = $wire))])?
                    pub $field: $type,
                )*
                /// Members without a field, unchanged.
                #[cfg_attr(feature = "schemars", schemars(flatten))]
                pub extra: crate::event::Extra,
            }

            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(
                    &self,
                    serializer: S,
                ) -> Result<S::Ok, S::Error> {
                    use serde::ser::SerializeMap as _;

                    let mut map = serializer.serialize_map(None)?;
                    $(map.serialize_entry($constant, $value)?;)*
                    $(
                        if !crate::json::FromRaw::is_absent(&self.$field) {
                            let name = crate::macros::wire!($field $($wire)?);
                            map.serialize_entry(name, &self.$field)?;
                        }
                    )*
                    for (name, value) in self.extra.iter() {
                        map.serialize_entry(name, value)?;
                    }
                    map.end()
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(
                    deserializer: D,
                ) -> Result<Self, D::Error> {
                    let json = crate::RawJson::deserialize(deserializer)?;
                    crate::json::FromRaw::from_raw(json.raw()).map_err(serde::de::Error::custom)
                }
            }

            impl crate::json::FromRaw for $name {
                fn from_raw(raw: crate::json::Raw<'_>) -> Result<Self, serde_json::Error> {
                    $(let mut $field = None;)*
                    let mut extra = crate::event::Extra::default();
                    crate::json::members(raw, &mut |name, value| {
                        $(
                            if name == $constant {
                                return Ok(());
                            }
                        )*
                        $(
                            if name == crate::macros::wire!($field $($wire)?) {
                                if !crate::json::FromRaw::keep(&mut $field, name, value, $lenient)? {
                                    extra.keep_mismatched(name, value);
                                }
                                return Ok(());
                            }
                        )*
                        extra.keep(name, value);
                        Ok(())
                    })?;
                    Ok(Self {
                        $(
                            $field: crate::json::FromRaw::kept(
                                crate::macros::wire!($field $($wire)?),
                                $field,
                            )?,
                        )*
                        extra,
                    })
                }
            }
        };
        ($($rest:tt)*) => {
            crate::macros::tagged! { @ false, $($rest)* }
        };
    }
    pub(crate) use tagged;

    /// A union of objects that a member's text distinguishes. An open union keeps unknown cases; a
    /// closed one refuses them.
    ///
    /// ```text
    /// union! {
    ///     #[tag = "type"]
    ///     /// How a webhook's deliveries are authenticated.
    ///     pub enum WebhookAuth {
    ///         Unknown(UnknownWebhookAuth),
    ///         /// Deliveries without authentication.
    ///         None(NoneAuth) = "none",
    ///     }
    /// }
    /// ```
    macro_rules! union {
        (
            #[tag = $tag:literal]
            $(#[doc = $doc:literal])*
            pub enum $name:ident {
                Unknown($unknown:ident),
                $(
                    $(#[doc = $case_doc:literal])*
                    $case:ident($type:ident) = $value:literal,
                )*
            }
        ) => {
            $(#[doc = $doc])*
            #[derive(Clone, Debug, PartialEq)]
            #[non_exhaustive]
            pub enum $name {
                $(
                    $(#[doc = $case_doc])*
                    $case($type),
                )*
                /// A case that this version does not know, unchanged.
                Unknown($unknown),
            }

            #[doc = concat!("A case of [`", stringify!($name), "`] that this version does not know.")]
            #[doc = "Only deserialization creates one."]
            #[derive(Clone, PartialEq)]
            pub struct $unknown {
                tag: String,
                json: crate::RawJson,
            }

            impl $unknown {
                /// The whole object, unchanged.
                pub fn json(&self) -> &crate::RawJson {
                    &self.json
                }
            }

            impl std::fmt::Debug for $unknown {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.debug_tuple(stringify!($unknown)).field(&self.tag).finish()
                }
            }

            crate::macros::union! {
                @ $name, $tag, true, [$($case($type) = $value,)*]
                tag(self) { Self::Unknown(other) => &other.tag, }
                serialize(serializer) { Self::Unknown(other) => other.json.serialize(serializer), }
                read(raw, tag) {
                    Ok(Self::Unknown($unknown { tag: tag.into_owned(), json: raw.to_json() }))
                }
            }
        };
        (
            #[tag = $tag:literal]
            $(#[doc = $doc:literal])*
            pub enum $name:ident {
                $(
                    $(#[doc = $case_doc:literal])*
                    $case:ident($type:ident) = $value:literal,
                )*
            }
        ) => {
            $(#[doc = $doc])*
            #[derive(Clone, Debug, PartialEq)]
            #[non_exhaustive]
            pub enum $name {
                $(
                    $(#[doc = $case_doc])*
                    $case($type),
                )*
            }

            crate::macros::union! {
                @ $name, $tag, false, [$($case($type) = $value,)*]
                tag(self) {}
                serialize(serializer) {}
                read(raw, tag) {
                    let unknown = format_args!("unknown {} {tag:?}", $tag);
                    Err(<serde_json::Error as serde::de::Error>::custom(unknown))
                }
            }
        };
        (
            @ $name:ident, $tag:literal, $open:literal, [$($case:ident($type:ident) = $value:literal,)*]
            tag($self:ident) { $($unknown_tag:tt)* }
            serialize($serializer:ident) { $($unknown_write:tt)* }
            read($raw:ident, $found:ident) { $($unknown_read:tt)* }
        ) => {
            impl $name {
                #[doc = concat!("The text of `", $tag, "`.")]
                pub fn tag(&$self) -> &str {
                    match $self {
                        $(Self::$case(_) => $value,)*
                        $($unknown_tag)*
                    }
                }
            }

            $(
                impl From<$type> for $name {
                    fn from(case: $type) -> Self {
                        Self::$case(case)
                    }
                }
            )*

            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(
                    &self,
                    $serializer: S,
                ) -> Result<S::Ok, S::Error> {
                    match self {
                        $(Self::$case(case) => case.serialize($serializer),)*
                        $($unknown_write)*
                    }
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(
                    deserializer: D,
                ) -> Result<Self, D::Error> {
                    let json = crate::RawJson::deserialize(deserializer)?;
                    crate::json::FromRaw::from_raw(json.raw()).map_err(serde::de::Error::custom)
                }
            }

            impl crate::json::FromRaw for $name {
                fn from_raw($raw: crate::json::Raw<'_>) -> Result<Self, serde_json::Error> {
                    let $found = crate::json::tag($raw, $tag)?;
                    match &*$found {
                        $($value => <$type as crate::json::FromRaw>::from_raw($raw).map(Self::$case),)*
                        _ => { $($unknown_read)* }
                    }
                }
            }

            #[cfg(feature = "schemars")]
            impl schemars::JsonSchema for $name {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    let cases = vec![$(generator.subschema_for::<$type>()),*];
                    crate::json::union_schema($tag, $open, cases)
                }
            }
        };
    }
    pub(crate) use union;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_found_and_no_other() {
        const TEXTS: &[&str] = &["b", "a.b", "a", "", "ab", "a-b", "é", "c"];
        static BY_LENGTH: [(&str, usize); TEXTS.len()] = by_length(TEXTS);
        for (n, text) in TEXTS.iter().enumerate() {
            assert_eq!(find(&BY_LENGTH, text), Some(n), "{text}");
        }
        for text in ["d", "A", "ba", "abc", "a.b.c"] {
            assert_eq!(find(&BY_LENGTH, text), None, "{text}");
        }
        assert_eq!(find(&by_length::<0>(&[]), ""), None);
    }
}
