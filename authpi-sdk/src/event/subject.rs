use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::json::{FromRaw as _, Raw};

/// The subject of an event: ids by name. AuthPI documents `user_id`, in an example.
///
/// AuthPI does not document which event types have which ids, so each may be absent.
/// [`id`](Self::id) returns any member that is a string. The bytes of all members are in
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
    /// All members that are strings, with their names, in the order of the event.
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
                    let raw = map.next_value::<Raw<'de>>()?;
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
    /// Only names; the ids belong to people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.ids.iter().map(|(name, _)| name))
            .finish()
    }
}
