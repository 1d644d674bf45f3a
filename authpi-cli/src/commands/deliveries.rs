//! `authpi deliveries`: the deliveries of a webhook.

use std::time::Duration;

use authpi_sdk::{
    client::{
        DeliveryStatus, RedeliverFailedResult, RedeliveredWebhookDelivery, WebhookDelivery,
        Webhooks,
    },
    event::EventType,
};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    arguments::{duration, event_type, time},
    connect::Connect,
    failure::{Failure, Result},
    output::{Output, Record, time as shown},
};

/// Show and repeat the deliveries of a webhook.
#[derive(Subcommand)]
pub(crate) enum Command {
    List(List),
    Get(Get),
    Redeliver(Redeliver),
    RedeliverFailed(RedeliverFailed),
}

/// Which deliveries.
#[derive(Args, Clone)]
struct Filter {
    /// Only deliveries of events of this type
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    event_type: Option<EventType>,

    /// Only deliveries after this time, such as 2026-11-25T08:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    after: Option<Timestamp>,

    /// Only deliveries before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    before: Option<Timestamp>,
}

/// List the deliveries of a webhook. One delivery covers all attempts for one event.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi deliveries list wh_1 --status failed --after 2h")]
pub(crate) struct List {
    /// The webhook's id
    webhook_id: String,

    /// Only deliveries with this status: pending, succeeded or failed
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,

    #[command(flatten)]
    filter: Filter,

    /// The maximum number of deliveries to list
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    #[command(flatten)]
    connect: Connect,
}

/// Show one delivery. AuthPI has no call for it: it is looked for in the list.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi deliveries get wh_1 whd_1")]
pub(crate) struct Get {
    /// The webhook's id
    webhook_id: String,

    /// The delivery's id, or the id of its event
    id: String,

    #[command(flatten)]
    connect: Connect,
}

/// Send one delivery again, and show the outcome of this attempt.
///
/// It fails if the endpoint refuses.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi deliveries redeliver wh_1 whd_1 --wait 1m")]
pub(crate) struct Redeliver {
    /// The webhook's id
    webhook_id: String,

    /// The delivery's id
    delivery_id: String,

    /// If the endpoint refuses, wait up to this time for further attempts to succeed
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,

    #[command(flatten)]
    connect: Connect,
}

/// Send failed deliveries again: all of them, or those that the filters select.
///
/// With --wait, it follows them until each one has ended, and fails if one failed again.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi deliveries redeliver-failed wh_1 --after 2h --wait 10m")]
pub(crate) struct RedeliverFailed {
    /// The webhook's id
    webhook_id: String,

    #[command(flatten)]
    filter: Filter,

    /// Wait up to this time until each of them has ended
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,

    #[command(flatten)]
    connect: Connect,
}

impl Record for WebhookDelivery {
    const COLUMNS: &[&str] = &[
        "id",
        "status",
        "type",
        "event",
        "attempts",
        "answer",
        "created",
        "last error",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.status.to_string(),
            self.event_type.clone(),
            self.event_id.clone(),
            self.attempt_count.to_string(),
            self.last_response_status
                .map_or_else(String::new, |status| status.to_string()),
            shown(self.created_at),
            self.last_error.clone().unwrap_or_default(),
        ]
    }
}

