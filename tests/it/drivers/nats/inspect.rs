//! The inspector, over those of several ledgers.

use std::sync::atomic::AtomicU32;

use authpi_sdk::{
    ledger::{
        RecordState,
        conformance::inspect::InspectorHarness,
        inspect::{Filter, InspectError, InspectErrorKind, Inspector, RecordView},
    },
    stores::{NatsInspector, SqliteInspector, SqliteOptions},
};

use super::*;
use crate::support::Folder;

/// Each store has its own streams over its own file.
struct Files {
    streams: Streams,
    folder: Folder,
    made: AtomicU32,
}

impl Files {
    async fn new() -> Self {
        let server = NatsServer::shared().await;
        Self {
            streams: Streams {
                server,
                jetstream: server.jetstream().await,
                ahead: Arc::default(),
                newest: Mutex::default(),
            },
            folder: Folder::new(),
            made: AtomicU32::new(0),
        }
    }

    fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.streams.ahead);
        Clock::from_fn(move || {
            Timestamp::now() + Duration::from_secs(ahead.load(Ordering::Relaxed).unsigned_abs())
        })
    }

    fn ledger(&self) -> (SqliteOptions, std::path::PathBuf) {
        let number = self.made.load(Ordering::Relaxed);
        let file = self.folder.join(format!("{number}.db"));
        (Sqlite::options().clock(self.clock()), file)
    }

    fn options(&self) -> NatsOptions {
        let name = self.streams.newest.lock().unwrap().clone();
        options(&name).clock(self.clock())
    }
}

impl conformance::Harness for Files {
    type Ledger = Nats<Sqlite>;
    const TELLS_WHAT_IS_DONE: bool = false;

    async fn fresh(&self) -> Nats<Sqlite> {
        self.made.fetch_add(1, Ordering::Relaxed);
        *self.streams.newest.lock().unwrap() = fresh_name();
        let (ledger, file) = self.ledger();
        let ledger = ledger.open(file).await.unwrap();
        let url = self.streams.server.url();
        self.options().connect(&url, ledger).await.unwrap()
    }

    async fn advance(&self, _: &Nats<Sqlite>, by: Duration) {
        self.streams
            .ahead
            .fetch_add(by.as_secs().cast_signed(), Ordering::Relaxed);
    }
}

impl InspectorHarness for Files {
    type Inspector = NatsInspector<SqliteInspector>;

