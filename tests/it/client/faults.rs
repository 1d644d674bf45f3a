//! Operation × fault × policy: the number of attempts, what happened at the emulator, and what the
//! caller gets.
//!
//! The table is `tests/golden/faults.txt`. For each of its lines, three rules must hold: nothing
//! takes effect twice, a success means that it took effect, and an error that says that it did not
//! run means that it did not.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use authpi_emulator::Emulator;
use authpi_sdk::{
    Client,
    client::{
        Applied, Call, DeliveryAuth, ETag, Error, Operation, RetryPolicy, RetryStop, WebhookPatch,
        WebhookSpec, retry::ExponentialBackoff,
    },
    event::EventType,
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    golden::assert_golden,
    servers::faults::{Fault, Faulty},
};

/// The timeout of an attempt that stalls. All stalls wait at the same time.
const STALLED: Duration = Duration::from_secs(2);

/// The operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    WhoAmI,
    Get,
    List,
    Deliveries,
    Events,
    Event,
    Counts,
    Create,
    Update,
    UpdateWithoutEtag,
    UpdateRepeatedWithoutEtag,
    UpdateSecret,
    Delete,
    DeleteWithoutEtag,
    Redeliver,
    RedeliverFailed,
}

impl What {
    const ALL: [Self; 16] = [
        Self::WhoAmI,
        Self::Get,
        Self::List,
        Self::Deliveries,
        Self::Events,
        Self::Event,
        Self::Counts,
        Self::Create,
        Self::Update,
        Self::UpdateWithoutEtag,
        Self::UpdateRepeatedWithoutEtag,
        Self::UpdateSecret,
        Self::Delete,
        Self::DeleteWithoutEtag,
        Self::Redeliver,
        Self::RedeliverFailed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::WhoAmI => "whoami",
            Self::Get => "get",
            Self::List => "list",
            Self::Deliveries => "deliveries",
            Self::Events => "events",
            Self::Event => "event",
            Self::Counts => "aggregate",
            Self::Create => "create",
            Self::Update => "update, If-Match",
            Self::UpdateWithoutEtag => "update",
            Self::UpdateRepeatedWithoutEtag => "update, retry_without_etag",
            Self::UpdateSecret => "update of auth, If-Match",
            Self::Delete => "delete, If-Match",
            Self::DeleteWithoutEtag => "delete",
            Self::Redeliver => "redeliver",
            Self::RedeliverFailed => "redeliver_failed",
        }
    }

    /// Its name in the description.
    fn operation(self) -> &'static str {
        match self {
            Self::WhoAmI => "me.get",
            Self::Get => "webhooks.get",
            Self::List => "webhooks.list",
            Self::Deliveries => "webhooks.listDeliveries",
            Self::Events => "events.list",
            Self::Event => "events.get",
            Self::Counts => "events.aggregate",
            Self::Create => "webhooks.create",
            Self::Update
            | Self::UpdateWithoutEtag
            | Self::UpdateRepeatedWithoutEtag
            | Self::UpdateSecret => "webhooks.update",
            Self::Delete | Self::DeleteWithoutEtag => "webhooks.delete",
            Self::Redeliver => "webhooks.redeliver",
            Self::RedeliverFailed => "webhooks.redeliverFailed",
        }
    }

    fn reads(self) -> bool {
        matches!(
            self,
            Self::WhoAmI
                | Self::Get
                | Self::List
                | Self::Deliveries
                | Self::Events
                | Self::Event
                | Self::Counts
        )
    }

    fn redelivers(self) -> bool {
        matches!(self, Self::Redeliver | Self::RedeliverFailed)
    }

    /// Whether the caller permits it to run twice.
    fn may_be_twice(self) -> bool {
        self == Self::UpdateRepeatedWithoutEtag
    }
}

/// Which attempts the fault affects, and the client's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Once,
    Always,
    Unrepeated,
}

impl How {
    const ALL: [Self; 3] = [Self::Once, Self::Always, Self::Unrepeated];

    fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Always => "always",
            Self::Unrepeated => "never repeated",
        }
    }
}

/// The result.
struct Came {
    requests: usize,
    effects: usize,
    outcome: Result<&'static str, Error>,
}

