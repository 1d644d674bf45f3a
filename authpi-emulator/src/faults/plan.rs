//! The plan, as Rust code and as JSON.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::{Map, Value};

/// The longest time of a fault: one hour.
const MAX_MILLIS: u64 = 3_600_000;
/// How much older an event can get: ten years.
const MAX_STALE_SECONDS: u64 = 315_360_000;
/// The largest number of copies, or of deliveries in a burst.
const MAX_COUNT: u32 = 1_000;

/// Rules for deliveries and for calls of the API. Without rules, nothing goes wrong.
///
/// ```
/// use authpi_emulator::faults::{CallFault, CallRule, DeliveryFault, DeliveryRule, FaultPlan};
///
/// let plan = FaultPlan::new()
///     .delivery(DeliveryRule::new(DeliveryFault::Duplicate { copies: 1 }).rate(0.5))
///     .call(CallRule::new(CallFault::DropAnswer).operation("webhooks.create").times(1));
/// let json = serde_json::to_string(&plan)?;
/// assert_eq!(serde_json::from_str::<FaultPlan>(&json)?, plan);
/// # Ok::<_, serde_json::Error>(())
/// ```
///
/// As JSON: `{"deliveries": [{"fault": {"kind": "duplicate", "copies": 1}, "rate": 0.5}],
/// "calls": [{"fault": {"kind": "drop_answer"}, "operation": "webhooks.create", "times": 1}]}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FaultPlan {
    /// Faults of deliveries. The first rule that matches an attempt applies to it.
    pub deliveries: Vec<DeliveryRule>,
    /// Faults of the API. The first rule that matches a call applies to it.
    pub calls: Vec<CallRule>,
}

/// When a fault of deliveries applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeliveryRule {
    /// What goes wrong.
    #[serde(deserialize_with = "known_members")]
    pub fault: DeliveryFault,
    /// The share of the attempts, from 0 to 1 (default 1).
    #[serde(default = "always")]
    pub rate: f64,
    /// How often it applies at most (default: always).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Only attempts for events of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Only attempts to this webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
}

/// When a fault of the API applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CallRule {
    /// What goes wrong.
    #[serde(deserialize_with = "known_members")]
    pub fault: CallFault,
    /// The share of the calls, from 0 to 1 (default 1).
    #[serde(default = "always")]
    pub rate: f64,
    /// How often it applies at most (default: always).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Only calls of this operation, by its id in the description, such as `webhooks.create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// Reads a fault without unknown members. serde alone ignores those of a kind without values.
fn known_members<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Serialize,
{
    let members = Map::deserialize(deserializer)?;
    let fault = T::deserialize(Value::Object(members.clone())).map_err(D::Error::custom)?;
    let known = serde_json::to_value(&fault).map_err(D::Error::custom)?;
    match members.keys().find(|name| known.get(name).is_none()) {
        Some(name) => Err(D::Error::custom(format!("unknown field `{name}`"))),
        None => Ok(fault),
    }
}

fn always() -> f64 {
    1.0
}

/// What goes wrong with an attempt of a delivery. The record of the delivery shows what the
/// emulator saw of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum DeliveryFault {
    /// The same request is sent this number of times more (1 to 1000). The first response counts.
    Duplicate {
        /// The number of further requests.
        copies: u32,
    },
    /// It waits until another attempt has ended, at most this long, and so arrives later than one
    /// that was sent after it.
    Reorder {
        /// The maximum time, in milliseconds.
        millis: u64,
    },
    /// It is sent later.
    Delay {
        /// The delay in milliseconds (at most an hour).
        millis: u64,
    },
    /// It waits until this number of attempts wait (1 to 1000), at most this long; then all of them
    /// are sent at once.
    Burst {
        /// The number of attempts.
        size: u32,
        /// The maximum time, in milliseconds.
        millis: u64,
    },
    /// Only half of the body is sent; then the connection is closed.
    CutBody,
    /// The body is sent in 16 parts, with this pause between two of them.
    SlowBody {
        /// The pause in milliseconds.
        millis: u64,
    },
    /// It is signed with a new random secret.
    WrongSecret,
    /// It is signed with the webhook's previous secret, or, if it never had another one, with one
    /// that the receiver does not know yet.
    RotatedSecret,
    /// The event and the signature are older by this time.
    StaleTime {
        /// The time in seconds, at most 315,360,000 (ten years).
        seconds: u64,
    },
    /// `Content-Length` is smaller than the body by ten bytes.
    WrongLength,
    /// The connection is closed as soon as the request is sent.
    HangUp,
}

