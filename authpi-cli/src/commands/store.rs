//! `authpi store`: what a receiver's own store has recorded.

use std::time::Duration;

use authpi_sdk::{
    client::LoggedEvent,
    event::EventType,
    ledger::{
        DeadLetter, EventKey, RecordState,
        inspect::{Filter, RecordView, Status},
    },
};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::confirm;
use crate::{
    arguments::{duration, event_type, time},
    connect::Connect,
    failure::{Failure, Result},
    output::{Output, Record, time as shown},
    store::{Change, StoreOptions},
};

/// Look into a receiver's store, and repair what it recorded.
///
/// Looking writes nothing: it works with a role that may only read, and on a standby.
#[derive(Subcommand)]
pub(crate) enum Command {
    Status(StatusOf),
    Events(Events),
    Get(Get),
    Forget(Forget),
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    Missed(Missed),
}

/// Count records by state, with the oldest pending event and the leases in flight.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi store status --store sqlite:hooks.db")]
pub(crate) struct StatusOf {
    /// The endpoint's name. Default: all endpoints
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,

    #[command(flatten)]
    store: StoreOptions,
}

/// The endpoint that a command is about.
#[derive(Args)]
struct Endpoint {
    /// The endpoint's name. Default: the only one of the store
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,

    #[command(flatten)]
    store: StoreOptions,
}

/// List records, newest first where the store has times.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi store events --state pending --store sqlite:hooks.db")]
pub(crate) struct Events {
    /// Only records in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<State>,

    /// The maximum number of records to list
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    #[command(flatten)]
    of: Endpoint,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Pending,
    Claimed,
    Handled,
    Dead,
}

impl From<State> for RecordState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Claimed => Self::Claimed,
            State::Handled => Self::Handled,
            State::Dead => Self::Dead,
        }
    }
}

/// Show the record of an event.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi store get evt_1 --store sqlite:hooks.db")]
pub(crate) struct Get {
    /// The event's id, as AuthPI or a log line shows it
    event_id: String,

    #[command(flatten)]
    of: Endpoint,
}

/// Delete the record of an event, so that its next delivery is handled like the first one.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi store forget evt_1 --yes --store sqlite:hooks.db")]
pub(crate) struct Forget {
    /// The event's id
    event_id: String,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    of: Endpoint,
}

/// List, show, replay and purge dead letters.
#[derive(Subcommand)]
pub(crate) enum DeadLetters {
    List(ListLetters),
    Show(ShowLetter),
    Replay(Replay),
    Purge(Purge),
}

/// List the dead letters, newest first where the store has times.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi store dead-letters list --store sqlite:hooks.db")]
pub(crate) struct ListLetters {
    /// The maximum number of dead letters to list
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    #[command(flatten)]
    of: Endpoint,
}

/// Show a dead letter with the delivery's body, which is personal data.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi store dead-letters show evt_1 --store sqlite:hooks.db")]
pub(crate) struct ShowLetter {
    /// The event's id
    event_id: String,

    #[command(flatten)]
    of: Endpoint,
}

/// Have the worker handle dead letters again.
///
/// An endpoint that is handled inline has no worker: there, the event waits until one runs or
/// AuthPI delivers it again.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    authpi store dead-letters replay evt_1 --yes --store sqlite:hooks.db\n  \
    authpi store dead-letters replay --all --yes --store sqlite:hooks.db")]
pub(crate) struct Replay {
    /// The events' ids
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    event_ids: Vec<String>,

    /// All dead letters of the endpoint that hold a readable event
    #[arg(long)]
    all: bool,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    of: Endpoint,
}

/// Delete old dead letters of an endpoint, with their bodies.
///
/// Their records go too, so another delivery of such an event would be handled as new.
#[derive(Args)]
#[command(
    after_help = "Example:\n  authpi store dead-letters purge --older-than 7d --yes --store sqlite:hooks.db"
)]
pub(crate) struct Purge {
    /// Only those that were given up at least this long ago, such as 7d
    #[arg(long, value_name = "AGE", value_parser = duration)]
    older_than: Duration,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    of: Endpoint,
}

