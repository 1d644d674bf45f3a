//! What AuthPI does not document and the emulator must decide, in one place.
//!
//! Nothing here was observed at the live service. The constants are below; the rules that are not
//! numbers are:
//!
//! - **Order.** Lists are newest first. A cursor is the id of the last item of the previous page.
//! - **400 or 422.** A request that cannot be read (a body that is not JSON, a query parameter that
//!   violates its schema, a malformed header, an unknown cursor) gets 400. A JSON body that
//!   violates the description gets 422. Both are `invalid_request` with `fields`. Unknown query
//!   parameters are ignored.
//! - **Another account's id** gets 403 `access_denied`; an unknown path or id gets 404 `not_found`.
//! - **URL of a webhook:** any absolute `http` or `https` URL with a host and without credentials
//!   is accepted. The emulator itself delivers over plain HTTP, to this machine and to the allowed
//!   hosts. For other URLs it logs a warning, and each delivery fails with a `last_error` that
//!   tells how to allow the host.
//! - **A type that is not in the catalogue** can be triggered only on request. Webhooks with all
//!   events receive it.
//! - **Too many pending deliveries.** A triggered event is refused with 503. A change of a webhook
//!   is not refused: its event is logged, and its deliveries fail immediately.
//! - **No `events`** in a create call means all events of the catalogue; the webhook then shows the
//!   whole list.
//! - **Deleted webhooks** stay in the list under `status=deleted` and get 404 elsewhere. A list
//!   without `status` omits them.
//! - **Disabled webhooks** receive no new deliveries, and pending retries fail. `failing` webhooks
//!   receive no new deliveries either, but retries continue; if one succeeds, the webhook becomes
//!   active again.
//! - **`webhook.paused`** happens when a webhook is disabled or starts failing,
//!   **`webhook.resumed`** when it becomes active again.
//! - **Subjects:** a webhook with `subjects` receives an event if the event's subject has all
//!   members of at least one of them.
//! - **`retry` and `circuit_breaker`** of a webhook are stored and shown, but have no effect.
//! - **A delivery's envelope** has the time of the event, not of the attempt. A retry sends the
//!   same bytes, with a new signature. A redelivery of a finished delivery is a new envelope (with
//!   another envelope id) around the same event. A receiver's `Retry-After` is ignored.
//! - **Redelivery** is possible whatever the delivery's status, even if its webhook is disabled,
//!   and does not use the attempt budget. A redelivery during another attempt gets 409 `conflict`.
//!   A bulk redelivery makes one attempt for each failed delivery and waits for all of them; those
//!   in progress are skipped.
//! - **Updating `auth`** generates new secrets, even if its type does not change. Required members
//!   of a webhook (`name`, `url`, `status`, `auth`) cannot be null: 422. `events: null` means all
//!   events, like omitting it in a create call.
//! - **Aggregates** group by `type`, `source`, `trigger` or any member of the subject, count unique
//!   values of the same, and have the intervals `minute`, `hour` and `day` (UTC). A bucket has
//!   `count`, `timestamp` (the start of the interval, in Unix milliseconds) with an interval, the
//!   group's value under the name of `group_by`, and `unique` with `count_unique`.

use std::time::Duration;

/// Pauses between the attempts of one delivery; the attempt budget is one more than their number.
pub(crate) const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(15),
    Duration::from_hours(1),
];

/// How long the emulator waits for the complete response to a delivery.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// A webhook becomes `failing` after this number of consecutive deliveries without success.
pub(crate) const FAILING_AFTER: u32 = 10;

/// The content type of a delivery.
pub(crate) const DELIVERY_CONTENT_TYPE: &str = "application/json";

/// `spec` of an event.
pub(crate) const EVENT_SPEC: &str = "1.0";

/// `error` of a 401 response.
pub(crate) const UNAUTHENTICATED: &str = "unauthorized_client";

/// `error` of a 403 response.
pub(crate) const FORBIDDEN: &str = "access_denied";

/// The maximum size of a request body, in bytes; larger ones get 413.
pub(crate) const MAX_REQUEST: usize = 1024 * 1024;

/// The time limit for a request's body; slower ones get 408.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of connections; further ones wait to be accepted.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// The maximum number of pending deliveries.
pub(crate) const MAX_PENDING: usize = 10_000;

/// `Retry-After` of 409 and 503 responses, in seconds.
pub(crate) const CONFLICT_RETRY_AFTER: u64 = 1;
