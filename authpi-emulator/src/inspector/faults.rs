//! Faults, as the inspector lists them and as its form adds them.

use authpi_inspector::{Fault, FaultField, FaultKind, FaultTarget, NewFault, Problem};
use serde_json::{Map, Value, json};

use crate::{
    faults::{FaultPlan, FaultState, InvalidPlan},
    openapi::Description,
};

/// A field with a number.
const fn number(name: &'static str, label: &'static str, value: &'static str) -> FaultField {
    FaultField {
        name,
        label,
        value,
        is_required: true,
        choices: Vec::new(),
    }
}

/// A limit of waiting.
fn at_most() -> FaultField {
    number("millis", "At most, in milliseconds", "5000")
}

fn json_or_text() -> FaultField {
    FaultField {
        choices: choices([
            ("true", "An error of the API"),
            ("false", "Plain text, as of a proxy"),
        ]),
        ..number("json", "Body", "true")
    }
}

fn choices<const N: usize>(choices: [(&str, &str); N]) -> Vec<(String, String)> {
    let owned = |(value, title): (&str, &str)| (value.to_owned(), title.to_owned());
    choices.into_iter().map(owned).collect()
}

/// The kinds: name, description and own fields.
fn own(target: FaultTarget) -> Vec<(&'static str, &'static str, Vec<FaultField>)> {
    match target {
        FaultTarget::Deliveries => vec![
            (
                "duplicate",
                "The same request is sent again. The first response counts.",
                vec![number("copies", "Further requests", "1")],
            ),
            (
                "reorder",
                "It waits until another attempt has ended, and so arrives later than one that was \
                 sent after it.",
                vec![at_most()],
            ),
            (
                "delay",
                "It is sent later.",
                vec![number("millis", "Delay in milliseconds", "2000")],
            ),
            (
                "burst",
                "It waits until several attempts wait; then all of them are sent at once.",
                vec![number("size", "Attempts", "10"), at_most()],
            ),
            (
                "cut_body",
                "Only half of the body is sent; then the connection is closed.",
                vec![],
            ),
            (
                "slow_body",
                "The body is sent in 16 parts.",
                vec![number(
                    "millis",
                    "Pause between two parts in milliseconds",
                    "200",
                )],
            ),
            (
                "wrong_secret",
                "It is signed with a new random secret.",
                vec![],
            ),
            (
                "rotated_secret",
                "It is signed with the webhook's previous secret, or, if it never had another one, \
                 with one that the receiver does not know yet.",
                vec![],
            ),
            (
                "stale_time",
                "The event and the signature are older.",
                vec![number("seconds", "Age in seconds", "600")],
            ),
            (
                "wrong_length",
                "Content-Length is smaller than the body by ten bytes.",
                vec![],
            ),
            (
                "hang_up",
                "The connection is closed as soon as the request is sent.",
                vec![],
            ),
        ],
        _ => vec![
            (
                "too_many_requests",
                "The response is 429, and nothing is done.",
                vec![
                    number("retry_after", "Retry-After in seconds", "1"),
                    json_or_text(),
                ],
            ),
            (
                "error",
                "The response is an error, and nothing is done.",
                vec![
                    number("status", "Status, from 500 to 599", "503"),
                    json_or_text(),
                ],
            ),
            (
                "stall",
                "Nothing is done, and the caller waits until it gives up.",
                vec![],
            ),
            (
                "cut_answer",
                "The call is performed; half of the response is sent, and then the connection is \
                 closed.",
                vec![],
            ),
            (
                "drop_answer",
                "The call is performed, and the connection is closed instead of a response.",
                vec![],
            ),
            (
                "redirect",
                "The response is 307 to another address, and nothing is done.",
                vec![number("to", "Address", "https://elsewhere.example/")],
            ),
        ],
    }
}

/// Members of a rule beside the fault.
const RULE: [&str; 5] = ["rate", "times", "event_type", "webhook_id", "operation"];
/// Members of a rule and of a fault that are texts.
const TEXTS: [&str; 4] = ["event_type", "webhook_id", "operation", "to"];

/// What the form asks for. `webhooks` are ids, each with what the form shows.
pub(super) fn kinds(description: &Description, webhooks: Vec<(String, String)>) -> Vec<FaultKind> {
    let any = |title: &str| (String::new(), title.to_owned());
    let select = |name, label, choices| FaultField {
        is_required: false,
        choices,
        ..number(name, label, "")
    };
    let same = |name: &String| (name.clone(), name.clone());
    let types = description.events.types.iter().map(same);
    let types = [any("Every type")].into_iter().chain(types).collect();
    let operations = description.operations.iter();
    let operations = operations.map(|operation| same(&operation.id));
    let operations = [any("Every operation")].into_iter().chain(operations);
    let webhooks = [any("Every webhook")].into_iter().chain(webhooks);
    let of_deliveries = vec![
        select("event_type", "Only events of this type", types),
        select("webhook_id", "Only to this webhook", webhooks.collect()),
    ];
    let of_calls = vec![select(
        "operation",
        "Only calls of this operation",
        operations.collect(),
    )];
    let mut kinds = Vec::new();
    for (target, limits) in [
        (FaultTarget::Deliveries, of_deliveries),
        (FaultTarget::Calls, of_calls),
    ] {
        for (name, description, mut fields) in own(target) {
            fields.push(number(
                "rate",
                "Share of attempts or calls, from 0 to 1",
                "1",
            ));
            fields.push(FaultField {
                is_required: false,
                ..number("times", "Times at most; empty for always", "")
            });
            fields.extend(limits.iter().cloned());
            kinds.push(FaultKind {
                name,
                target,
                description,
                fields,
            });
        }
    }
    kinds
}