/// What goes wrong with a call of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CallFault {
    /// 429, and nothing is done.
    TooManyRequests {
        /// `Retry-After`, in seconds.
        retry_after: u64,
        /// Whether the body is an error of the API (the default) or plain text, as of a proxy.
        #[serde(default = "yes")]
        json: bool,
    },
    /// This status from 500 to 599, and nothing is done.
    Error {
        /// The status.
        status: u16,
        /// Whether the body is an error of the API (the default) or plain text, as of a proxy.
        #[serde(default = "yes")]
        json: bool,
    },
    /// Nothing is done, and the caller waits until it gives up.
    Stall,
    /// The call is performed; half of the response is sent, and then the connection is closed.
    CutAnswer,
    /// The call is performed, and the connection is closed instead of a response.
    DropAnswer,
    /// 307 to another address, and nothing is done.
    Redirect {
        /// The address.
        to: String,
    },
}

fn yes() -> bool {
    true
}

/// A value of a plan is out of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPlan {
    pub(crate) field: String,
    pub(crate) message: String,
}

impl fmt::Display for InvalidPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

impl std::error::Error for InvalidPlan {}

impl FaultPlan {
    /// A plan without rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule for deliveries.
    #[must_use]
    pub fn delivery(mut self, rule: DeliveryRule) -> Self {
        self.deliveries.push(rule);
        self
    }

    /// Adds a rule for calls.
    #[must_use]
    pub fn call(mut self, rule: CallRule) -> Self {
        self.calls.push(rule);
        self
    }