/// The final count of a bulk redelivery.
#[derive(Serialize)]
struct Count {
    total: usize,
    succeeded: usize,
    failed: usize,
    pending: usize,
    #[serde(skip_serializing_if = "is_zero")]
    unknown: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Command {
    pub(crate) async fn run(self, output: Output) -> Result {
        match self {
            Self::List(list) => list.run(output).await,
            Self::Get(get) => {
                let webhooks = get.connect.client()?.webhooks();
                output.one(&find(&webhooks, &get.webhook_id, &get.id).await?)
            }
            Self::Redeliver(redeliver) => redeliver.run(output).await,
            Self::RedeliverFailed(redeliver) => redeliver.run(output).await,
        }
    }
}

/// Applies the filters that both calls share.
macro_rules! filtered {
    ($filter:expr, $call:expr) => {{
        let (filter, mut call) = ($filter, $call);
        if let Some(event_type) = filter.event_type {
            call = call.event_type(event_type);
        }
        if let Some(after) = filter.after {
            call = call.after(after);
        }
        if let Some(before) = filter.before {
            call = call.before(before);
        }
        call
    }};
}

impl List {
    async fn run(self, output: Output) -> Result {
        let mut call = self
            .connect
            .client()?
            .webhooks()
            .deliveries(&self.webhook_id);
        if let Some(status) = &self.status {
            call = call.status(DeliveryStatus::from(status.as_str()));
        }
        let call = filtered!(self.filter, call);
        output.items(call.items(), self.limit).await
    }
}

/// Looks through the list for a delivery, by its own id or its event's.
async fn find(webhooks: &Webhooks, webhook_id: &str, id: &str) -> Result<WebhookDelivery> {
    let mut items = webhooks.deliveries(webhook_id).limit(100).items();
    while let Some(delivery) = items.next().await {
        let delivery = delivery?;
        if delivery.id == id || delivery.event_id == id {
            return Ok(delivery);
        }
    }
    Err(
        Failure::not_found(format!("the webhook {webhook_id} has no delivery {id}"))
            .hint("`authpi deliveries list` shows the ids"),
    )
}

impl Redeliver {
    async fn run(self, output: Output) -> Result {
        let webhooks = self.connect.client()?.webhooks();
        let sent: RedeliveredWebhookDelivery = webhooks
            .redeliver(&self.webhook_id, &self.delivery_id)
            .await?
            .value;
        if let (false, Some(wait)) = (sent.success, self.wait) {
            return follow(&webhooks, &sent, wait, output).await;
        }
        output.one(&sent)?;
        if sent.success {
            return Ok(());
        }
        Err(refused(sent.last_error.as_deref()))
    }
}

/// Waits for the attempts after the one that was asked for.
async fn follow(
    webhooks: &Webhooks,
    sent: &RedeliveredWebhookDelivery,
    wait: Duration,
    output: Output,
) -> Result {
    let Some(over) = webhooks.outcome(sent).within(wait).await? else {
        output.one(sent)?;
        return Err(Failure::new("the delivery has not ended in this time"));
    };
    output.one(&over)?;
    match over.status {
        DeliveryStatus::Succeeded => Ok(()),
        _ => Err(refused(over.last_error.as_deref())),
    }
}

fn refused(error: Option<&str>) -> Failure {
    Failure::new(format!(
        "the endpoint did not accept the delivery: {}",
        error.unwrap_or("AuthPI gives no reason")
    ))
}

impl RedeliverFailed {
    async fn run(self, output: Output) -> Result {
        let webhooks = self.connect.client()?.webhooks();
        let call = filtered!(self.filter, webhooks.redeliver_failed(&self.webhook_id));
        let Some(wait) = self.wait else {
            let answered: RedeliverFailedResult = call.await?.value;
            output.note(
                "AuthPI has accepted the redelivery; with --wait, this waits for the outcomes",
            );
            return output.one(&answered);
        };
        let bar = progress(output.quiet);
        let shown = bar.clone();
        let progress = call
            .track()
            .within(wait)
            .on_progress(move |now| {
                shown.set_length(now.total as u64);
                shown.set_position(now.over() as u64);
                shown.set_message(format!(
                    "{} succeeded, {} failed",
                    now.succeeded, now.failed
                ));
            })
            .await?;
        bar.finish_and_clear();
        let count = Count {
            total: progress.total,
            succeeded: progress.succeeded,
            failed: progress.failed,
            pending: progress.pending(),
            unknown: progress.unknown,
        };
        output.one(&count)?;
        if count.succeeded == count.total {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} of {} deliveries have not succeeded",
            count.total - count.succeeded,
            count.total
        )))
    }
}

/// A progress bar on standard error, if that is a terminal.
pub(crate) fn progress(quiet: bool) -> ProgressBar {
    let bar = if quiet {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(0)
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}
