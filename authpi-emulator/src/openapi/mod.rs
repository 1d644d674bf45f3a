//! AuthPI's API as described by `openapi/authpi.yaml`: which operation a request is, and whether
//! it is valid.
//!
//! The document is the only source of paths, parameters and schemas here. [`Description::get`]
//! reads it once per process. [`Description::find`] returns the operation of a request.
//! [`Operation::check_query`], [`Operation::check_headers`] and [`Operation::check_body`] find a
//! client's mistakes; [`Operation::check_answer`] finds the emulator's own.

mod check;
mod document;
mod events;
mod parameter;

use std::{collections::BTreeMap, sync::LazyLock};

use http::{HeaderMap, Method, StatusCode};
use jsonschema::Validator;
use serde_json::Value;

pub(crate) use events::{EventCatalogue, Example};

use crate::error::{ApiError, Field};
use parameter::Parameter;

/// The parsed description.
pub(crate) struct Description {
    pub(crate) operations: Vec<Operation>,
    pub(crate) events: EventCatalogue,
    /// The schema of a delivery's body; the emulator's tests check its own deliveries against it.
    #[cfg(test)]
    delivery: Validator,
}

/// The operations that the emulator implements; a test compares them with the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    WebhooksList,
    WebhooksCreate,
    WebhooksGet,
    WebhooksUpdate,
    WebhooksDelete,
    WebhooksListDeliveries,
    WebhooksRedeliver,
    WebhooksRedeliverFailed,
    EventsList,
    EventsGet,
    EventsAggregate,
    MeGet,
}

impl Call {
    fn parse(operation_id: &str) -> Option<Self> {
        Some(match operation_id {
            "webhooks.list" => Self::WebhooksList,
            "webhooks.create" => Self::WebhooksCreate,
            "webhooks.get" => Self::WebhooksGet,
            "webhooks.update" => Self::WebhooksUpdate,
            "webhooks.delete" => Self::WebhooksDelete,
            "webhooks.listDeliveries" => Self::WebhooksListDeliveries,
            "webhooks.redeliver" => Self::WebhooksRedeliver,
            "webhooks.redeliverFailed" => Self::WebhooksRedeliverFailed,
            "events.list" => Self::EventsList,
            "events.get" => Self::EventsGet,
            "events.aggregate" => Self::EventsAggregate,
            "me.get" => Self::MeGet,
            _ => return None,
        })
    }
}

/// One operation of the description.
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) call: Call,
    method: Method,
    path: Vec<Segment>,
    query: Vec<Parameter>,
    headers: Vec<Parameter>,
    body: Option<Body>,
    /// By status, or by range such as `5XX`; `None` if the description has no content.
    answers: BTreeMap<String, Option<Validator>>,
}

enum Segment {
    Literal(String),
    Name(String),
}

struct Body {
    required: bool,
    schema: Validator,
}

/// The parameters of a call, checked and converted to their schema's type.
pub(crate) type Parameters = BTreeMap<String, Value>;

impl Description {
    /// The description that was compiled into this program.
    ///
    /// # Panics
    /// If `openapi/` is not a valid description; a unit test finds this first.
    pub(crate) fn get() -> &'static Self {
        static DESCRIPTION: LazyLock<Description> = LazyLock::new(|| {
            document::load().expect("the embedded description was read by this crate's tests")
        });
        &DESCRIPTION
    }

    /// The operation of a request, and its path parameters.
    pub(crate) fn find(
        &self,
        method: &Method,
        path: &str,
    ) -> Result<(&Operation, BTreeMap<String, String>), ApiError> {
        let mut allowed = Vec::new();
        for operation in &self.operations {
            let Some(found) = operation.matches(path) else {
                continue;
            };
            if operation.method == *method {
                return Ok((operation, found));
            }
            allowed.push(operation.method.as_str());
        }
        if allowed.is_empty() {
            Err(ApiError::not_found("path"))
        } else {
            Err(ApiError::method_not_allowed(&allowed.join(", ")))
        }
    }
}

