//! A ledger's file on a small disk that becomes full and has space again, or that cannot be
//! written.
//!
//! The disk is a real tmpfs. A test that needs it runs itself again in a mount namespace: nothing
//! stays mounted, however it ends, and root is not required where users may create namespaces. If
//! `unshare` is not permitted, these tests fail; `cargo xtask test` checks this first, and reports
//! the part `disk` as not run.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use authpi_sdk::{ledger::LedgerErrorKind, stores::Sqlite};
use authpi_tests::harness::{Mode, Role, Store};
use tokio::process::Command;

use crate::{crash::Trial, drivers::chain};

/// The disk's folder, in a test that has one.
const VARIABLE: &str = "AUTHPI_SMALL_DISK";
/// Space for the events of a trial several times over.
const SIZE: &str = "size=32m";
/// Mounts a disk at the first argument, then runs the other arguments as a program.
const MOUNT: &str = r#"mount -t tmpfs -o "$1" authpi-small-disk "$2" && shift 2 && exec "$@""#;
/// The ways to create a namespace: for root, and for other users.
const NAMESPACES: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];

struct SmallDisk(PathBuf);

impl SmallDisk {
    /// The disk of this run of the test. Without one, the test has been run again with a disk, or
    /// could not be.
    async fn of(test: &str) -> Option<Self> {
        Self::behind(&[], test).await
    }

    /// The same, for a test that must respect file modes although it runs as root.
    async fn under_file_modes(test: &str) -> Option<Self> {
        Self::behind(
            &[
                "setpriv",
                "--bounding-set=-dac_override,-dac_read_search",
                "--",
            ],
            test,
        )
        .await
    }

