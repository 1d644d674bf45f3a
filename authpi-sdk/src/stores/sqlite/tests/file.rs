//! Which files may be opened, who may read them, and what happens when a file is removed.

use super::*;

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_path_that_keeps_nothing_is_refused() {
    let folder = Folder::new();
    let memory = format!("file:{}?mode=memory&cache=shared", folder.file().display());
    for path in [
        "",
        ":memory:",
        "file:",
        "file::memory:",
        "file:hooks.db?mode=memory",
        "file:/hooks?vfs=memdb",
        &memory,
    ] {
        let error = Sqlite::open(path).await.expect_err(path);
        assert!(
            chain(&error).contains("Sqlite::in_memory()"),
            "{path}: {}",
            chain(&error)
        );
        assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
    }
    assert!(!folder.file().exists() && !Path::new("hooks.db").exists());
}

#[tokio::test]
async fn a_file_that_cannot_have_a_write_ahead_log_is_refused() {
    let folder = Folder::new();
    let uri = format!("file:{}?vfs=unix-none", folder.file().display());
    let error = chain(&Sqlite::open(uri).await.unwrap_err());
    assert!(
        error.contains("journal_mode=delete") && error.contains("needs WAL"),
        "{error}"
    );
    let uri = format!("file:{}", folder.file().display());
    granted(&Sqlite::open(uri).await.unwrap(), 0).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_file_and_its_log_are_its_owners_alone() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    granted(&ledger, 0).await;
    for name in ["hooks.db", "hooks.db-wal", "hooks.db-shm"] {
        assert_eq!(mode(&folder.0.join(name)), 0o600, "{name}");
    }
    ledger.close().await;
    let names = std::fs::read_dir(&folder.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["hooks.db"]);

    // An existing file keeps its mode.
    std::fs::set_permissions(
        folder.file(),
        std::os::unix::fs::PermissionsExt::from_mode(0o640),
    )
    .unwrap();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    assert_eq!(
        [mode(&folder.file()), mode(&folder.0.join("hooks.db-wal"))],
        [0o640; 2]
    );
    ledger.close().await;

    // A link to a file that does not exist yet.
    std::os::unix::fs::symlink("real.db", folder.0.join("link.db")).unwrap();
    Sqlite::open(folder.0.join("link.db"))
        .await
        .unwrap()
        .close()
        .await;
    assert!(
        std::fs::symlink_metadata(folder.0.join("link.db"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(mode(&folder.0.join("real.db")), 0o600);
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_deleted_or_replaced_is_an_outage_and_no_success() {
    const GONE: &str = "was deleted or replaced after it was opened";
    for (name, replaced) in [
        ("hooks.db", false),
        ("hooks.db", true),
        ("hooks.db-wal", false),
        ("hooks.db-wal", true),
    ] {
        let folder = Folder::new();
        let ledger = Sqlite::open(folder.file()).await.unwrap();
        let token = granted(&ledger, 0).await;
        let (file, aside) = (folder.0.join(name), folder.0.join("aside"));
        let handler = ledger.begin().await.unwrap();
        std::fs::rename(&file, &aside).unwrap();
        if replaced {
            std::fs::copy(&aside, &file).unwrap();
        }
        let mut errors = vec![ledger.commit(handler, &key(0), token).await.unwrap_err()];
        // A single operation, several at once, a read, and a handler's transaction.
        errors.push(ledger.claim(&key(1), DIGEST, LEASE).await.unwrap_err());
        for n in at_once_without_a_transaction(&ledger).await {
            errors.push(n.unwrap_err());
        }
        errors.push(
            ledger
                .append(&key(2), DIGEST, None, Bytes::new())
                .await
                .unwrap_err(),
        );
        errors.push(ledger.lease_next("users", LEASE).await.unwrap_err());
        errors.push(ledger.backlog("users").await.unwrap_err());
        errors.push(ledger.dead_letters("users", None, 1).await.unwrap_err());
        errors.push(ledger.begin().await.unwrap_err());
        for error in errors {
            assert!(
                chain(&error).contains(&format!("{name} {GONE}")),
                "{}",
                chain(&error)
            );
            assert_eq!(error.kind(), LedgerErrorKind::Unreachable);
        }
        std::fs::rename(&aside, &file).unwrap();
        assert_eq!(
            ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
            Claim::Handled {
                first_digest: DIGEST
            }
        );
        granted(&ledger, 100).await;
    }
}

async fn at_once_without_a_transaction(ledger: &Sqlite) -> Vec<Result<Claim, LedgerError>> {
    let asking = (10..20).map(|n| {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.claim(&key(n), DIGEST, LEASE).await })
    });
    let mut reported = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        reported.push(asked.await.unwrap());
    }
    reported
}

#[tokio::test]
async fn an_error_distinguishes_busy_not_writable_and_refused_content() {
    let folder = Folder::new();
    let ledger = Sqlite::options()
        .busy_timeout(Duration::from_millis(20))
        .open(folder.file())
        .await
        .unwrap();
    let mut other =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file()))
            .await
            .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let kind = async || {
        ledger
            .claim(&key(0), DIGEST, LEASE)
            .await
            .unwrap_err()
            .kind()
    };
    assert_eq!(kind().await, LedgerErrorKind::Busy);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();

    run(&ledger, "PRAGMA query_only = ON").await.unwrap();
    assert_eq!(kind().await, LedgerErrorKind::CannotWrite);
    run(&ledger, "PRAGMA query_only = OFF").await.unwrap();

    let too_large = run(&ledger, "SELECT zeroblob(2000000000)")
        .await
        .unwrap_err();
    assert_eq!(
        too_large.kind(),
        LedgerErrorKind::Content,
        "{}",
        chain(&too_large)
    );
    assert_eq!(
        run(&ledger, "SELECT * FROM nowhere")
            .await
            .unwrap_err()
            .kind(),
        LedgerErrorKind::Unreachable
    );
    granted(&ledger, 0).await;
}

#[tokio::test]
async fn a_file_that_another_process_writes_to_can_be_opened() {
    let folder = Folder::new();
    drop(Sqlite::open(folder.file()).await.unwrap());
    let mut other =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file()))
            .await
            .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let ledger = Sqlite::options()
        .busy_timeout(Duration::from_millis(20))
        .open(folder.file())
        .await
        .unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    granted(&ledger, 0).await;
}