#[cfg(test)]
impl Description {
    /// The mistakes in the body of a delivery.
    pub(crate) fn check_delivery(&self, body: &Value) -> Vec<Field> {
        check::mistakes(&self.delivery, body)
    }
}

impl Operation {
    /// Whether the operation has the parameter `Idempotency-Key`.
    pub(crate) fn takes_idempotency_key(&self) -> bool {
        self.headers
            .iter()
            .any(|header| header.name.eq_ignore_ascii_case("idempotency-key"))
    }

    fn matches(&self, path: &str) -> Option<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        let mut segments = path.strip_prefix('/')?.split('/');
        for expected in &self.path {
            let segment = segments.next()?;
            match expected {
                Segment::Literal(literal) if literal == segment => {}
                Segment::Literal(_) => return None,
                Segment::Name(name) => {
                    let value = percent_encoding::percent_decode_str(segment)
                        .decode_utf8()
                        .ok()?;
                    if value.is_empty() {
                        return None;
                    }
                    found.insert(name.clone(), value.into_owned());
                }
            }
        }
        segments.next().is_none().then_some(found)
    }

    /// The query parameters, or 400.
    pub(crate) fn check_query(&self, query: &str) -> Result<Parameters, ApiError> {
        let mut given = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            given
                .entry(name.into_owned())
                .or_default()
                .push(value.into_owned());
        }
        parameter::check_all(&self.query, "query", |parameter| {
            given.remove(parameter).unwrap_or_default()
        })
    }

    /// 400 if a header violates the description.
    pub(crate) fn check_headers(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        parameter::check_all(&self.headers, "header", |parameter| {
            headers
                .get_all(parameter)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect()
        })?;
        Ok(())
    }

    /// The body as JSON, `Null` if there is none. 400 if it is not JSON, 415 for another content
    /// type, 422 if it violates the schema.
    pub(crate) fn check_body(&self, headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
        let Some(expected) = &self.body else {
            return Ok(Value::Null);
        };
        if body.is_empty() {
            if expected.required {
                return Err(ApiError::malformed(
                    "the body is missing",
                    vec![Field::new("body", "required", "is missing")],
                ));
            }
            return Ok(Value::Null);
        }
        let value = json_body(headers, body)?;
        let mistakes = check::mistakes(&expected.schema, &value);
        if mistakes.is_empty() {
            Ok(value)
        } else {
            Err(ApiError::invalid(mistakes))
        }
    }

    /// The mistakes in one of the emulator's own responses; `None` if the description allows it.
    pub(crate) fn check_answer(&self, status: StatusCode, body: Option<&Value>) -> Option<String> {
        let name = format!("{} {:?}", status.as_u16(), self.call);
        let range = format!("{}XX", status.as_u16() / 100);
        match (
            self.answers
                .get(status.as_str())
                .or_else(|| self.answers.get(&range)),
            body,
        ) {
            (None, _) => Some(format!("{name} is not described")),
            (Some(None), None) => None,
            (Some(None), Some(_)) => Some(format!("{name} has a body that is not described")),
            (Some(Some(_)), None) => Some(format!("{name} has no body")),
            (Some(Some(schema)), Some(body)) => {
                let mistakes = check::mistakes(schema, body);
                let first = mistakes.first()?;
                Some(format!("{name}: {}: {}", first.field, first.message))
            }
        }
    }
}

/// A JSON body, or 400 or 415.
pub(crate) fn json_body(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    let content_type = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if essence != "application/json" {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_content_type",
            "a body must be sent as application/json",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        // The position instead of serde's text, which may quote the body.
        let place = format!(
            "is not JSON at line {}, column {}",
            error.line(),
            error.column()
        );
        ApiError::malformed(
            format!("the body {place}"),
            vec![Field::new("body", "malformed", place)],
        )
    })
}

#[cfg(test)]
mod tests;