    pub(crate) fn check(&self) -> Result<(), InvalidPlan> {
        for (at, rule) in self.deliveries.iter().enumerate() {
            let path = |name: &str| format!("deliveries[{at}].{name}");
            rate(rule.rate, path("rate"))?;
            match &rule.fault {
                DeliveryFault::Duplicate { copies } => count(*copies, path("fault.copies"))?,
                DeliveryFault::Burst { size, millis } => {
                    count(*size, path("fault.size"))?;
                    time(*millis, path("fault.millis"))?;
                }
                DeliveryFault::Reorder { millis }
                | DeliveryFault::Delay { millis }
                | DeliveryFault::SlowBody { millis } => time(*millis, path("fault.millis"))?,
                DeliveryFault::StaleTime { seconds } => {
                    at_most((*seconds, MAX_STALE_SECONDS, "s"), path("fault.seconds"))?;
                }
                _ => {}
            }
        }
        for (at, rule) in self.calls.iter().enumerate() {
            let path = |name: &str| format!("calls[{at}].{name}");
            rate(rule.rate, path("rate"))?;
            match &rule.fault {
                CallFault::Error { status, .. } if !(500..=599).contains(status) => {
                    return Err(invalid(path("fault.status"), "must be from 500 to 599"));
                }
                CallFault::Redirect { to } if http::HeaderValue::from_str(to).is_err() => {
                    return Err(invalid(path("fault.to"), "must be a valid header value"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl DeliveryRule {
    /// Applies to every attempt.
    pub fn new(fault: DeliveryFault) -> Self {
        Self {
            fault,
            rate: always(),
            times: None,
            event_type: None,
            webhook_id: None,
        }
    }

    /// Applies to this share of the attempts, from 0 to 1.
    #[must_use]
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Applies at most this number of times.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// Applies to events of this type only.
    #[must_use]
    pub fn event_type(self, event_type: impl Into<String>) -> Self {
        Self {
            event_type: Some(event_type.into()),
            ..self
        }
    }

    /// Applies to this webhook only.
    #[must_use]
    pub fn webhook(self, webhook_id: impl Into<String>) -> Self {
        Self {
            webhook_id: Some(webhook_id.into()),
            ..self
        }
    }
}

impl CallRule {
    /// Applies to every call.
    pub fn new(fault: CallFault) -> Self {
        Self {
            fault,
            rate: always(),
            times: None,
            operation: None,
        }
    }

    /// Applies to this share of the calls, from 0 to 1.
    #[must_use]
    pub fn rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Applies at most this number of times.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// Applies to calls of this operation only, such as `webhooks.create`.
    #[must_use]
    pub fn operation(self, operation: impl Into<String>) -> Self {
        Self {
            operation: Some(operation.into()),
            ..self
        }
    }
}

fn invalid(field: String, message: impl Into<String>) -> InvalidPlan {
    InvalidPlan {
        field,
        message: message.into(),
    }
}

fn rate(rate: f64, field: String) -> Result<(), InvalidPlan> {
    if (0.0..=1.0).contains(&rate) {
        Ok(())
    } else {
        Err(invalid(field, "must be from 0 to 1"))
    }
}

fn count(count: u32, field: String) -> Result<(), InvalidPlan> {
    if (1..=MAX_COUNT).contains(&count) {
        Ok(())
    } else {
        Err(invalid(field, format!("must be from 1 to {MAX_COUNT}")))
    }
}

fn time(millis: u64, field: String) -> Result<(), InvalidPlan> {
    at_most((millis, MAX_MILLIS, "ms"), field)
}

fn at_most((time, limit, unit): (u64, u64, &str), field: String) -> Result<(), InvalidPlan> {
    if time <= limit {
        Ok(())
    } else {
        Err(invalid(field, format!("must be at most {limit} {unit}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_with_its_defaults_and_odd_values_are_refused() {
        let plan: FaultPlan = serde_json::from_str(
            r#"{"deliveries": [{"fault": {"kind": "delay", "millis": 5}}], "calls": [{"fault": {"kind": "error", "status": 502}}]}"#,
        )
        .unwrap();
        let expected = FaultPlan::new()
            .delivery(DeliveryRule::new(DeliveryFault::Delay { millis: 5 }))
            .call(CallRule::new(CallFault::Error {
                status: 502,
                json: true,
            }));
        assert_eq!(plan, expected);
        plan.check().unwrap();
        for wrong in [
            r#"{"deliverys": []}"#,
            r#"{"deliveries": [{"fault": {"kind": "explode"}}]}"#,
            r#"{"deliveries": [{"fault": {"kind": "hang_up", "millis": 5}}]}"#,
            r#"{"deliveries": [{"fault": {"kind": "delay", "millis": 5, "often": 1}}]}"#,
            r#"{"calls": [{"fault": {"kind": "stall", "often": 2}}]}"#,
            r#"{"deliveries": [{"fault": {"kind": "delay", "millis": 5}, "often": 1}]}"#,
        ] {
            assert!(serde_json::from_str::<FaultPlan>(wrong).is_err(), "{wrong}");
        }
        for (wrong, field) in [
            (
                r#"{"deliveries": [{"fault": {"kind": "hang_up"}, "rate": 2}]}"#,
                "deliveries[0].rate",
            ),
            (
                r#"{"deliveries": [{"fault": {"kind": "duplicate", "copies": 0}}]}"#,
                "deliveries[0].fault.copies",
            ),
            (
                r#"{"deliveries": [{"fault": {"kind": "stale_time", "seconds": 315360001}}]}"#,
                "deliveries[0].fault.seconds",
            ),
            (
                r#"{"calls": [{"fault": {"kind": "error", "status": 200}}]}"#,
                "calls[0].fault.status",
            ),
        ] {
            let plan: FaultPlan = serde_json::from_str(wrong).unwrap();
            assert_eq!(plan.check().unwrap_err().field, field);
        }
    }
}
