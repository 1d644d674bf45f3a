//! A small disk that fills up, and has room again.
//!
//! It is a real one, a tmpfs. A test that wants it is run once more, in a mount namespace of its own: nothing is left mounted,
//! however it ends, and nobody has to be root where users may make namespaces.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

/// Where the disk is, for a test that is run with one.
const VARIABLE: &str = "AUTHPI_SMALL_DISK";
/// Room for the events of a trial several times over.
const SIZE: &str = "size=32m";
/// Mounts a disk at the first argument, and goes on with the others as a program.
const MOUNT: &str = r#"mount -t tmpfs -o "$1" authpi-small-disk "$2" && shift 2 && exec "$@""#;
/// The ways to a namespace: for root, and for others.
const NAMESPACES: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];

pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// The disk that this run of the test has. If it has none, the test has been run once more, with one, or could not be.
    pub(super) async fn of(test: &str) -> Option<Self> {
        if let Some(folder) = env::var_os(VARIABLE) {
            return Some(Self(folder.into()));
        }
        let folder = env::temp_dir().join(format!("authpi-it-disk-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        let done = run_with_one(test, &folder).await;
        let _ = fs::remove_dir(&folder);
        done.unwrap_or_else(|why| panic!("{why}"));
        None
    }

    pub(super) fn file(&self) -> PathBuf {
        self.0.join("hooks.db")
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves no block free.
    pub(super) fn fill(&self) {
        let mut ballast =
            OpenOptions::new().append(true).create(true).open(self.ballast()).expect("a file can be made");
        let block = [0; 4096];
        loop {
            match ballast.write_all(&block) {
                Ok(()) => {}
                Err(full) if full.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    pub(super) fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the ballast can be removed");
    }
}

async fn run_with_one(test: &str, folder: &Path) -> Result<(), String> {
    let within = |namespace: &[&str], and_then: &[OsString]| {
        let mut command = Command::new("unshare");
        command.args(namespace).args(["--", "sh", "-c", MOUNT, "sh", SIZE]).arg(folder).args(and_then);
        command.env(VARIABLE, folder).stdin(Stdio::null()).kill_on_drop(true);
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
        let why = format!("{test} was NOT RUN: `unshare` lets this user mount no disk that could fill up");
        if env::var("CI").is_ok_and(|ci| ci == "true") {
            return Err(format!("{why}, and CI=true asks for all"));
        }
        eprintln!("{why}");
        return Ok(());
    };
    let again = env::current_exe().expect("a test knows its program").into_os_string();
    let args = ["--exact", test, "--nocapture"].map(OsString::from);
    let told = within(way, &[&[again], &args[..]].concat()).output().await.expect("unshare starts");
    let out = String::from_utf8_lossy(&told.stdout);
    print!("{out}");
    eprint!("{}", String::from_utf8_lossy(&told.stderr));
    if !told.status.success() {
        return Err(format!("{test} failed on a small disk (above)"));
    }
    if out.contains("1 passed") { Ok(()) } else { Err(format!("no test is called {test}")) }
}
