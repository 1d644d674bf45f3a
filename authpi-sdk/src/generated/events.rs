//! A stand-in until `cargo xtask codegen` writes this file.
#![allow(missing_docs, missing_debug_implementations, unreachable_pub)]
use serde::*;
use serde_json::value::RawValue;
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EventType {
    UserCreated,
    UserUpdated,
    Unknown(UnknownEventType),
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownEventType(Box<str>);
impl EventType {
    pub const ALL: &'static [EventType] = &[EventType::UserCreated, EventType::UserUpdated];
    pub fn as_str(&self) -> &str {
        match self {
            Self::UserCreated => "user.created",
            Self::UserUpdated => "user.updated",
            Self::Unknown(u) => &u.0,
        }
    }
}
impl From<&str> for EventType {
    fn from(s: &str) -> Self {
        match s {
            "user.created" => Self::UserCreated,
            "user.updated" => Self::UserUpdated,
            o => Self::Unknown(UnknownEventType(o.into())),
        }
    }
}
impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
pub mod types {
    use super::*;
    use crate::event::*;
    pub enum UserCreated {}
    impl EventKind for UserCreated {}
    impl KnownEvent for UserCreated {
        const TYPE: EventType = EventType::UserCreated;
        type Data = payload::User;
    }
    pub enum UserUpdated {}
    impl EventKind for UserUpdated {}
    impl KnownEvent for UserUpdated {
        const TYPE: EventType = EventType::UserUpdated;
        type Data = payload::User;
    }
}
pub mod payload {
    use super::*;
    #[derive(Debug, Serialize, Deserialize, Default)]
    pub struct User {
        pub name: Option<String>,
    }
}
pub enum EventData {
    Unknown(Box<RawValue>),
}
impl EventData {
    pub fn decode(_t: &EventType, r: &RawValue) -> Result<Self, serde_json::Error> {
        Ok(Self::Unknown(r.to_owned()))
    }
}