/// List the events of AuthPI's log that were not handled.
///
/// It compares the log with the store, event by event. An event without a record was never handled:
/// it was not delivered, or no handler is registered for its type. It fails if there is one.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    authpi store missed --after 1d --webhook wh_1 --store sqlite:hooks.db")]
pub(crate) struct Missed {
    /// Only events after this time, such as 2026-11-25T08:00:00Z, or 1d for a day ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    after: Timestamp,

    /// Only the event types of this webhook, and what happened since it was created
    #[arg(long, value_name = "ID")]
    webhook: Option<String>,

    /// Only events of these types, with commas between them
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = event_type, conflicts_with = "webhook")]
    types: Vec<EventType>,

    #[command(flatten)]
    of: Endpoint,

    #[command(flatten)]
    connect: Connect,
}

impl Record for RecordView {
    const COLUMNS: &[&str] = &[
        "event",
        "state",
        "attempts",
        "first claimed",
        "finished",
        "reason",
    ];

    fn cells(&self) -> Vec<String> {
        let at = |at: Option<Timestamp>| at.map_or_else(String::new, |at| shown(at.into()));
        vec![
            self.key.event_id().to_owned(),
            format!("{:?}", self.state).to_lowercase(),
            self.attempts
                .map_or_else(|| "?".to_owned(), |attempts| attempts.to_string()),
            at(self.first_claimed_at),
            at(self.finished_at),
            self.reason.clone().unwrap_or_default(),
        ]
    }
}

impl Record for Status {
    const COLUMNS: &[&str] = &[
        "endpoint",
        "pending",
        "claimed",
        "handled",
        "dead",
        "leases",
        "oldest pending",
        "inbox",
    ];

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let age = |age: Option<Duration>| {
            age.map_or_else(String::new, |age| {
                format!("{:?}", Duration::from_secs(age.as_secs()))
            })
        };
        let counts = self.counts;
        vec![
            self.endpoint.clone(),
            number(counts.map(|counts| counts.pending)),
            number(counts.map(|counts| counts.claimed)),
            number(counts.map(|counts| counts.handled)),
            number(counts.map(|counts| counts.dead)),
            number(self.leases_in_flight),
            age(self.oldest_pending),
            self.inbox
                .map_or_else(String::new, |inbox| inbox.depth.to_string()),
        ]
    }
}

/// A dead letter without its body.
#[derive(Serialize)]
struct Letter {
    event_id: String,
    event_type: Option<String>,
    reason: String,
    attempts: u32,
    died_at: String,
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        let event = letter.event().ok();
        Self {
            event_id: letter.key.event_id().to_owned(),
            event_type: event.map(|event| event.event_type().to_string()),
            reason: letter.reason.clone(),
            attempts: letter.attempts,
            died_at: shown(letter.died_at.into()),
        }
    }
}

/// An event of the log that was not handled.
#[derive(Serialize)]
struct Unhandled {
    event_id: String,
    #[serde(rename = "type")]
    event_type: String,
    time: String,
    /// The state of the record, or `missing`.
    state: String,
}

impl Record for Unhandled {
    const COLUMNS: &[&str] = &["event", "type", "time", "state"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.event_id.clone(),
            self.event_type.clone(),
            self.time.clone(),
            self.state.clone(),
        ]
    }
}

impl Command {
    pub(crate) async fn run(self, output: Output) -> Result {
        match self {
            Self::Status(status) => status.run(output).await,
            Self::Events(events) => events.run(output).await,
            Self::Get(get) => get.run(output).await,
            Self::Forget(forget) => forget.run(output).await,
            Self::DeadLetters(DeadLetters::List(list)) => list.run(output).await,
            Self::DeadLetters(DeadLetters::Show(show)) => show.run(output).await,
            Self::DeadLetters(DeadLetters::Replay(replay)) => replay.run(output).await,
            Self::DeadLetters(DeadLetters::Purge(purge)) => purge.run(output).await,
            Self::Missed(missed) => missed.run(output).await,
        }
    }
}

/// The key of an id as AuthPI shows it, or as a store's own list and log lines do.
fn key(endpoint: &str, event_id: &str) -> EventKey {
    if event_id.starts_with("sha256:") {
        EventKey::from_stored(endpoint, event_id)
    } else {
        EventKey::new(endpoint, event_id)
    }
}