async fn came(what: What, fault: Fault, how: How) -> Came {
    let emulator = Emulator::builder()
        .retry_delays([])
        .start()
        .await
        .expect("the emulator starts");
    let direct = client(emulator.base_url(), &emulator).build().unwrap();
    let spec =
        || WebhookSpec::new("users", "http://127.0.0.1:9/hook").events([EventType::UserCreated]);
    let made = direct
        .webhooks()
        .create(&spec())
        .await
        .expect("nothing is in the way");
    let (id, etag) = (made.webhook.id, made.etag.expect("a webhook has an ETag"));
    let delivery = if what.redelivers() {
        emulator.trigger("user.created").await.unwrap();
        emulator.deliveries_finished().await;
        direct
            .webhooks()
            .deliveries(&id)
            .await
            .unwrap()
            .items
            .remove(0)
            .id
    } else {
        String::new()
    };

    let once = how == How::Once;
    let plan = move |_: &_, before| {
        if once && before > 0 {
            Fault::None
        } else {
            fault
        }
    };
    let faulty = Faulty::before(emulator.address(), plan).await;
    let policy = match how {
        How::Unrepeated => RetryPolicy::never(),
        _ => RetryPolicy::default()
            .max_attempts(3)
            .backoff(ExponentialBackoff::new(Duration::ZERO, Duration::ZERO)),
    };
    let attempt = if fault.stalls() {
        STALLED
    } else {
        Duration::from_secs(30)
    };
    let client = client(&faulty.base_url, &emulator)
        .retry(policy)
        .timeout(Duration::from_mins(2));
    let client = client.attempt_timeout(attempt).build().unwrap();
    let event = direct.events().list().await.unwrap().items.remove(0).id;
    let outcome = call(
        &client,
        what,
        &Args {
            id: &id,
            etag: &etag,
            delivery: &delivery,
            event: &event,
            attempt,
        },
    )
    .await;

    Came {
        requests: faulty.asked().len(),
        effects: effects(&direct, what, &id).await,
        outcome,
    }
}

fn client(base_url: &str, emulator: &Emulator) -> authpi_sdk::client::ClientBuilder {
    let builder = Client::builder()
        .base_url(base_url)
        .account(emulator.account_id());
    builder.api_key(emulator.key_id(), emulator.key_secret())
}

/// The arguments of the calls.
struct Args<'a> {
    id: &'a str,
    etag: &'a ETag,
    delivery: &'a str,
    event: &'a str,
    attempt: Duration,
}

