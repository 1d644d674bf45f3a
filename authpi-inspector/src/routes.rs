//! Paths, and what each does.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request};
use maud::Markup;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::{
    Body, Delivery, DeliveryFilter, DeliveryStatus, EventFilter, Inspector, NewEvent, NewFault,
    NewWebhook, Problem, Secrets, Source, Tab, WebhookAction,
    body::Signals,
    form::Form,
    guard::{self, Refusal},
    view::{self, Site, curl, deliveries, delivery, events, faults, webhooks},
};

/// Only what this server sends, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

const STYLE: &str = include_str!("../assets/inspector.css");
const SCRIPT: &str = include_str!("../assets/inspector.js");
const ICON: &str = include_str!("../assets/icon.svg");

type Answer = Response<Body>;

/// A request, without its prefix.
struct Request<'a> {
    head: &'a request::Parts,
    query: Form,
    form: Form,
}

pub(crate) fn refused(refusal: Refusal) -> Answer {
    text(StatusCode::FORBIDDEN, refusal.text())
}

pub(crate) async fn answer<S: Source>(
    inspector: &Inspector<S>,
    head: &request::Parts,
    body: &Bytes,
) -> Answer {
    let path = head.uri.path().strip_prefix(&inspector.base);
    let Some(path) = path.and_then(segments) else {
        return text(StatusCode::NOT_FOUND, "not found\n");
    };
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    if head.method != Method::GET && head.method != Method::POST {
        let refused = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "this path takes GET or POST\n",
        );
        return with(refused, header::ALLOW, "GET, POST");
    }
    if head.method == Method::POST && !is_form(&head.headers, body) {
        let message = "a form must be application/x-www-form-urlencoded\n";
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    }
    let request = Request {
        head,
        query: Form::parse(head.uri.query().unwrap_or_default().as_bytes()),
        form: Form::parse(body),
    };
    let name = inspector.source.name();
    let tabs = inspector.source.tabs();
    let is_tab = |tab: &&Tab| segments.first() == Some(&tab.path());
    let site = Site {
        base: &inspector.base,
        name: &name,
        tabs,
        current: tabs.iter().find(is_tab).copied(),
    };
    let result = match (site.current, segments.as_slice()) {
        (None, [""] | []) => {
            let first = tabs.first().map_or("", |tab| tab.path());
            Ok(see_other(&site.path(&[first])))
        }
        (None, ["stream"]) => Ok(stream(inspector)),
        (None, ["assets", file]) => asset(file),
        (Some(Tab::Deliveries), [_, rest @ ..]) => {
            deliveries_at(inspector, &site, &request, rest).await
        }
        (Some(Tab::Webhooks), [_, rest @ ..]) => {
            webhooks_at(inspector, &site, &request, rest).await
        }
        (Some(Tab::Events), [_, rest @ ..]) => events_at(inspector, &site, &request, rest).await,
        (Some(Tab::Faults), [_, rest @ ..]) => faults_at(inspector, &site, &request, rest).await,
        _ => Err(Problem::not_found("page")),
    };
    result.unwrap_or_else(|problem| failed(&site, &problem))
}

async fn deliveries_at<S: Source>(
    inspector: &Inspector<S>,
    site: &Site<'_>,
    request: &Request<'_>,
    rest: &[&str],
) -> Result<Answer, Problem> {
    let source = &inspector.source;
    match (request.head.method.as_str(), rest) {
        ("GET", []) => {
            let status = request.query.get("status");
            let is_status = |status: &DeliveryStatus| Some(status.as_str());
            let filter = DeliveryFilter {
                event_type: request.query.get("type").map(str::to_owned),
                status: DeliveryStatus::ALL
                    .into_iter()
                    .find(|known| is_status(known) == status),
                text: request.query.get("text").map(str::to_owned),
            };
            let before = request.query.get("before");
            let page = source.deliveries(&filter, before).await?;
            let list = deliveries::list(site, &filter, before, &source.event_types(), &page);
            Ok(page_of(list))
        }
        ("GET", [id]) => Ok(page_of(delivery::detail(site, &source.delivery(id).await?))),
        ("GET", [id, "fixture"]) => {
            let delivery = source.delivery(id).await?;
            let file = curl::fixture(last(&delivery)?);
            Ok(download(file, "application/json", &format!("{id}.json")))
        }
        ("GET", [id, "body"]) => {
            let delivery = source.delivery(id).await?;
            let body = last(&delivery)?.body.clone();
            Ok(download(
                body,
                "application/octet-stream",
                &format!("{id}.body"),
            ))
        }
        ("POST", [id, "resend"]) => {
            source.resend(id).await?;
            Ok(see_other(&site.path(&[Tab::Deliveries.path(), id])))
        }
        _ => Err(Problem::not_found("page")),
    }
}