fn no_record(endpoint: &str, event_id: &str) -> Failure {
    Failure::not_found(format!(
        "the endpoint {endpoint} has no record of {event_id}"
    ))
    .hint("it was not delivered, no handler is registered for its type, or its record is gone")
}

impl StatusOf {
    async fn run(self, output: Output) -> Result {
        let store = self.store.open().await?;
        let endpoints = match self.endpoint {
            Some(endpoint) => vec![endpoint],
            None => store
                .endpoints()
                .await
                .map_err(|failure| failure.hint("give --endpoint, or --scan to look for them"))?,
        };
        let mut list = output.list();
        for endpoint in endpoints {
            list.push(store.status(&endpoint).await?)?;
        }
        list.finish()
    }
}

impl Events {
    async fn run(self, output: Output) -> Result {
        let store = self.of.store.open().await?;
        let endpoint = store.endpoint(self.of.endpoint.as_deref()).await?;
        let mut filter = Filter::new(endpoint);
        if let Some(state) = self.state {
            filter = filter.state(state.into());
        }
        let mut list = output.list();
        let mut listed = 0;
        loop {
            let page = store.list(&filter).await?;
            for record in page.records {
                if listed == self.limit {
                    output.note(&format!("there are more than {listed}; raise --limit"));
                    return list.finish();
                }
                list.push(record)?;
                listed += 1;
            }
            let Some(next) = page.next else {
                return list.finish();
            };
            filter = filter.before(next);
        }
    }
}

impl Get {
    async fn run(self, output: Output) -> Result {
        let store = self.of.store.open().await?;
        let endpoint = store.endpoint(self.of.endpoint.as_deref()).await?;
        match store.get(&key(&endpoint, &self.event_id)).await? {
            Some(record) => output.one(&record),
            None => Err(no_record(&endpoint, &self.event_id)),
        }
    }
}

impl Forget {
    async fn run(self, output: Output) -> Result {
        let store = self.of.store.open().await?;
        let endpoint = store.endpoint(self.of.endpoint.as_deref()).await?;
        let key = key(&endpoint, &self.event_id);
        if store.get(&key).await?.is_none() {
            return Err(no_record(&endpoint, &self.event_id));
        }
        confirm(
            self.yes,
            &format!(
                "Forget {}? Its next delivery is handled again.",
                self.event_id
            ),
        )?;
        let change = self.of.store.open_to_change(&store).await?;
        if !change.forget(&key).await? {
            return Err(no_record(&endpoint, &self.event_id));
        }
        output.note(&format!("forgot {}", self.event_id));
        Ok(())
    }
}

impl ListLetters {
    async fn run(self, output: Output) -> Result {
        let events = Events {
            state: Some(State::Dead),
            limit: self.limit,
            of: self.of,
        };
        events.run(output).await
    }
}

/// The keys of the dead letters that are wanted. One page of letters is in memory at a time.
async fn letter_keys(
    store: &Change,
    endpoint: &str,
    is_wanted: impl Fn(&DeadLetter) -> bool,
) -> Result<Vec<EventKey>> {
    let (mut keys, mut last) = (Vec::new(), None::<DeadLetter>);
    loop {
        let page = store.dead_letters(endpoint, last.as_ref(), 100).await?;
        let wanted = page.iter().filter(|letter| is_wanted(letter));
        keys.extend(wanted.map(|letter| letter.key.clone()));
        let Some(newest) = page.into_iter().next_back() else {
            return Ok(keys);
        };
        last = Some(newest);
    }
}

impl ShowLetter {
    async fn run(self, output: Output) -> Result {
        let store = self.of.store.open().await?;
        let endpoint = store.endpoint(self.of.endpoint.as_deref()).await?;
        let letter = store
            .dead_letter(&key(&endpoint, &self.event_id))
            .await?
            .ok_or_else(|| no_letter(&endpoint, &self.event_id))?;
        let mut members = json!(Letter::from(&letter));
        members["first_claimed_at"] = shown(letter.first_claimed_at.into()).into();
        members["body"] = serde_json::from_slice(&letter.body)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&letter.body)));
        output.one(&members)
    }
}

