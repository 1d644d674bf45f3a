//! Both ledgers through the public suite, and one file shared by processes.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::support::Folder;
use authpi_sdk::{
    ledger::{Claim, Completion, Digest, EventKey, LeaseStatus, Ledger, conformance},
    stores::{Memory, Sqlite},
    testing::ManualClock,
};
use jiff::Timestamp;

struct Memories(ManualClock);

impl conformance::Harness for Memories {
    type Ledger = Memory;

    async fn fresh(&self) -> Memory {
        Memory::new().with_clock(self.0.clock())
    }

    async fn advance(&self, _: &Memory, by: Duration) {
        self.0.advance(by);
    }
}

struct Files {
    folder: Folder,
    made: AtomicU32,
    clock: ManualClock,
}

impl conformance::Harness for Files {
    type Ledger = Sqlite;

    async fn fresh(&self) -> Sqlite {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{number}.db"));
        Sqlite::options()
            .clock(self.clock.clock())
            .open(path)
            .await
            .unwrap()
    }

    async fn advance(&self, _: &Sqlite, by: Duration) {
        self.clock.advance(by);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_ledger_conforms() {
    conformance::run(&Memories(ManualClock::at(Timestamp::now()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sqlite_ledger_conforms() {
    let clock = ManualClock::at(Timestamp::now());
    conformance::run(&Files {
        folder: Folder::new(),
        made: AtomicU32::new(0),
        clock,
    })
    .await;
}

const EVENTS: usize = 200;
/// Passes the file to the processes that a test starts.
const FILE: &str = "AUTHPI_IT_LEDGER_FILE";

/// Claims and completes the events in the file that it can get, and returns them.
async fn handle_all(file: &Path) -> Vec<usize> {
    let ledger = Sqlite::options()
        .busy_timeout(Duration::from_mins(1))
        .open(file)
        .await
        .unwrap();
    let mut handled = Vec::new();
    for n in 0..EVENTS {
        let key = EventKey::new("users", format!("evt_{n}"));
        if let Claim::Granted { token, .. } = ledger
            .claim(&key, Digest::from_bytes([0; 16]), Duration::from_hours(1))
            .await
            .unwrap()
        {
            assert_eq!(
                ledger
                    .complete(&key, token, Completion::Handled)
                    .await
                    .unwrap(),
                LeaseStatus::Held
            );
            handled.push(n);
        }
    }
    handled
}

#[tokio::test]
async fn one_process_alone_handles_each_event() {
    // The test below starts this one as its processes, with a file.
    if let Some(file) = std::env::var_os(FILE) {
        let handled = handle_all(Path::new(&file)).await;
        println!("\nhandled: {}", serde_json::to_string(&handled).unwrap());
        return;
    }
    let folder = Folder::new();
    assert_eq!(
        handle_all(&folder.join("hooks.db")).await,
        (0..EVENTS).collect::<Vec<_>>()
    );
    assert!(
        handle_all(&folder.join("hooks.db")).await.is_empty(),
        "handled a second time"
    );
}

#[test]
fn processes_that_share_a_file_handle_each_event_once() {
    let folder = Folder::new();
    // The race includes the creation of the file.
    let start = |_| {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ledger::one_process_alone_handles_each_event",
                "--nocapture",
            ])
            .env(FILE, folder.join("hooks.db"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..4).map(start).collect();
    let mut handled = Vec::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "a process failed");
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("handled: "))
            .expect("a line of its own");
        handled.extend(serde_json::from_str::<Vec<usize>>(line).unwrap());
    }
    handled.sort_unstable();
    assert_eq!(handled, (0..EVENTS).collect::<Vec<_>>());
}
