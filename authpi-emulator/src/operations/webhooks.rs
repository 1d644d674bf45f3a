//! Webhooks: list, create, get, update, delete.

use http::StatusCode;
use serde_json::Value;

use super::{Request, etag};
use crate::{
    answer::Answer,
    dispatch,
    error::{ApiError, Field},
    log::LogLine,
    state::State,
    store::{Auth, Page, Store, Webhook, WebhookStatus},
};

pub(super) fn list(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let status = request.text("status");
    let wanted = |webhook: &Webhook| match status {
        Some(status) => webhook.status.as_str() == status,
        None => webhook.status != WebhookStatus::Deleted,
    };
    let page =
        Page::of(&request.query).read(&world.store().webhooks, wanted, Webhook::shown_in_list)?;
    Ok(Answer::json(StatusCode::OK, page))
}

pub(super) fn create(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let body = &request.body;
    let url = body.get("url").and_then(Value::as_str).unwrap_or_default();
    check_url(url)?;
    check_token(body.get("auth"))?;
    let mut store = world.store();
    let now = world.clock.millis();
    let id = store.ids.fresh("wh_", now);
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
    let account_id = store.account_id.clone();
    let mut webhook = Webhook::new(id.clone(), account_id, name.to_owned(), url.to_owned(), now);
    webhook.auth = Auth::of(body.get("auth").unwrap_or(&Value::Null));
    (webhook.events, webhook.all_events) = events(world, body.get("events"));
    if body.get("status") == Some(&Value::from("disabled")) {
        webhook.status = WebhookStatus::Disabled;
    }
    for (name, member) in free_members(&mut webhook) {
        *member = body.get(name).cloned().unwrap_or_default();
    }
    let (shown, version) = (webhook.shown(true), webhook.version());
    store.put(webhook);
    store.record_about(&id, "webhook.created", request.caller.as_str());
    drop(store);
    warn_of_url(world, &id, url);
    world.changed();
    Ok(Answer::resource(StatusCode::CREATED, shown).with_etag(&etag(version)))
}

pub(super) fn get(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let mut store = world.store();
    let webhook = find(&mut store, request)?;
    Ok(Answer::resource(StatusCode::OK, webhook.shown(false)).with_etag(&etag(webhook.version())))
}

pub(super) fn update(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let body = &request.body;
    let mut store = world.store();
    let now = world.clock.millis();
    let webhook = find(&mut store, request)?;
    request.check_version(webhook.version())?;
    let nulls = ["name", "url", "status", "auth"]
        .into_iter()
        .filter(|name| body.get(*name) == Some(&Value::Null));
    let nulls: Vec<_> = nulls
        .map(|name| Field::new(name, "invalid_type", "cannot be null"))
        .collect();
    if !nulls.is_empty() {
        return Err(ApiError::invalid(nulls));
    }
    check_token(body.get("auth"))?;
    if let Some(url) = body.get("url").and_then(Value::as_str) {
        check_url(url)?;
        url.clone_into(&mut webhook.url);
    }
    if let Some(name) = body.get("name").and_then(Value::as_str) {
        name.clone_into(&mut webhook.name);
    }
    for (name, member) in free_members(webhook) {
        if let Some(given) = body.get(name) {
            member.clone_from(given);
        }
    }
    if body.get("events").is_some() {
        (webhook.events, webhook.all_events) = events(world, body.get("events"));
    }
    if let Some(auth) = body.get("auth") {
        let previous_secret = webhook.auth.secret.take();
        webhook.auth = Auth {
            previous_secret,
            ..Auth::of(auth)
        };
    }
    let reason = body.get("status_reason");
    let by = body.get("status_by");
    let before = webhook.status;
    let after = match body.get("status").and_then(Value::as_str) {
        Some("disabled") => WebhookStatus::Disabled,
        Some(_) => WebhookStatus::Active,
        None => before,
    };
    if before == after {
        webhook.status_reason = reason.unwrap_or(&webhook.status_reason).clone();
        webhook.status_by = by.unwrap_or(&webhook.status_by).clone();
        webhook.touch(now);
    } else {
        webhook.become_(
            after,
            reason.cloned().unwrap_or_default(),
            by.cloned().unwrap_or_default(),
            now,
        );
    }
    let (id, shown, version) = (
        webhook.id.clone(),
        webhook.shown(body.get("auth").is_some()),
        webhook.version(),
    );
    let wanted = webhook.events.clone();
    store.note_interests(&id, &wanted);
    store.record_about(&id, "webhook.updated", request.caller.as_str());
    if before != after {
        let (event_type, paused) = match after {
            WebhookStatus::Active => ("webhook.resumed", false),
            _ => ("webhook.paused", true),
        };
        store.record_about(&id, event_type, request.caller.as_str());
        if paused {
            store.give_up(&id, "the webhook is disabled");
        }
    }
    drop(store);
    if let Some(url) = body.get("url").and_then(Value::as_str) {
        warn_of_url(world, &id, url);
    }
    world.changed();
    Ok(Answer::resource(StatusCode::OK, shown).with_etag(&etag(version)))
}

