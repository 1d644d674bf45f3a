//! The operations of the description.
//!
//! A request that arrives here is authenticated, for the emulator's account, and valid by the
//! description. What remains are the rules that a schema cannot express.

pub(crate) mod control;
mod deliveries;
mod events;
mod me;
mod webhooks;

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, header};
use serde_json::Value;

use crate::{
    answer::Answer,
    credentials::Caller,
    error::ApiError,
    openapi::{Call, Parameters},
    state::State,
};

/// A request that is valid by the description.
pub(crate) struct Request<'a> {
    pub(crate) caller: Caller,
    pub(crate) path: BTreeMap<String, String>,
    pub(crate) query: Parameters,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Value,
}

pub(crate) async fn perform(
    world: &Arc<State>,
    call: Call,
    request: Request<'_>,
) -> Result<Answer, ApiError> {
    match call {
        Call::MeGet => Ok(me::get(world, &request)),
        Call::WebhooksList => webhooks::list(world, &request),
        Call::WebhooksCreate => webhooks::create(world, &request),
        Call::WebhooksGet => webhooks::get(world, &request),
        Call::WebhooksUpdate => webhooks::update(world, &request),
        Call::WebhooksDelete => webhooks::delete(world, &request),
        Call::WebhooksListDeliveries => deliveries::list(world, &request),
        Call::WebhooksRedeliver => deliveries::redeliver(world, &request).await,
        Call::WebhooksRedeliverFailed => deliveries::redeliver_failed(world, &request).await,
        Call::EventsList => events::list(world, &request),
        Call::EventsGet => events::get(world, &request),
        Call::EventsAggregate => events::aggregate(world, &request),
    }
}

#[cfg(feature = "inspector")]
pub(crate) use deliveries::resend;

impl Request<'_> {
    fn path(&self, name: &str) -> &str {
        self.path.get(name).map(String::as_str).unwrap_or_default()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.query.get(name).and_then(Value::as_str)
    }

    /// 412 if `If-Match` contains only other versions. Without the header, nothing is checked.
    fn check_version(&self, version: i64) -> Result<(), ApiError> {
        let current = etag(version);
        let mut given = self.headers.get_all(header::IF_MATCH).iter().peekable();
        if given.peek().is_none() {
            return Ok(());
        }
        // Compared strongly, so that a weak tag (`W/"…"`) never matches.
        let fits = |list: &str| {
            list.split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag == current)
        };
        if given.filter_map(|value| value.to_str().ok()).any(fits) {
            Ok(())
        } else {
            Err(ApiError::stale(current))
        }
    }
}

/// The strong `ETag` of a resource: its last change in Unix milliseconds, in quotes.
fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

/// `after` and `before`, both exclusive, in Unix milliseconds.
#[derive(Clone, Copy)]
struct Between {
    after: Option<f64>,
    before: Option<f64>,
}

impl Between {
    fn of(after: Option<&Value>, before: Option<&Value>) -> Self {
        Self {
            after: after.and_then(Value::as_f64),
            before: before.and_then(Value::as_f64),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds stay below 2^53 for the next 285 000 years"
    )]
    fn holds(self, at: i64) -> bool {
        let at = at as f64;
        self.after.is_none_or(|after| at > after) && self.before.is_none_or(|before| at < before)
    }
}
