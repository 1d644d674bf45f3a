//! `authpi faults`: what goes wrong on purpose in a running emulator.

use std::path::{Path, PathBuf};

use authpi_emulator::{
    RemoteEmulator,
    faults::{CallRule, DeliveryRule, FaultPlan},
};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::{
    connect::Connect,
    failure::{Code, Failure, Result},
    files::read,
    output::Output,
};

/// Make deliveries and calls of a running emulator go wrong on purpose.
#[derive(Subcommand)]
pub(crate) enum Command {
    Show(Show),
    Set(Set),
    Clear(Clear),
}

/// Show the present faults as JSON.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi faults show")]
pub(crate) struct Show {
    #[command(flatten)]
    connect: Connect,
}

/// Replace the faults.
///
/// A fault is its kind and, with commas between them, its values and when it applies: rate, times,
/// event_type, webhook_id, operation. Faults of deliveries: duplicate, reorder, delay, burst,
/// cut_body, slow_body, wrong_secret, rotated_secret, stale_time, wrong_length, hang_up. Faults of
/// the API: too_many_requests, error, stall, cut_answer, drop_answer, redirect.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    authpi faults set duplicate,copies=1,rate=0.5 delay,millis=2000,event_type=user.created\n  \
    authpi faults set error,status=503,operation=webhooks.create,times=1\n  \
    authpi faults set --file faults.json")]
pub(crate) struct Set {
    /// The faults, in the order in which they are looked at
    #[arg(value_name = "FAULT", value_parser = rule, required_unless_present = "file", conflicts_with = "file")]
    rules: Vec<Rule>,

    /// A file with the faults as JSON, as `authpi faults show` prints them; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    connect: Connect,
}

/// Remove all faults.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi faults clear")]
pub(crate) struct Clear {
    #[command(flatten)]
    connect: Connect,
}

/// A rule of a plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rule {
    Delivery(DeliveryRule),
    Call(CallRule),
}

impl Command {
    pub(crate) async fn run(self, output: Output) -> Result {
        match self {
            Self::Show(show) => output.one(&emulator(&show.connect)?.faults().await?),
            Self::Set(set) => {
                let emulator = emulator(&set.connect)?;
                output.one(&emulator.set_faults(&set.plan()?).await?)
            }
            Self::Clear(clear) => Ok(emulator(&clear.connect)?.clear_faults().await?),
        }
    }
}

impl Set {
    fn plan(&self) -> Result<FaultPlan> {
        match &self.file {
            Some(file) => plan_in(file),
            None => Ok(plan(&self.rules)),
        }
    }
}

/// The plan in a file.
pub(crate) fn plan_in(file: &Path) -> Result<FaultPlan> {
    serde_json::from_slice(&read(file)?).map_err(|error| {
        Failure::because(format!("{} does not hold faults", file.display()), &error)
            .code(Code::Usage)
    })
}

/// The plan of some rules.
pub(crate) fn plan(rules: &[Rule]) -> FaultPlan {
    rules
        .iter()
        .cloned()
        .fold(FaultPlan::new(), |plan, rule| match rule {
            Rule::Delivery(rule) => plan.delivery(rule),
            Rule::Call(rule) => plan.call(rule),
        })
}

/// The emulator that the settings lead to.
pub(crate) fn emulator(connect: &Connect) -> Result<RemoteEmulator> {
    let settings = connect.settings()?;
    let base_url = settings.base_url.ok_or_else(|| {
        Failure::usage("the emulator's address is missing: set AUTHPI_BASE_URL or give --base-url")
            .hint("`authpi emulate` prints it")
    })?;
    let emulator = RemoteEmulator::new(&base_url, &settings.key_id, settings.key_secret.expose())?;
    Ok(match settings.account_id {
        Some(account_id) => emulator.account(account_id),
        None => emulator,
    })
}

/// A rule such as `delay,millis=500,rate=0.5`.
pub(crate) fn rule(text: &str) -> std::result::Result<Rule, String> {
    const WHEN: [&str; 5] = ["rate", "times", "event_type", "webhook_id", "operation"];
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default().trim().replace('-', "_");
    let mut fault = Map::from_iter([("kind".to_owned(), Value::from(kind))]);
    let mut rule = Map::new();
    for part in parts {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not of the form name=value"))?;
        let value = serde_json::from_str(value)
            .ok()
            .filter(|value: &Value| value.is_number() || value.is_boolean())
            .unwrap_or_else(|| Value::from(value));
        let members = if WHEN.contains(&name) {
            &mut rule
        } else {
            &mut fault
        };
        members.insert(name.to_owned(), value);
    }
    rule.insert("fault".to_owned(), Value::Object(fault));
    let rule = Value::Object(rule);
    let of_delivery = match serde_json::from_value(rule.clone()) {
        Ok(rule) => return Ok(Rule::Delivery(rule)),
        Err(error) => error.to_string(),
    };
    match serde_json::from_value(rule) {
        Ok(rule) => Ok(Rule::Call(rule)),
        // If no delivery rule has this kind of fault, the error for a call rule is reported;
        // otherwise the error for a delivery rule.
        Err(error) if of_delivery.contains("unknown variant") => Err(error.to_string()),
        Err(_) => Err(of_delivery),
    }
}

#[cfg(test)]
mod tests {
    use authpi_emulator::faults::{CallFault, DeliveryFault};

    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_is_its_kind_its_values_and_when_it_applies() {
        let delay = DeliveryRule::new(DeliveryFault::Delay { millis: 500 }).rate(0.5);
        assert_eq!(
            rule("delay,millis=500,rate=0.5").unwrap(),
            Rule::Delivery(delay)
        );
        let error = CallRule::new(CallFault::Error {
            status: 503,
            json: false,
        });
        let error = error.operation("webhooks.create").times(1);
        let text = "error,status=503,json=false,operation=webhooks.create,times=1";
        assert_eq!(rule(text).unwrap(), Rule::Call(error));
        for (wrong, why) in [
            ("explode", "explode"),
            ("delay", "millis"),
            ("delay,5", "name=value"),
            ("stall,event_type=user.created", "event_type"),
        ] {
            let error = rule(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_show_prints_is_what_set_reads() {
        let rules = [rule("hang_up,times=2").unwrap(), rule("stall").unwrap()];
        let printed = json!(plan(&rules)).to_string();
        let read: FaultPlan = serde_json::from_str(&printed).unwrap();
        assert_eq!(read, plan(&rules));
    }
}