/// The present faults.
pub(super) fn list(state: &FaultState) -> Vec<Fault> {
    let (plan, [deliveries, calls]) = state.in_use();
    let rule = |target: FaultTarget, rule: Value, (id, applied): (u64, u32)| {
        let mut values = Vec::new();
        let (mut kind, mut times) = (String::new(), None);
        for (name, value) in members(&rule["fault"]).chain(members(&rule)) {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            match name {
                "fault" => {}
                "kind" => kind = text,
                "times" => times = value.as_u64().and_then(|times| times.try_into().ok()),
                "rate" if value.as_f64() == Some(1.0) => {}
                _ => values.push((name.to_owned(), text)),
            }
        }
        Fault {
            id: id.to_string(),
            target,
            kind,
            values,
            applied,
            times,
        }
    };
    let deliveries = plan.deliveries.iter().zip(deliveries);
    let deliveries = deliveries.map(|(it, use_)| rule(FaultTarget::Deliveries, json!(it), use_));
    let calls = plan.calls.iter().zip(calls);
    let calls = calls.map(|(it, use_)| rule(FaultTarget::Calls, json!(it), use_));
    deliveries.chain(calls).collect()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.as_str(), value))
}

pub(super) fn add(state: &FaultState, new: &NewFault) -> Result<(), Problem> {
    let plan = plan(new).map_err(Problem::new)?;
    state.add(plan).map_err(|InvalidPlan { field, message }| {
        let name = field.rsplit('.').next().unwrap_or_default();
        Problem::new(format!("{name} {message}"))
    })
}

/// A plan with this fault alone.
fn plan(new: &NewFault) -> Result<FaultPlan, String> {
    let of = |target, list| {
        let mut kinds = own(target).into_iter();
        let kind = kinds.find(|(name, ..)| *name == new.kind);
        kind.map(|(.., fields)| (list, fields))
    };
    let (list, fields) = of(FaultTarget::Deliveries, "deliveries")
        .or_else(|| of(FaultTarget::Calls, "calls"))
        .ok_or("there is no such fault")?;
    let mut fault = Map::from_iter([("kind".to_owned(), Value::from(&*new.kind))]);
    let mut rule = Map::new();
    for (name, text) in &new.values {
        let value = if TEXTS.contains(&&**name) {
            Value::from(&**text)
        } else {
            let value = serde_json::from_str(text).ok();
            value
                .filter(|value: &Value| value.is_number() || value.is_boolean())
                .ok_or_else(|| format!("{name} must be a number"))?
        };
        let members = if RULE.contains(&&**name) {
            &mut rule
        } else if fields.iter().any(|field| field.name == name) {
            &mut fault
        } else {
            return Err(format!("{name} is not a value of this fault"));
        };
        members.insert(name.clone(), value);
    }
    rule.insert("fault".to_owned(), Value::Object(fault));
    serde_json::from_value(json!({ list: [rule] })).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{CallFault, DeliveryFault};

    /// The names that serde knows.
    fn known<T: serde::de::DeserializeOwned>() -> Vec<String> {
        let unknown = serde_json::from_value::<T>(json!({"kind": "?"}));
        let message = unknown.err().expect("there is no such kind").to_string();
        let (_, names) = message.split_once("expected one of ").expect(&message);
        names
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_form_offers_every_kind_with_values_that_are_valid() {
        let kinds = kinds(Description::get(), Vec::new());
        let names: Vec<_> = kinds.iter().map(|kind| kind.name.to_owned()).collect();
        assert_eq!(
            names,
            [known::<DeliveryFault>(), known::<CallFault>()].concat()
        );
        for kind in kinds {
            let fields = kind.fields.iter().filter(|field| !field.value.is_empty());
            let new = |value: fn(&FaultField) -> String| {
                let mut new = NewFault::default();
                kind.name.clone_into(&mut new.kind);
                let values = fields
                    .clone()
                    .map(|field| (field.name.to_owned(), value(field)));
                new.values = values.collect();
                new
            };
            let plan = plan(&new(|field| field.value.to_owned())).unwrap();
            assert_eq!(plan.check(), Ok(()), "{}", kind.name);
            assert_eq!(plan.deliveries.len() + plan.calls.len(), 1);
            let wrong = super::plan(&new(|_| "x".to_owned())).unwrap_err();
            assert!(
                wrong.ends_with("must be a number"),
                "{}: {wrong}",
                kind.name
            );
        }
    }
}