fn last(delivery: &Delivery) -> Result<&crate::Attempt, Problem> {
    let last = delivery.recorded.last();
    last.ok_or_else(|| Problem::not_found("attempt"))
}

async fn webhooks_at<S: Source>(
    inspector: &Inspector<S>,
    site: &Site<'_>,
    request: &Request<'_>,
    rest: &[&str],
) -> Result<Answer, Problem> {
    let source = &inspector.source;
    let own = |segments: &[&str]| site.path(&[&[Tab::Webhooks.path()], segments].concat());
    match (request.head.method.as_str(), rest) {
        ("GET", []) => Ok(page_of(webhooks::list(site, &source.webhooks().await?))),
        ("GET", ["new"]) => {
            let entered = NewWebhook::default();
            let form = webhooks::create(site, &entered, &source.event_types(), None);
            Ok(page_of(form))
        }
        ("POST", []) => {
            let entered = NewWebhook {
                name: request.form.text("name"),
                url: request.form.text("url"),
                events: request.form.all("events"),
                auth: request.form.text("auth"),
            };
            match source.create_webhook(entered.clone()).await {
                Ok((id, secrets)) => Ok(with_secrets(inspector, site, &id, secrets)),
                Err(problem) => {
                    let types = source.event_types();
                    let form = webhooks::create(site, &entered, &types, Some(&problem.message));
                    Ok(html(StatusCode::UNPROCESSABLE_ENTITY, form))
                }
            }
        }
        // A link from elsewhere must not use them up.
        ("GET", [id, "secrets"]) if !guard::is_from_elsewhere(&request.head.headers) => {
            let secrets = inspector.secrets.take(id);
            Ok(page_of(webhooks::secrets(site, id, secrets.as_ref())))
        }
        ("POST", [id, action]) => {
            let action = match *action {
                "enable" => WebhookAction::Enable,
                "disable" => WebhookAction::Disable,
                "rotate" => WebhookAction::Rotate,
                "delete" => WebhookAction::Delete,
                _ => return Err(Problem::not_found("page")),
            };
            let secrets = source.change_webhook(id, action).await?;
            if action == WebhookAction::Rotate {
                return Ok(with_secrets(inspector, site, id, secrets));
            }
            Ok(see_other(&own(&[])))
        }
        _ => Err(Problem::not_found("page")),
    }
}

/// Leads to the page that shows new secrets, if there are any.
fn with_secrets<S: Source>(
    inspector: &Inspector<S>,
    site: &Site<'_>,
    id: &str,
    secrets: Secrets,
) -> Answer {
    if secrets.is_empty() {
        return see_other(&site.path(&[Tab::Webhooks.path()]));
    }
    inspector.secrets.put(id, secrets);
    see_other(&site.path(&[Tab::Webhooks.path(), id, "secrets"]))
}

async fn events_at<S: Source>(
    inspector: &Inspector<S>,
    site: &Site<'_>,
    request: &Request<'_>,
    rest: &[&str],
) -> Result<Answer, Problem> {
    let source = &inspector.source;
    match (request.head.method.as_str(), rest) {
        ("GET", []) => {
            let filter = EventFilter {
                event_type: request.query.get("type").map(str::to_owned),
                text: request.query.get("text").map(str::to_owned),
            };
            let before = request.query.get("before");
            let page = source.events(&filter, before).await?;
            let list = events::list(site, &filter, before, &source.event_types(), &page);
            Ok(page_of(list))
        }
        ("GET", ["trigger"]) => {
            let types = source.event_types();
            let wanted = request.query.get("type");
            let wanted = wanted.filter(|name| types.iter().any(|known| known == name));
            let event_type = wanted.or_else(|| types.first().map(String::as_str));
            let event_type = event_type.unwrap_or_default();
            let example = source.example(event_type);
            let entered = events::Entered {
                event_type,
                subject: &pretty(&example.subject),
                data: &pretty(&example.data),
            };
            Ok(page_of(events::trigger(site, &entered, &types, None)))
        }
        ("POST", []) => {
            let [event_type, subject, data] =
                ["type", "subject", "data"].map(|name| request.form.text(name));
            match trigger(source, &event_type, &subject, &data).await {
                Ok(id) => Ok(see_other(&site.path(&[Tab::Events.path(), &id]))),
                Err(problem) => {
                    let entered = events::Entered {
                        event_type: &event_type,
                        subject: &subject,
                        data: &data,
                    };
                    let types = source.event_types();
                    let form = events::trigger(site, &entered, &types, Some(&problem.message));
                    Ok(html(StatusCode::UNPROCESSABLE_ENTITY, form))
                }
            }
        }
        ("GET", [id]) => Ok(page_of(events::detail(site, &source.event(id).await?))),
        _ => Err(Problem::not_found("page")),
    }
}