async fn call(client: &Client, what: What, args: &Args<'_>) -> Result<&'static str, Error> {
    let Args {
        id,
        etag,
        delivery,
        event,
        attempt,
    } = *args;
    let (webhooks, events) = (client.webhooks(), client.events());
    let applied = |applied| match applied {
        Applied::Confirmed => "confirmed",
        Applied::Inferred => "inferred",
        _ => "other",
    };
    let renamed = || webhooks.update(id, &WebhookPatch::new().name("renamed"));
    let posted = |replayed| if replayed { "ok, replayed" } else { "ok" };
    match what {
        What::WhoAmI => client.whoami().await.map(|_| "ok"),
        What::Get => webhooks.get(id).await.map(|_| "ok"),
        What::List => webhooks.list().await.map(|_| "ok"),
        What::Deliveries => webhooks.deliveries(id).await.map(|_| "ok"),
        What::Events => events.list().await.map(|_| "ok"),
        What::Event => events.get(event).await.map(|_| "ok"),
        What::Counts => events.aggregate().await.map(|_| "ok"),
        What::Create => {
            let spec = WebhookSpec::new("second", "http://127.0.0.1:9/hook")
                .events([EventType::UserCreated]);
            let made = webhooks.create(&spec).await?;
            assert!(
                made.secret.is_some(),
                "a webhook without its secret is of no use"
            );
            Ok(posted(made.replayed))
        }
        What::Update => renamed()
            .if_match(etag)
            .await
            .map(|updated| applied(updated.applied)),
        What::UpdateWithoutEtag => renamed().await.map(|updated| applied(updated.applied)),
        What::UpdateRepeatedWithoutEtag => renamed()
            .retry_without_etag()
            .await
            .map(|updated| applied(updated.applied)),
        What::UpdateSecret => {
            let patch = WebhookPatch::new().auth(&DeliveryAuth::signature());
            let updated = webhooks.update(id, &patch).if_match(etag).await?;
            assert!(updated.secret.is_some(), "a success shows the new secret");
            Ok(applied(updated.applied))
        }
        What::Delete => webhooks
            .delete(id)
            .if_match(etag)
            .await
            .map(|deleted| applied(deleted.applied)),
        What::DeleteWithoutEtag => webhooks
            .delete(id)
            .await
            .map(|deleted| applied(deleted.applied)),
        // By default, an attempt at a redelivery may take the whole timeout of the call, so it is
        // set here.
        What::Redeliver => webhooks
            .redeliver(id, delivery)
            .attempt_timeout(attempt)
            .await
            .map(|sent| posted(sent.replayed)),
        What::RedeliverFailed => webhooks
            .redeliver_failed(id)
            .attempt_timeout(attempt)
            .await
            .map(|sent| posted(sent.replayed)),
    }
}

/// How often it took effect.
async fn effects(direct: &Client, what: What, id: &str) -> usize {
    let happened = async |event_type: EventType| {
        let events = direct.events().list().event_types([event_type]).await;
        events.expect("nothing is in the way").items.len()
    };
    match what {
        _ if what.reads() => 0,
        What::Create => happened(EventType::WebhookCreated).await - 1,
        What::Delete | What::DeleteWithoutEtag => happened(EventType::WebhookDeleted).await,
        What::Redeliver | What::RedeliverFailed => {
            let deliveries = direct
                .webhooks()
                .deliveries(id)
                .await
                .expect("nothing is in the way");
            usize::try_from(deliveries.items[0].attempt_count).unwrap() - 1
        }
        _ => happened(EventType::WebhookUpdated).await,
    }
}

fn reported(outcome: &Result<&'static str, Error>) -> String {
    let error = match outcome {
        Ok(success) => return (*success).to_owned(),
        Err(error) => error,
    };
    let mut text = match error.status() {
        Some(status) if !status.is_success() => status.as_u16().to_string(),
        _ if error.is_timeout() => "timeout".to_owned(),
        _ if error.is_malformed_response() => "malformed".to_owned(),
        _ if error.is_connect() => "no connection".to_owned(),
        _ => "broken".to_owned(),
    };
    let why = match error.retry_stop() {
        Some(RetryStop::Permanent) => "permanent",
        Some(RetryStop::NotSafe) => "not safe",
        Some(RetryStop::Attempts) => "attempts",
        _ => "other",
    };
    let _ = write!(text, ", {why}");
    if error.may_have_run() {
        text.push_str(", may have run");
    }
    if error.is_secret_lost() {
        text.push_str(", secret lost");
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_with_whatever_call_it_takes_place_once_at_most() {
    let lines = What::ALL
        .into_iter()
        .flat_map(|what| Fault::ALL.map(|fault| (what, fault)));
    let lines = lines.flat_map(|(what, fault)| How::ALL.map(|how| (what, fault, how)));
    // A call must not reach its own deadline because of the others.
    let (busy, stalling) = (Arc::new(Semaphore::new(2)), Arc::new(Semaphore::new(24)));
    let mut all = JoinSet::new();
    for (number, (what, fault, how)) in lines.enumerate() {
        let gate = if fault.stalls() { &stalling } else { &busy };
        let gate = Arc::clone(gate);
        all.spawn(async move {
            let _turn = gate.acquire_owned().await.expect("it is never closed");
            (number, what, fault, how, came(what, fault, how).await)
        });
    }
    let mut all = all.join_all().await;
    all.sort_by_key(|(number, ..)| *number);

    let mut table = format!(
        "{:<28}{:<15}{:<15}{:>8}{:>8}  result\n",
        "call", "fault", "", "requests", "effects"
    );
    for (
        _,
        what,
        fault,
        how,
        Came {
            requests,
            effects,
            outcome,
        },
    ) in &all
    {
        let line = format!(
            "{what:?} {fault:?} {how:?}: {requests} requests, {effects} effects, {outcome:?}"
        );
        assert!(
            *effects <= 1 || what.may_be_twice() || *fault == Fault::Twice,
            "twice: {line}"
        );
        match outcome {
            Ok(_) => assert!(*effects > 0 || what.reads(), "not done: {line}"),
            Err(error) => assert!(
                error.may_have_run() || *effects == 0 || *fault == Fault::Twice,
                "done: {line}"
            ),
        }
        let fault = format!("{fault:?}");
        let _ = writeln!(
            table,
            "{:<28}{fault:<15}{:<15}{requests:>8}{effects:>8}  {}",
            what.name(),
            how.name(),
            reported(outcome)
        );
    }
    assert_golden("faults.txt", &table);
}

#[test]
fn the_table_has_every_operation_of_the_description() {
    let described: BTreeSet<_> = include_str!("../../../openapi/authpi.yaml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("operationId: "))
        // AuthPI makes this call.
        .filter(|id| *id != "deliveries.receive")
        .collect();
    assert_eq!(
        What::ALL
            .map(What::operation)
            .into_iter()
            .collect::<BTreeSet<_>>(),
        described
    );
}

async fn one<O: Operation>(faulty: &Faulty, call: Call<O>) -> O::Output {
    let before = faulty.asked().len();
    let output = call.await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(faulty.asked().len(), before + 1);
    output
}

#[tokio::test]
async fn a_fault_free_call_is_one_request() {
    let emulator = Emulator::start().await.unwrap();
    let faulty = Faulty::before(emulator.address(), |_, _| Fault::None).await;
    let client = client(&faulty.base_url, &emulator).build().unwrap();
    let webhooks = client.webhooks();
    let spec =
        WebhookSpec::new("users", "http://127.0.0.1:9/hook").events([EventType::UserCreated]);
    let made = one(&faulty, webhooks.create(&spec)).await;
    let id = &*made.webhook.id;
    let updated = one(
        &faulty,
        webhooks
            .update(id, &WebhookPatch::new().name("n"))
            .if_match(&made.etag.unwrap()),
    )
    .await;
    one(&faulty, webhooks.get(id)).await;
    one(&faulty, webhooks.list()).await;
    one(
        &faulty,
        webhooks.delete(id).if_match(&updated.etag.unwrap()),
    )
    .await;
}
