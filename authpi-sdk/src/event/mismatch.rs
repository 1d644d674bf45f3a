//! Members of a payload that do not have the deduced shape: logged once for each event type and
//! member, and counted.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use super::{EventType, Extra};
use crate::{RawJson, telemetry};

/// The event types and members that were logged. It has at most as many entries as the generated
/// tables have members.
static LOGGED: Mutex<BTreeSet<(&str, &str)>> = Mutex::new(BTreeSet::new());

/// The members of the event type that are in `extra` because they do not have the deduced shape.
pub(super) fn members<'e>(
    event_type: &EventType,
    extra: &'e Extra,
) -> impl Iterator<Item = (&'static str, &'e RawJson)> {
    let of = |name: &&'static str| Some((*name, extra.get(name)?));
    event_type
        .members()
        .iter()
        .filter_map(of)
        .filter(|(name, _)| !extra.is_null(name))
}

/// Logs and counts the members. Names of types and members are those of the generated tables, so
/// that no sender can create a time series.
pub(super) fn report(event_type: &EventType, extra: &Extra) {
    let Some(name) = event_type.known_name() else {
        return;
    };
    for (member, json) in members(event_type, extra) {
        telemetry::payload_mismatch(name, member);
        let is_new = LOGGED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((name, member));
        if is_new {
            tracing::warn!(
                event_type = name,
                member,
                found = kind(json),
                "a payload member does not have the deduced shape; its field is empty"
            );
        }
    }
}

/// The kind of a JSON value.
fn kind(json: &RawJson) -> &'static str {
    match json.get().as_bytes().first() {
        Some(b'"') => "string",
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b't' | b'f') => "boolean",
        _ => "number",
    }
}