    async fn behind(prelude: &[&str], test: &str) -> Option<Self> {
        if let Some(folder) = env::var_os(VARIABLE) {
            return Some(Self(folder.into()));
        }
        let folder = env::temp_dir().join(format!("authpi-it-disk-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        let done = run_with_one(prelude, &format!("disk::{test}"), &folder).await;
        let _ = fs::remove_dir(&folder);
        done.unwrap_or_else(|why| panic!("{why}"));
        None
    }

    fn file(&self) -> PathBuf {
        self.0.join("hooks.db")
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves no block free.
    fn fill(&self) {
        let mut ballast = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.ballast())
            .expect("a file can be made");
        let block = [0; 4096];
        loop {
            match ballast.write_all(&block) {
                Ok(()) => {}
                Err(full) if full.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the ballast can be removed");
    }
}

async fn run_with_one(prelude: &[&str], test: &str, folder: &Path) -> Result<(), String> {
    let within = |namespace: &[&str], and_then: &[OsString]| {
        let mut command = Command::new("unshare");
        command
            .args(namespace)
            .args(["--", "sh", "-c", MOUNT, "sh", SIZE])
            .arg(folder)
            .args(and_then);
        command
            .env(VARIABLE, folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    };
    let mut way = None;
    for namespace in NAMESPACES {
        let mounted = within(namespace, &["true".into()]).output().await;
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            way = Some(namespace);
            break;
        }
    }
    let Some(way) = way else {
        return Err(format!(
            "{test} needs `unshare` and the right to mount a disk that can fill up; `-- --skip disk::` leaves such tests out"
        ));
    };
    let again = env::current_exe()
        .expect("a test knows its program")
        .into_os_string();
    let args = ["--exact", test, "--nocapture"].map(OsString::from);
    let prelude: Vec<_> = prelude.iter().map(OsString::from).collect();
    let reported = within(way, &[&prelude, &[again][..], &args[..]].concat())
        .output()
        .await
        .expect("unshare starts");
    let out = String::from_utf8_lossy(&reported.stdout);
    print!("{out}");
    eprint!("{}", String::from_utf8_lossy(&reported.stderr));
    if !reported.status.success() {
        return Err(format!("{test} failed on a small disk (above)"));
    }
    if out.contains("1 passed") {
        Ok(())
    } else {
        Err(format!("no test is called {test}"))
    }
}

/// How often the disk becomes full.
const TIMES_FULL: u32 = 4;

/// The disk becomes full repeatedly, at any point of the service's work, and each time some space
/// is freed.
async fn on_a_small_disk(test: &str, name: &'static str, mode: Mode, roles: &[Role]) {
    let Some(disk) = SmallDisk::of(test).await else {
        return;
    };
    let trial = Trial::new(name, mode, Some(Store::Sqlite(disk.file())));
    let faults = async |trial: &Trial| {
        for _ in 0..TIMES_FULL {
            trial.until_acknowledged(50, "a full disk").await;
            disk.fill();
            trial.until_refused(50).await;
            disk.make_room();
        }
        let why = std::fs::read_to_string(trial.log(0)).expect("a log can be read");
        assert!(
            why.contains("disk is full"),
            "{}: deliveries were refused for another reason: {why}",
            trial.name
        );
    };
    trial.endure(roles, faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_inline_nothing_is_lost_when_the_disk_is_full() {
    let test = "on_sqlite_inline_nothing_is_lost_when_the_disk_is_full";
    on_a_small_disk(
        test,
        "sqlite on a full disk, inline",
        Mode::Inline,
        &[Role::Receiver; 2],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_an_inbox_loses_nothing_when_the_disk_is_full() {
    let test = "on_sqlite_an_inbox_loses_nothing_when_the_disk_is_full";
    let roles = [Role::Receiver, Role::Worker];
    on_a_small_disk(test, "sqlite on a full disk, inbox", Mode::Inbox, &roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_effect_in_the_transaction_happens_once_with_a_full_disk() {
    let test = "a_sqlite_effect_in_the_transaction_happens_once_with_a_full_disk";
    on_a_small_disk(
        test,
        "sqlite on a full disk, inbox in a transaction",
        Mode::InboxTx,
        &[Role::Both; 2],
    )
    .await;
}

/// Opening fails, with the file and the reason.
async fn refused(disk: &SmallDisk, name: &str, why: &str) {
    let error = Sqlite::open(disk.0.join(name)).await.expect_err(why);
    let text = chain(&error);
    assert!(text.contains(name) && text.contains(why), "{text}");
    assert_eq!(error.kind(), LedgerErrorKind::CannotWrite, "{text}");
}

#[tokio::test]
async fn a_file_folder_or_mount_that_is_read_only_is_refused_with_the_cause() {
    let test = "a_file_folder_or_mount_that_is_read_only_is_refused_with_the_cause";
    let Some(disk) = SmallDisk::under_file_modes(test).await else {
        return;
    };
    let mode = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
    };
    let mount = async |how: &str| {
        let mounted = Command::new("mount")
            .args(["-o", how])
            .arg(&disk.0)
            .status()
            .await;
        assert!(mounted.expect("mount starts").success(), "mount -o {how}");
    };
    let opens = async || {
        Sqlite::open(disk.file())
            .await
            .expect("it can be written")
            .close()
            .await;
    };
    opens().await;

    mode(&disk.file(), 0o444);
    refused(&disk, "hooks.db", "readonly").await;
    // Reading it created companion files with the same mode.
    for name in ["hooks.db", "hooks.db-wal", "hooks.db-shm"] {
        if disk.0.join(name).exists() {
            mode(&disk.0.join(name), 0o600);
        }
    }
    opens().await;

    mode(&disk.0, 0o555);
    refused(&disk, "hooks.db", "readonly").await;
    refused(&disk, "new.db", "Permission denied").await;
    mode(&disk.0, 0o755);
    opens().await;

    mount("remount,ro").await;
    refused(&disk, "hooks.db", "unable to open").await;
    refused(&disk, "new.db", "Read-only file system").await;
    mount("remount,rw").await;
    opens().await;
}