async fn trigger<S: Source>(
    source: &S,
    event_type: &str,
    subject: &str,
    data: &str,
) -> Result<String, Problem> {
    let parse = |name: &str, text: &str| {
        serde_json::from_str::<Value>(text)
            .map_err(|error| Problem::new(format!("{name} is not JSON: {error}")))
    };
    let (subject, data) = (parse("subject", subject)?, parse("data", data)?);
    let event = NewEvent::new(event_type.to_owned(), subject, data);
    source.trigger(event).await
}

async fn faults_at<S: Source>(
    inspector: &Inspector<S>,
    site: &Site<'_>,
    request: &Request<'_>,
    rest: &[&str],
) -> Result<Answer, Problem> {
    let source = &inspector.source;
    match (request.head.method.as_str(), rest) {
        ("GET", []) => Ok(page_of(faults::list(site, &source.faults().await?))),
        ("GET", ["new"]) => {
            let kinds = source.fault_kinds();
            let wanted = request.query.get("kind");
            let chosen = kinds.iter().find(|kind| Some(kind.name) == wanted);
            let chosen = chosen.or(kinds.first());
            let chosen = chosen.ok_or_else(|| Problem::not_found("page"))?;
            Ok(page_of(faults::add(site, &kinds, chosen, None)))
        }
        ("POST", []) => {
            let values = request.form.members();
            let entered = NewFault {
                kind: request.form.text("kind"),
                values: values
                    .filter(|(name, _)| *name != "kind")
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            };
            let kinds = source.fault_kinds();
            let chosen = kinds.iter().find(|kind| kind.name == entered.kind);
            let chosen = chosen.ok_or_else(|| Problem::not_found("kind of fault"))?;
            match source.add_fault(entered.clone()).await {
                Ok(()) => Ok(see_other(&site.path(&[Tab::Faults.path()]))),
                Err(problem) => {
                    let failed = Some((&entered, &*problem.message));
                    let form = faults::add(site, &kinds, chosen, failed);
                    Ok(html(StatusCode::UNPROCESSABLE_ENTITY, form))
                }
            }
        }
        ("POST", [id, "remove"]) => {
            source.remove_fault(id).await?;
            Ok(see_other(&site.path(&[Tab::Faults.path()])))
        }
        _ => Err(Problem::not_found("page")),
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

fn stream<S: Source>(inspector: &Inspector<S>) -> Answer {
    let Ok(permit) = inspector.streams.clone().try_acquire_owned() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n");
    };
    let (changes, closed) = (inspector.source.changes(), inspector.closed.subscribe());
    let body = Body::stream(Signals::new(changes, closed, permit));
    respond(StatusCode::OK, "text/event-stream", body)
}

fn asset(file: &str) -> Result<Answer, Problem> {
    let (kind, content) = match file {
        "inspector.css" => ("text/css; charset=utf-8", STYLE),
        "inspector.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return Err(Problem::not_found("page")),
    };
    Ok(respond(StatusCode::OK, kind, Body::full(content)))
}

fn failed(site: &Site<'_>, problem: &Problem) -> Answer {
    let (status, title) = if problem.not_found {
        (StatusCode::NOT_FOUND, "Not found")
    } else {
        (StatusCode::CONFLICT, "That did not work")
    };
    html(status, view::problem(site, title, &problem.message))
}

/// The segments after the prefix. `None` if one is not UTF-8.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let decode = |segment| {
        let decoded = percent_decode_str(segment).decode_utf8().ok()?;
        Some(decoded.into_owned())
    };
    path.split('/').map(decode).collect()
}

/// A form, or a body without content.
fn is_form(headers: &HeaderMap, body: &Bytes) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    match kind {
        Some(Ok(kind)) => {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        }
        Some(Err(_)) => false,
        None => body.is_empty(),
    }
}

fn page_of(markup: Markup) -> Answer {
    html(StatusCode::OK, markup)
}

fn html(status: StatusCode, markup: Markup) -> Answer {
    respond(
        status,
        "text/html; charset=utf-8",
        Body::full(markup.into_string()),
    )
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    respond(status, "text/plain; charset=utf-8", Body::full(text))
}

fn see_other(path: &str) -> Answer {
    with(text(StatusCode::SEE_OTHER, ""), header::LOCATION, path)
}

fn download(content: impl Into<Bytes>, kind: &'static str, name: &str) -> Answer {
    let answer = respond(StatusCode::OK, kind, Body::full(content));
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name: String = name.chars().filter(|c| safe(*c)).collect();
    with(
        answer,
        header::CONTENT_DISPOSITION,
        &format!("attachment; filename=\"{name}\""),
    )
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With `no-referrer`, the page's own forms would have the origin `null`.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    // Paths are percent-encoded and names are filtered, so the value is always valid.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
