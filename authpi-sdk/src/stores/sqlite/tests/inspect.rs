//! The inspector: it reads files in use, closed ones and leftovers, and changes none.

use std::{collections::BTreeMap, fs};

use super::*;
use crate::ledger::{
    RecordState,
    conformance::inspect::InspectorHarness,
    inspect::{Filter, InspectError, InspectErrorKind, Inspector as _},
};

impl InspectorHarness for Databases {
    type Inspector = SqliteInspector;

    async fn inspector(&self, _: &Sqlite) -> SqliteInspector {
        let newest = self.made.load(Ordering::Relaxed) - 1;
        let folder = self.folder.as_ref().unwrap();
        Sqlite::options()
            .clock(self.clock.clone())
            .inspect(folder.0.join(format!("{newest}.db")))
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspector_conforms() {
    conformance::inspect::run(&Databases::new(Some(Folder::new()))).await;
    conformance::inspect::run_inbox(&Databases::new(Some(Folder::new()))).await;
}

/// The names and contents of the files, without the `-shm`, which only has locks and an index.
fn contents(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(&folder.0).unwrap().map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    files.filter(|(name, _)| !name.ends_with("-shm")).collect()
}

async fn refused(path: impl AsRef<Path>) -> InspectError {
    Sqlite::inspect(path).await.map(drop).unwrap_err()
}

async fn all_questions(inspector: &SqliteInspector) {
    assert_eq!(inspector.endpoints().await.unwrap(), ["users"]);
    let view = inspector.get(&key(1)).await.unwrap().unwrap();
    assert_eq!(view.state, RecordState::Handled);
    assert_eq!(inspector.dead_letter(&key(1)).await.unwrap(), None);
    let page = inspector.list(&Filter::new("users")).await.unwrap();
    assert!(page.newest_first);
    assert_eq!(page.records, [view]);
    let counts = inspector.status("users").await.unwrap().counts.unwrap();
    assert_eq!(counts.handled, 1);
}

async fn with_one_handled_event(file: &Path) -> Sqlite {
    let ledger = Sqlite::open(file).await.unwrap();
    let token = granted(&ledger, 1).await;
    let done = ledger.complete(&key(1), token, Completion::Handled).await;
    assert_eq!(done.unwrap(), LeaseStatus::Held);
    ledger
}

#[tokio::test]
async fn inspecting_a_closed_file_makes_and_changes_nothing() {
    let folder = Folder::new();
    with_one_handled_event(&folder.file()).await.close().await;
    let before = contents(&folder);
    assert_eq!(before.len(), 1, "{:?}", before.keys());
    let inspector = Sqlite::inspect(folder.file()).await.unwrap();
    all_questions(&inspector).await;
    assert!(contents(&folder) == before, "a file was changed");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[tokio::test]
async fn inspecting_a_file_in_use_changes_nothing() {
    let folder = Folder::new();
    let ledger = with_one_handled_event(&folder.file()).await;
    let before = contents(&folder);
    assert_eq!(before.len(), 2, "{:?}", before.keys());
    let inspector = Sqlite::inspect(folder.file()).await.unwrap();
    all_questions(&inspector).await;
    assert!(contents(&folder) == before, "a file was changed");
    ledger.close().await;
}

#[tokio::test]
async fn what_a_killed_process_left_is_read_and_not_changed() {
    let (folder, other) = (Folder::new(), Folder::new());
    let ledger = with_one_handled_event(&folder.file()).await;
    for name in ["hooks.db", "hooks.db-wal"] {
        fs::copy(folder.0.join(name), other.0.join(name)).unwrap();
    }
    ledger.close().await;
    let before = contents(&other);
    let inspector = Sqlite::inspect(other.file()).await.unwrap();
    all_questions(&inspector).await;
    assert!(contents(&other) == before, "a file was changed");
}

#[tokio::test]
async fn an_inspector_follows_a_file_that_is_opened_and_closed() {
    let folder = Folder::new();
    with_one_handled_event(&folder.file()).await.close().await;
    let inspector = Sqlite::inspect(folder.file()).await.unwrap();
    for n in 2..5 {
        assert_eq!(inspector.get(&key(n)).await.unwrap(), None);
        let ledger = Sqlite::open(folder.file()).await.unwrap();
        granted(&ledger, n).await;
        let view = inspector.get(&key(n)).await.unwrap().unwrap();
        assert_eq!(view.state, RecordState::Claimed);
        ledger.close().await;
        assert_eq!(
            inspector.get(&key(n)).await.unwrap().unwrap().state,
            view.state
        );
    }
}

#[tokio::test]
async fn a_copy_without_a_log_can_be_inspected() {
    let folder = Folder::new();
    let ledger = with_one_handled_event(&folder.file()).await;
    let copy = folder.0.join("a copy?x=1#100%.db");
    let options = SqliteConnectOptions::new().filename(folder.file());
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("VACUUM INTO ?1")
        .bind(copy.to_str().unwrap())
        .execute(&mut other)
        .await
        .unwrap();
    all_questions(&Sqlite::inspect(&copy).await.unwrap()).await;
    ledger.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_and_not_made() {
    let folder = Folder::new();
    for missing in ["hooks.db", "no folder/hooks.db"] {
        let error = refused(folder.0.join(missing)).await;
        assert_eq!(error.kind(), InspectErrorKind::Missing);
        let text = error.to_string();
        assert!(text.contains("hooks.db") && text.contains("the service uses"));
    }
    for path in ["", ":memory:"] {
        assert_eq!(refused(path).await.kind(), InspectErrorKind::Missing);
    }
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);

    fs::write(folder.file(), "").unwrap();
    let error = refused(folder.file()).await;
    assert_eq!(error.kind(), InspectErrorKind::Missing, "{error}");
    assert!(error.to_string().contains("has no tables of a ledger"));
    assert_eq!(fs::read(folder.file()).unwrap(), b"");

    fs::write(folder.file(), "not a database, but long enough".repeat(99)).unwrap();
    assert_eq!(
        refused(folder.file()).await.kind(),
        InspectErrorKind::Failed
    );
    assert_eq!(refused(&folder.0).await.kind(), InspectErrorKind::Failed);
}

#[tokio::test]
async fn tables_of_another_version_are_refused_by_an_inspector() {
    let folder = Folder::new();
    let ledger = with_one_handled_event(&folder.file()).await;
    for (version, advice) in [
        (super::super::schema::VERSION + 1, "or a later one"),
        (1, "made by an unreleased authpi-sdk"),
    ] {
        let options = SqliteConnectOptions::new().filename(folder.file());
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("UPDATE authpi_schema SET version = ?1")
            .bind(version)
            .execute(&mut other)
            .await
            .unwrap();
        let error = refused(folder.file()).await;
        assert_eq!(error.kind(), InspectErrorKind::Incompatible);
        let text = error.to_string();
        assert!(
            text.contains(advice) && text.contains(&format!("version {version}")),
            "{text}"
        );
    }
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspector_reads_while_a_service_starts_and_stops() {
    const STARTS: usize = 40;
    let folder = Folder::new();
    with_one_handled_event(&folder.file()).await.close().await;
    let inspector = Sqlite::inspect(folder.file()).await.unwrap();
    let file = folder.file();
    let service = tokio::spawn(async move {
        for n in 0..STARTS {
            let ledger = Sqlite::open(&file).await.unwrap();
            granted(&ledger, 100 + n).await;
            ledger.close().await;
        }
    });
    let mut latest = 0;
    while latest < STARTS as u64 {
        let stopped = service.is_finished();
        let counts = inspector.status("users").await.unwrap().counts.unwrap();
        assert_eq!(counts.handled, 1);
        assert!(counts.claimed >= latest, "it went back to {counts:?}");
        latest = counts.claimed;
        assert!(!stopped || latest == STARTS as u64, "{counts:?}");
    }
    service.await.unwrap();
}
