//! `POST /_emulator/events`: creates an event. It is not part of AuthPI's API, so it is not in its
//! description.

use http::{Method, StatusCode, request};
use serde_json::{Value, json};

use crate::{
    answer::Answer,
    error::{ApiError, Field},
    openapi::json_body,
    state::State,
    trigger::NewEvent,
};

/// Whether the request is such a call, and whether its caller may make it. Checked before the body
/// is read. With `?account_id=`, the account is checked too.
pub(crate) fn admit(
    world: &State,
    parts: &request::Parts,
    methods: &[Method],
) -> Result<(), ApiError> {
    if !methods.contains(&parts.method) {
        let allowed: Vec<_> = methods.iter().map(Method::as_str).collect();
        return Err(ApiError::method_not_allowed(&allowed.join(", ")));
    }
    world.account.authenticate(&parts.headers)?;
    for (name, value) in
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
    {
        if name == "account_id" {
            world.account.check_account(&value)?;
        }
    }
    Ok(())
}

/// Responds with 201, the event as the events API shows it, and the number of its pending
/// deliveries.
pub(crate) fn answer(
    world: &State,
    parts: &request::Parts,
    body: &[u8],
) -> Result<Answer, ApiError> {
    let mut body = json_body(&parts.headers, body)?;
    let Some(members) = body.as_object_mut() else {
        return Err(ApiError::invalid(vec![Field::new(
            "body",
            "invalid_type",
            "must be of type object",
        )]));
    };
    let event_type = match members.get("type") {
        Some(Value::String(name)) => name.clone(),
        Some(_) => {
            return Err(ApiError::invalid(vec![Field::new(
                "type",
                "invalid_type",
                "must be of type string",
            )]));
        }
        None => {
            return Err(ApiError::invalid(vec![Field::new(
                "type",
                "required",
                "is missing",
            )]));
        }
    };
    let copies = match members.get("copies") {
        None => 1,
        // An invalid count is refused below.
        Some(copies) => copies
            .as_u64()
            .and_then(|copies| u32::try_from(copies).ok())
            .unwrap_or(0),
    };
    let allow_unknown_type = match members.get("allow_unknown_type") {
        None => false,
        Some(Value::Bool(allow)) => *allow,
        Some(_) => {
            let field = Field::new(
                "allow_unknown_type",
                "invalid_type",
                "must be of type boolean",
            );
            return Err(ApiError::invalid(vec![field]));
        }
    };
    let mut given = |name| members.remove(name).filter(|value| !value.is_null());
    let (subject, data) = (given("subject"), given("data"));
    let recorded = world.trigger(NewEvent {
        event_type,
        subject,
        data,
        copies,
        allow_unknown_type,
    })?;
    let shown = serde_json::to_value(recorded.event.as_ref()).unwrap_or_default();
    Ok(Answer::json(
        StatusCode::CREATED,
        json!({"data": shown, "deliveries": recorded.deliveries}),
    ))
}