pub(super) fn delete(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let mut store = world.store();
    let now = world.clock.millis();
    let webhook = find(&mut store, request)?;
    request.check_version(webhook.version())?;
    webhook.become_(WebhookStatus::Deleted, Value::Null, Value::Null, now);
    let id = webhook.id.clone();
    store.record_about(&id, "webhook.deleted", request.caller.as_str());
    store.give_up(&id, "the webhook is deleted");
    drop(store);
    world.changed();
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// The webhook of the path; 404 also for a deleted one.
pub(super) fn find<'a>(
    store: &'a mut Store,
    request: &Request<'_>,
) -> Result<&'a mut Webhook, ApiError> {
    let webhook = store.webhooks.get_mut(request.path("webhook_id"));
    webhook
        .filter(|webhook| webhook.status != WebhookStatus::Deleted)
        .ok_or_else(|| ApiError::not_found("webhook"))
}

/// The members that are stored unchanged.
fn free_members(webhook: &mut Webhook) -> [(&'static str, &mut Value); 5] {
    [
        ("description", &mut webhook.description),
        ("subjects", &mut webhook.subjects),
        ("retry", &mut webhook.retry),
        ("circuit_breaker", &mut webhook.circuit_breaker),
        ("metadata", &mut webhook.metadata),
    ]
}

/// The requested event types without duplicates, and whether these are all types. All of them if
/// none is requested.
fn events(world: &State, asked: Option<&Value>) -> (Vec<String>, bool) {
    let all = &world.description.events.types;
    let Some(asked) = asked.and_then(Value::as_array) else {
        return (all.clone(), true);
    };
    let mut events = Vec::with_capacity(asked.len());
    for name in asked.iter().filter_map(Value::as_str) {
        if !events.iter().any(|known| known == name) {
            events.push(name.to_owned());
        }
    }
    let has_all = all.iter().all(|name| events.contains(name));
    (events, has_all)
}

/// Logs a warning if deliveries to this URL are impossible. AuthPI would accept it, so it is not
/// refused.
fn warn_of_url(world: &State, webhook_id: &str, url: &str) {
    if let Err(why) = world.sender.check(url) {
        let url = dispatch::shown(url);
        world.log.line(|| {
            LogLine::Warning(format!(
                "no delivery to webhook {webhook_id} at {url} will succeed: {why}"
            ))
        });
    }
}

/// Checks of a URL that a schema cannot express.
fn check_url(text: &str) -> Result<(), ApiError> {
    let usable = url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if usable {
        return Ok(());
    }
    let message = "must be an absolute http or https URL without credentials";
    Err(ApiError::invalid(vec![Field::new(
        "url",
        "invalid_format",
        message,
    )]))
}

/// The caller's own bearer token must be a valid header value.
fn check_token(auth: Option<&Value>) -> Result<(), ApiError> {
    match auth.and_then(|auth| auth["bearer_token"].as_str()) {
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            let message = "must be visible ASCII without spaces";
            Err(ApiError::invalid(vec![Field::new(
                "auth.bearer_token",
                "invalid_format",
                message,
            )]))
        }
        _ => Ok(()),
    }
}
