//! What AuthPI does not document and the emulator has to decide, in one place.
//!
//! Nothing here was seen at the live service. Each constant says what it decides; the rules that
//! are not numbers are:
//!
//! - **Order.** Lists are newest first. A cursor is the id of the last item of the page before.
//! - **400 or 422.** What cannot be read (a body that is not JSON, a query parameter that breaks
//!   its schema, a malformed header, an unknown cursor) is 400; a JSON body that breaks the
//!   description is 422. Both are `invalid_request` with `fields`. Query parameters that the
//!   description does not know are ignored.
//! - **Another account's id** is 403 `access_denied`; an unknown path or id is 404 `not_found`.
//! - **URL of a webhook:** any absolute `http` or `https` URL with a host and without credentials
//!   is accepted. The emulator itself delivers over plain HTTP, to this machine and to the hosts
//!   that it was allowed to. For another URL it logs a warning, and each delivery fails and says in
//!   `last_error` how to allow it.
//! - **A type that is not in the catalogue** is triggered only on request, and goes to the webhooks
//!   that have all events.
//! - **Too many pending deliveries.** A triggered event is then refused with 503. A change of a
//!   webhook is not: its event is logged, and its deliveries fail at once.
//! - **No `events`** in a create call means all events of the catalogue; the webhook then shows the
//!   whole list.
//! - **Deleted webhooks** stay in the list under `status=deleted` and are 404 elsewhere. A list
//!   without `status` leaves them out.
//! - **Disabled webhooks** get no new deliveries, and what was still to be retried fails. `failing`
//!   webhooks get no new deliveries either, but retries go on; one that succeeds makes the webhook
//!   active again.
//! - **`webhook.paused`** happens when a webhook is disabled or starts failing,
//!   **`webhook.resumed`** when it is active again.
//! - **Subjects:** a webhook with `subjects` gets events whose subject has all members of at least
//!   one of them.
//! - **`retry` and `circuit_breaker`** of a webhook are stored and shown, not interpreted.
//! - **A delivery's envelope** has the time of the event, not of the attempt. A retry sends the
//!   same bytes, signed again. A redelivery of what was over is a new envelope (another envelope
//!   id) around the same event. A receiver's `Retry-After` is not heeded.
//! - **Redelivery** is possible whatever the delivery's status, also when its webhook is disabled;
//!   it needs no room in the attempt budget. A redelivery while another attempt runs is 409
//!   `conflict`. A redelivery in bulk makes one attempt for each failed delivery and waits for all
//!   of them; those under way already are left out.
//! - **Updating `auth`** makes new secrets, also when its type stays the same. Members of a webhook
//!   that it cannot do without (`name`, `url`, `status`, `auth`) cannot be null: 422.
//!   `events: null` means all events, as leaving them out does on create.
//! - **Aggregates** group by `type`, `source`, `trigger` or any member of the subject, count unique
//!   values of the same, and have intervals `minute`, `hour` and `day` (in UTC). A bucket has
//!   `count`, `timestamp` (the interval's begin, in Unix milliseconds) with an interval, the
//!   group's value under the name of `group_by`, and `unique` with `count_unique`.

use std::time::Duration;

/// Pauses between the attempts of one delivery; the attempt budget is one more than these.
pub(crate) const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(15),
    Duration::from_hours(1),
];

/// How long the emulator waits for the whole answer to a delivery.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// A webhook is `failing` after so many deliveries in a row used up their attempt budget.
pub(crate) const FAILING_AFTER: u32 = 10;

/// The content type of a delivery.
pub(crate) const DELIVERY_CONTENT_TYPE: &str = "application/json";

/// `spec` of an event.
pub(crate) const EVENT_SPEC: &str = "1.0";

/// `error` of an answer 401.
pub(crate) const UNAUTHENTICATED: &str = "unauthorized_client";

/// `error` of an answer 403.
pub(crate) const FORBIDDEN: &str = "access_denied";

/// The longest request body, in bytes; a longer one is 413.
pub(crate) const MAX_REQUEST: usize = 1024 * 1024;

/// How long a request's body may take to arrive; after that it is 408.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections to the emulator at once; more of them wait to be accepted.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// How many deliveries may be pending.
pub(crate) const MAX_PENDING: usize = 10_000;

/// `Retry-After` of the answers 409 and 503, in seconds.
pub(crate) const CONFLICT_RETRY_AFTER: u64 = 1;
