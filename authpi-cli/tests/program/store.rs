//! `authpi store`.

use std::path::{Path, PathBuf};

use authpi_sdk::{
    HandlerError,
    event::{Event, types::UserCreated, types::UserDeleted},
    handlers::Handlers,
    receiver::Receiver as SdkReceiver,
    signature::{KeyRing, Verifier},
    stores::Sqlite,
};

use super::support::*;

/// A receiver over SQLite. It handles `user.created`, and gives `user.deleted` up.
struct Service {
    emulate: Emulate,
    webhook_id: String,
    store: PathBuf,
    _way: Way,
    _folder: tempfile::TempDir,
}

impl Service {
    async fn start() -> Self {
        let emulate = Emulate::start(&["--retry-delays", ""]).await;
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("hooks.db");
        let way = Way::start().await;
        let url = format!("http://{}/hooks", way.address);
        let events = "user.created,user.deleted";
        let create = ["webhooks", "create", "users", &url, "--events", events];
        let made = record(&mut emulate.command(&create)).await;
        let handlers = Handlers::new(())
            .on(async |_: Event<UserCreated>, _| Ok(()))
            .on(async |_: Event<UserDeleted>, _| Err(HandlerError::terminal("no such user")));
        let keys = KeyRing::new().with("tests", made["secret"].as_str().unwrap());
        let ledger = Sqlite::open(&store).await.unwrap();
        let receiver = SdkReceiver::inline("users", Verifier::authpi(keys), ledger, handlers)
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        way.lead_to(&listener.local_addr().unwrap().to_string());
        let app = axum::Router::new().route_service("/hooks", receiver);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            emulate,
            webhook_id: made["id"].as_str().unwrap().to_owned(),
            store,
            _way: way,
            _folder: folder,
        }
    }

    async fn event(&self, event_type: &str) -> String {
        let event = record(&mut self.emulate.trigger(&[event_type])).await;
        self.emulate.until_over(event_type).await;
        event["id"].as_str().unwrap().to_owned()
    }

    fn store(&self, arguments: &[&str]) -> Command {
        let mut command = self.emulate.command(&["store"]);
        command
            .args(arguments)
            .arg("--store")
            .arg(sqlite(&self.store));
        command
    }
}

fn sqlite(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

#[tokio::test]
async fn an_incident_is_seen_explained_and_repaired_in_the_store() {
    let service = Service::start().await;
    let handled = service.event("user.created").await;
    let dead = service.event("user.deleted").await;

    let status = record(&mut service.store(&["status"])).await;
    assert_eq!(status["endpoint"], "users");
    assert_eq!(
        status["counts"],
        json!({"pending": 0, "claimed": 0, "handled": 1, "dead": 1})
    );
    assert_eq!(records(&mut service.store(&["events"])).await.len(), 2);
    let only = records(&mut service.store(&["events", "--state", "handled"])).await;
    assert_eq!(only[0]["event_id"], *handled);

    let shown = record(&mut service.store(&["get", &dead])).await;
    assert_eq!(
        (&shown["state"], &shown["attempts"]),
        (&json!("dead"), &json!(1))
    );
    fails(
        &mut service.store(&["get", "evt_none"]),
        3,
        "no record of evt_none",
    )
    .await;
    let letters = records(&mut service.store(&["dead-letters", "list"])).await;
    assert!(
        letters[0]["reason"]
            .as_str()
            .unwrap()
            .contains("no such user"),
        "{letters:?}"
    );
    let letter = record(&mut service.store(&["dead-letters", "show", &dead])).await;
    assert_eq!(letter["body"]["data"]["id"], *dead);

    // What was not handled is listed, and the exit code tells.
    let missed = ["missed", "--after", "1h", "--webhook", &service.webhook_id];
    let done = run(&mut service.store(&missed)).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stdout).contains(&dead) && !text(&done.stdout).contains(&handled));
    assert!(
        text(&done.stderr).contains("1 of 2 events"),
        "{}",
        text(&done.stderr)
    );

    // Whatever changes something asks first.
    fails(&mut service.store(&["forget", &dead]), 2, "--yes").await;
    let replay = ["dead-letters", "replay", &dead, "--yes"];
    assert_eq!(record(&mut service.store(&replay)).await["replayed"], 1);
    assert_eq!(
        record(&mut service.store(&["get", &dead])).await["state"],
        "pending"
    );
    fails(&mut service.store(&replay), 3, "no dead letter").await;
    let done = run(&mut service.store(&["forget", &dead, "--yes"])).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    // Purging takes old dead letters, and nothing else.
    service.event("user.deleted").await;
    let purge = |age| {
        let mut command = service.store(&["dead-letters", "purge", "--older-than", age]);
        command.arg("--yes");
        command
    };
    assert_eq!(record(&mut purge("1h")).await["purged"], 0);
    assert_eq!(record(&mut purge("0s")).await["purged"], 1);
    assert_eq!(
        record(&mut service.store(&["get", &handled])).await["state"],
        "handled"
    );
    let done =
        run(&mut service.store(&["missed", "--after", "1h", "--types", "user.created"])).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
}

#[tokio::test]
async fn a_store_that_is_not_there_is_neither_made_nor_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.db");
    let with = |arguments: &[&str]| {
        let mut command = authpi();
        command.arg("store").args(arguments);
        command
    };
    let mut missing = with(&["status", "--store", &sqlite(&file)]);
    fails(&mut missing, 3, "none.db").await;
    let mut missing = with(&["dead-letters", "purge", "--older-than", "0s", "--yes"]);
    fails(missing.args(["--store", &sqlite(&file)]), 3, "none.db").await;
    assert!(!file.exists(), "the file was made");
    fails(&mut with(&["status"]), 2, "AUTHPI_STORE").await;
    fails(
        &mut with(&["status", "--store", "hooks.db"]),
        2,
        "sqlite:hooks.db",
    )
    .await;
    let password = "postgres://app:sesame@127.0.0.1:1/hooks";
    let done = run(&mut with(&["status", "--store", password])).await;
    assert_eq!(done.status.code(), Some(2));
    assert!(
        !text(&done.stderr).contains("sesame"),
        "{}",
        text(&done.stderr)
    );
    let mut unreachable = with(&["status"]);
    let done = run(unreachable.env("AUTHPI_STORE", password)).await;
    assert_eq!(done.status.code(), Some(1));
    let output = text(&done.stderr);
    assert!(
        output.contains("127.0.0.1:1") && !output.contains("sesame"),
        "{output}"
    );
    let nats = with(&["status", "--store", "nats://127.0.0.1:1"]);
    fails(&mut { nats }, 2, "--ledger").await;
}