fn no_letter(endpoint: &str, event_id: &str) -> Failure {
    Failure::not_found(format!(
        "the endpoint {endpoint} has no dead letter {event_id}"
    ))
    .hint("`authpi store dead-letters list` shows them")
}

impl Replay {
    async fn run(self, output: Output) -> Result {
        let store = self.of.store.open().await?;
        let endpoint = store.endpoint(self.of.endpoint.as_deref()).await?;
        let change = self.of.store.open_to_change(&store).await?;
        let wanted: Vec<_> = self.event_ids.iter().map(|id| key(&endpoint, id)).collect();
        let keys = letter_keys(&change, &endpoint, |letter| {
            if !self.all {
                return wanted.contains(&letter.key);
            }
            // `--all` skips unreadable and expired deliveries, which a person should look at first.
            // Their key is not the key of their event.
            let own = |id: &str| EventKey::new(&*endpoint, id) == letter.key;
            letter.event().is_ok_and(|event| own(event.id()))
        })
        .await?;
        for (event_id, key) in self.event_ids.iter().zip(&wanted) {
            if !keys.contains(key) {
                return Err(no_letter(&endpoint, event_id));
            }
        }
        confirm(self.yes, &format!("Replay {} dead letters?", keys.len()))?;
        let mut replayed = 0;
        for key in &keys {
            replayed += usize::from(change.replay(key).await?);
        }
        output.note(
            "a worker of the endpoint handles them; without a worker they wait for a redelivery",
        );
        output.one(&json!({"replayed": replayed}))
    }
}

impl Purge {
    async fn run(self, output: Output) -> Result {
        let store = self.of.store.open().await?;
        let endpoint = store.endpoint(self.of.endpoint.as_deref()).await?;
        let until = SignedDuration::try_from(self.older_than)
            .ok()
            .and_then(|age| Timestamp::now().checked_sub(age).ok())
            .unwrap_or(Timestamp::MIN);
        let change = self.of.store.open_to_change(&store).await?;
        let old = letter_keys(&change, &endpoint, |letter| letter.died_at <= until).await?;
        let question = format!("Delete {} dead letters of {endpoint}?", old.len());
        confirm(self.yes, &question)?;
        let mut purged = 0;
        for key in &old {
            purged += usize::from(change.forget(key).await?);
        }
        output.one(&json!({"purged": purged}))
    }
}

impl Missed {
    async fn run(self, output: Output) -> Result {
        let client = self.connect.client()?;
        let store = self.of.store.open().await?;
        let endpoint = store.endpoint(self.of.endpoint.as_deref()).await?;
        let (mut types, mut after) = (self.types, self.after);
        if let Some(webhook_id) = &self.webhook {
            let webhook = client.webhooks().get(webhook_id).await?.value;
            types = webhook
                .events
                .iter()
                .map(|name| EventType::from(name.as_str()))
                .collect();
            if let Ok(created_at) = webhook.created_at.timestamp() {
                after = after.max(created_at);
            }
        }
        let mut call = client.events().list().after(after).limit(100);
        if !types.is_empty() {
            call = call.event_types(types);
        }
        let (mut items, mut list) = (call.items(), output.list());
        let (mut checked, mut missed) = (0_u64, 0_u64);
        while let Some(event) = items.next().await {
            let event: LoggedEvent = event?;
            checked += 1;
            let record = store.get(&EventKey::new(&*endpoint, &*event.id)).await?;
            let state = match record.map(|record| record.state) {
                Some(RecordState::Handled) => continue,
                Some(state) => format!("{state:?}").to_lowercase(),
                None => "missing".to_owned(),
            };
            missed += 1;
            list.push(Unhandled {
                time: shown(event.timestamp),
                event_id: event.id,
                event_type: event.r#type,
                state,
            })?;
        }
        list.finish()?;
        if missed == 0 {
            output.note(&format!("all {checked} events of the log are handled"));
            return Ok(());
        }
        Err(Failure::new(format!(
            "{missed} of {checked} events of the log are not handled"
        )))
    }
}
