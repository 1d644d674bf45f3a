//! The event log: list, get, aggregate.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::StatusCode;
use serde_json::{Map, Value};

use super::{Between, Request, etag};
use crate::{
    answer::Answer,
    error::{ApiError, Field},
    state::State,
    store::{Event, Page},
};

pub(super) fn list(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let filter = Filter::of(request);
    let store = world.store();
    let page = Page::of(&request.query).read(&store.events, |event| filter.takes(event), shown)?;
    Ok(Answer::json(StatusCode::OK, page))
}

pub(super) fn get(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let store = world.store();
    let event = store
        .events
        .get(request.path("event_id"))
        .ok_or_else(|| ApiError::not_found("event"))?;
    Ok(Answer::resource(StatusCode::OK, shown(event)).with_etag(&etag(event.timestamp)))
}

pub(super) fn aggregate(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let filter = Filter::of(request);
    let interval = request.text("interval");
    let millis = match interval {
        None => None,
        Some("minute") => Some(60_000),
        Some("hour") => Some(3_600_000),
        Some("day") => Some(86_400_000),
        Some(_) => {
            let message = "must be one of minute, hour, day";
            let field = Field::new("interval", "invalid_value", message);
            return Err(ApiError::malformed(
                format!("interval: {message}"),
                vec![field],
            ));
        }
    };
    let (group_by, count_unique) = (request.text("group_by"), request.text("count_unique"));
    let mut buckets = BTreeMap::<_, (u64, BTreeSet<String>)>::new();
    if interval.is_none() && group_by.is_none() {
        // The total is one bucket, even if it is zero.
        buckets.entry((None, None)).or_default();
    }
    for event in world
        .store()
        .events
        .values()
        .filter(|event| filter.takes(event))
    {
        let begin = millis.map(|millis: i64| event.timestamp.div_euclid(millis) * millis);
        let group = group_by.map(|name| member(event, name));
        let bucket = buckets.entry((begin, group)).or_default();
        bucket.0 += 1;
        bucket
            .1
            .extend(count_unique.and_then(|name| member(event, name)));
    }
    let buckets = buckets
        .into_iter()
        .map(|((begin, group), (count, unique))| {
            let mut bucket = Map::new();
            bucket.insert("count".to_owned(), count.into());
            bucket.extend(begin.map(|begin| ("timestamp".to_owned(), begin.into())));
            bucket.extend(
                group_by
                    .zip(group)
                    .map(|(name, group)| (name.to_owned(), group.into())),
            );
            bucket.extend(count_unique.map(|_| ("unique".to_owned(), unique.len().into())));
            Value::Object(bucket)
        });
    let mut aggregate = Map::new();
    aggregate.insert("interval".to_owned(), interval.into());
    aggregate.insert("group_by".to_owned(), group_by.into());
    aggregate.insert("buckets".to_owned(), buckets.collect());
    Ok(Answer::resource(StatusCode::OK, Value::Object(aggregate)))
}

fn shown(event: &Arc<Event>) -> Value {
    // An event consists of strings, a number and JSON.
    serde_json::to_value(event.as_ref()).unwrap_or_default()
}

/// A member of the event or of its subject, by name.
fn member(event: &Event, name: &str) -> Option<String> {
    match name {
        "type" => Some(event.event_type.clone()),
        "source" => Some(event.source.to_owned()),
        "trigger" => Some(event.trigger.clone()),
        _ => event.subject[name].as_str().map(str::to_owned),
    }
}

/// The filters of list and aggregate.
struct Filter<'a> {
    subject: Vec<(&'a str, &'a str)>,
    types: Option<Vec<&'a str>>,
    between: Between,
}

impl<'a> Filter<'a> {
    fn of(request: &'a Request<'_>) -> Self {
        let subject = ["issuer_id", "user_id", "client_id"];
        Self {
            subject: subject
                .into_iter()
                .filter_map(|name| Some((name, request.text(name)?)))
                .collect(),
            types: request
                .text("event_types")
                .map(|types| types.split(',').map(str::trim).collect()),
            between: Between::of(request.query.get("after"), request.query.get("before")),
        }
    }

    fn takes(&self, event: &Event) -> bool {
        self.subject
            .iter()
            .all(|(name, id)| event.subject[*name] == *id)
            && self
                .types
                .as_ref()
                .is_none_or(|types| types.contains(&event.event_type.as_str()))
            && self.between.holds(event.timestamp)
    }
}