    async fn inspector(&self, _: &Nats<Sqlite>) -> Self::Inspector {
        let (ledger, file) = self.ledger();
        let ledger = ledger.inspect(file).await.unwrap();
        let url = self.streams.server.url();
        let inspector = self.options().inspect(&url, ledger).await.unwrap();
        inspector.scan(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspector_conforms() {
    conformance::inspect::run(&Files::new().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspector_conforms_as_one_of_an_inbox() {
    conformance::inspect::run_inbox(&Files::new().await).await;
}

async fn all(inspector: &impl Inspector, mut filter: Filter) -> Vec<RecordView> {
    let mut records = Vec::new();
    loop {
        let page = inspector.list(&filter).await.unwrap();
        records.extend(page.records);
        let Some(next) = page.next else {
            return records;
        };
        filter = filter.before(next);
    }
}

/// The requests that the inspector's documentation names.
const READER: &str = r#"authorization { users: [
    { user: admin, password: admin }
    { user: reader, password: reader, permissions: {
        publish: [
            "$JS.API.STREAM.INFO.*"
            "$JS.API.STREAM.MSG.GET.*"
            "$JS.API.CONSUMER.INFO.*.*"
        ]
        subscribe: "_INBOX.>"
    } }
] }"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_only_read_sees_everything_and_takes_nothing() {
    let server = NatsServer::start_with(READER, Some(("admin", "admin"))).await;
    let jetstream = server.jetstream().await;
    let folder = Folder::new();
    let file = folder.join("hooks.db");
    let inbox = options("t")
        .open(jetstream.clone(), Sqlite::open(&file).await.unwrap())
        .await
        .unwrap();
    for n in 0..5 {
        append(&inbox, n).await;
    }
    // Two endpoints whose escaped names are too long for a subject, which has their hashes instead.
    let [odd, dead] = ["é", "è"].map(|letter| letter.repeat(50));
    let waits = EventKey::new(&*odd, "1");
    let stored = inbox.append(&waits, DIGEST, None, body(1)).await;
    assert_eq!(stored.unwrap(), Appended::Stored);
    let given_up = EventKey::new(&*dead, "1");
    let Claim::Granted { token, .. } = inbox.claim(&given_up, DIGEST, LEASE).await.unwrap() else {
        panic!("the claim was not granted")
    };
    let completion = Completion::Dead {
        reason: "poisoned".into(),
        body: body(1),
    };
    let done = inbox.complete(&given_up, token, completion).await;
    assert_eq!(done.unwrap(), LeaseStatus::Held);
    assert!(inbox.ledger().forget(&given_up).await.unwrap());

    let ledger = Sqlite::inspect(&file).await.unwrap();
    let url = format!("nats://reader:reader@{}", server.address());
    let inspector = options("t").inspect(&url, ledger).await.unwrap().scan(true);
    let waiting = all(&inspector, Filter::new("users").limit(2)).await;
    let found: Vec<_> = waiting
        .iter()
        .map(|view| view.key.event_id().to_owned())
        .collect();
    assert_eq!(found, ids(0..5));
    let view = inspector.get(&key(3)).await.unwrap();
    assert_eq!(view.as_ref(), Some(&waiting[3]));
    let view = inspector.get(&given_up).await.unwrap().unwrap();
    assert_eq!(view.reason.as_deref(), Some("poisoned"));
    let mut endpoints = ["users", &odd, &dead];
    endpoints.sort_unstable();
    assert_eq!(inspector.endpoints().await.unwrap(), endpoints);
    let status = inspector.status("users").await.unwrap();
    assert_eq!(status.inbox.unwrap().depth, 5);
    assert_eq!(consumers(&jetstream, "t").await, [""; 0]);
    assert_eq!(work_off(&inbox).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_whether_or_not_the_ledger_knows_it() {
    let (server, name, folder) = (NatsServer::shared().await, fresh_name(), Folder::new());
    let file = folder.join("hooks.db");
    let inbox = options(&name)
        .connect(&server.url(), Sqlite::open(&file).await.unwrap())
        .await
        .unwrap();
    for n in 0..2 {
        append(&inbox, n).await;
        let event = leased(&inbox, LEASE).await;
        let dead = Completion::Dead {
            reason: "poisoned".into(),
            body: event.body,
        };
        let done = inbox.complete(&event.key, event.token, dead).await;
        assert_eq!(done.unwrap(), LeaseStatus::Held);
    }
    assert!(inbox.ledger().forget(&key(1)).await.unwrap());
    let ledger = Sqlite::inspect(&file).await.unwrap();
    let inspector = options(&name).inspect(&server.url(), ledger).await.unwrap();
    for n in 0..2 {
        let view = inspector.get(&key(n)).await.unwrap().unwrap();
        assert_eq!(view.state, RecordState::Dead);
        assert_eq!(view.attempts, Some(1));
        assert_eq!(view.reason.as_deref(), Some("poisoned"));
        assert_eq!(view.body_kept, Some(true));
    }
    let inspector = inspector.scan(true);
    let dead = all(&inspector, Filter::new("users").state(RecordState::Dead)).await;
    assert_eq!(dead.len(), 2);
    let status = inspector.status("users").await.unwrap();
    assert_eq!(status.dead_letters, Some(2));
    assert_eq!(status.counts.unwrap().dead, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_scan_nothing_is_shown_that_may_be_incomplete() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let (redis, prefix) = (RedisServer::shared().await, redis::fresh_prefix());
    let ledger = || Redis::options().prefix(&prefix);
    let inbox = options(&name)
        .connect(&server.url(), ledger().connect(&redis.url()).await.unwrap())
        .await
        .unwrap();
    let inspector = options(&name)
        .inspect(&server.url(), ledger().inspect(&redis.url()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(inspector.get(&key(0)).await.unwrap(), None);
    append(&inbox, 0).await;
    let error = |done: Result<(), InspectError>| done.unwrap_err().kind();
    assert_eq!(
        error(inspector.get(&key(0)).await.map(drop)),
        InspectErrorKind::NeedsScan
    );
    for state in [
        None,
        Some(RecordState::Pending),
        Some(RecordState::Dead),
        Some(RecordState::Handled),
    ] {
        let mut filter = Filter::new("users");
        filter.state = state;
        assert_eq!(
            error(inspector.list(&filter).await.map(drop)),
            InspectErrorKind::NeedsScan,
            "{state:?}"
        );
    }
    let status = inspector.status("users").await.unwrap();
    assert_eq!(status.counts, None);
    assert_eq!(status.inbox.unwrap().depth, 1);
    let view = inspector.scan(true).get(&key(0)).await.unwrap().unwrap();
    assert_eq!(view.state, RecordState::Pending);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_missing_or_foreign_are_refused_and_not_made() {
    let (server, name, folder) = (NatsServer::shared().await, fresh_name(), Folder::new());
    let jetstream = server.jetstream().await;
    let file = folder.join("hooks.db");
    let _ledger = Sqlite::open(&file).await.unwrap();
    let inspect = || async {
        let ledger = Sqlite::inspect(&file).await.unwrap();
        let inspector = options(&name).inspect(&server.url(), ledger).await;
        inspector.map(drop).unwrap_err()
    };
    let error = inspect().await;
    assert_eq!(error.kind(), InspectErrorKind::Missing);
    assert!(error.to_string().contains(&name), "{error}");
    assert!(jetstream.get_stream(&name).await.is_err(), "it was made");

    let config = stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.other")],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let error = inspect().await;
    assert_eq!(error.kind(), InspectErrorKind::Incompatible);
    assert!(error.to_string().contains("of other subjects"), "{error}");
}
