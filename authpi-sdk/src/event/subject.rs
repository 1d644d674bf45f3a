use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::json::FromRaw as _;

/// Whom an event happened to: ids by name, of which AuthPI documents `user_id`, by an example.
///
/// Which ids come with which type is not documented, so each may be absent. Every member that is a
/// string can be asked for by [`id`](Self::id), known or not; the bytes of all are in
/// [`Event::raw`](super::Event::raw).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Subject {
    ids: Vec<(Box<str>, Box<str>)>,
}

macro_rules! ids {
    ($($method:ident $member:literal $what:literal;)+) => {
        $(
            #[doc = concat!("The ", $what, "'s id (`", $member, "`), if the subject names one.")]
            pub fn $method(&self) -> Option<&str> {
                self.id($member)
            }
        )+
    };
}

impl Subject {
    ids! {
        account_id "account_id" "account";
        agent_id "agent_id" "agent";
        client_id "client_id" "client";
        issuer_id "issuer_id" "issuer";
        key_id "key_id" "API key";
        organization_id "org_id" "organization";
        session_id "session_id" "session";
        user_id "user_id" "user";
        webhook_id "webhook_id" "webhook";
    }

    /// The member `name`, if it is a string.
    pub fn id(&self, name: &str) -> Option<&str> {
        self.ids
            .iter()
            .find(|(member, _)| **member == *name)
            .map(|(_, id)| &**id)
    }
}

impl Subject {
    /// Each member that is a string, with its name, in the order they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ids.iter().map(|(name, id)| (&**name, &**id))
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = Subject;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Subject, A::Error> {
                let mut ids = Vec::new();
                while let Some(name) = map.next_key::<Box<str>>()? {
                    let raw = map.next_value::<&'de RawValue>()?;
                    if let Ok(id) = String::from_raw(raw) {
                        ids.push((name, id.into()));
                    }
                }
                Ok(Subject { ids })
            }
        }
        deserializer.deserialize_map(Ids)
    }
}

impl fmt::Debug for Subject {
    /// Names only; the ids belong to people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.ids.iter().map(|(name, _)| name))
            .finish()
    }
}
