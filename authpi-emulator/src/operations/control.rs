//! `POST /_emulator/events`: makes an event happen. Not of AuthPI's API, and so not in its description.

use http::{Method, StatusCode, request};
use serde_json::Value;

use crate::{
    description::json_body,
    problem::{Field, Problem},
    server::Answer,
    world::World,
};

/// Where.
pub(crate) const PATH: &str = "/_emulator/events";

/// Answers 201 with the event, as the events API shows it. With `?account_id=` the account is checked, too.
pub(crate) fn answer(world: &World, parts: &request::Parts, body: &[u8]) -> Result<Answer, Problem> {
    if parts.method != Method::POST {
        return Err(Problem::method_not_allowed("POST"));
    }
    world.account.authenticate(&parts.headers)?;
    for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
        if name == "account_id" {
            world.account.check_account(&value)?;
        }
    }
    let mut body = json_body(&parts.headers, body)?;
    let Some(members) = body.as_object_mut() else {
        return Err(Problem::invalid(vec![Field::new("body", "invalid_type", "must be of type object")]));
    };
    let event_type = match members.get("type") {
        Some(Value::String(name)) => name.clone(),
        Some(_) => return Err(Problem::invalid(vec![Field::new("type", "invalid_type", "must be of type string")])),
        None => return Err(Problem::invalid(vec![Field::new("type", "required", "is missing")])),
    };
    let copies = match members.get("copies") {
        None => 1,
        // What is no count is no count that is allowed.
        Some(copies) => copies.as_u64().and_then(|copies| u32::try_from(copies).ok()).unwrap_or(0),
    };
    let mut given = |name| members.remove(name).filter(|value| !value.is_null());
    let event = world.trigger(&event_type, given("subject"), given("data"), copies)?;
    let shown = serde_json::to_value(event.as_ref()).unwrap_or_default();
    Ok(Answer::resource(StatusCode::CREATED, shown))
}
