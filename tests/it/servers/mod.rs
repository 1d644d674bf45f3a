//! Real servers with temporary data, on free ports of this machine. They end with the test run,
//! however it ends.
//!
//! Tests that need *any* server share one. Tests that stop, pause or restart a server start their
//! own. A missing server fails its tests: `cargo xtask test` installs what it can, and otherwise
//! skips the tests by name and reports it.

pub(crate) mod faults;
pub(crate) mod forward;
pub(crate) mod nats;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod prism;
pub(crate) mod redis;

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How long a server may take to start, stop or respond again.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Runs the server, ends it when its own standard input is closed, and removes its folder if
/// requested.
const KEEPER: &str = r#"
    signal=$1 folder=$2; shift 2
    "$@" </dev/null >"$folder/log" 2>&1 &
    echo $!
    read -r last
    kill -CONT $! 2>/dev/null
    kill "-$signal" $! 2>/dev/null
    wait
    if [ "$last" != keep ]; then rm -rf "$folder"; fi
"#;

/// A server's process, under a shell that outlives this process until the server has ended.
pub(crate) struct Process {
    keeper: Child,
    pid: u32,
}

impl Process {
    /// Ended with `signal`; its output goes to `log` in `folder`.
    pub(crate) fn start(
        account: Option<Account>,
        signal: &str,
        folder: &Path,
        program: &Path,
        args: &[String],
    ) -> Self {
        let mut keeper = command(account, Path::new("sh"));
        keeper
            .args(["-c", KEEPER, "keeper", signal])
            .arg(folder)
            .arg(program)
            .args(args);
        let mut keeper = keeper
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("sh tells the pid");
        Self {
            keeper,
            pid: line.trim().parse().expect("a pid is a number"),
        }
    }

    /// Ends it, and keeps its folder for another one.
    pub(crate) fn stop(mut self) {
        use std::io::Write as _;
        let mut last = self.keeper.stdin.take().expect("it is piped");
        last.write_all(b"keep\n").expect("the keeper reads");
        drop(last);
        self.keeper.wait().expect("the keeper ends");
    }

    pub(crate) fn is_running(&self) -> bool {
        succeeds(
            Command::new("kill")
                .args(["-0", &self.pid.to_string()])
                .stderr(Stdio::null()),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The user for a server that refuses to run as root.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    user: u32,
    group: u32,
}

impl Account {
    /// `postgres` if it exists, else `nobody`; `None` unless we are root.
    fn other_than_root() -> Option<Self> {
        let id = |args: &[&str]| {
            let output = Command::new("id").args(args).output().expect("id runs");
            String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse::<u32>()
                .ok()
        };
        if id(&["-u"]) != Some(0) {
            return None;
        }
        let account = |name| {
            Some(Self {
                user: id(&["-u", name])?,
                group: id(&["-g", name])?,
            })
        };
        Some(
            account("postgres")
                .or_else(|| account("nobody"))
                .expect("a user called postgres or nobody exists"),
        )
    }
}

fn command(account: Option<Account>, program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some(Account { user, group }) = account {
        command.uid(user).gid(group).current_dir("/");
    }
    command
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// Sends a signal to processes, as `kill` does.
fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    assert!(
        succeeds(Command::new("kill").arg(format!("-{name}")).args(pids)),
        "kill -{name} failed"
    );
}

/// Waits until every thread of these processes has stopped: `kill` returns earlier, and they may
/// still respond meanwhile. Without `/proc` there is no way to know.
fn stopped(pids: &[u32]) {
    let started = Instant::now();
    let stops = |pid: &u32| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let mut states =
            threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        // The state follows the program's name, which is in brackets.
        states.all(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with(['T', 't', 'Z', 'X']))
        })
    };
    while !pids.iter().all(stops) {
        assert!(started.elapsed() < DEADLINE, "a server does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An empty folder for a server's data.
pub(crate) fn folder(kind: &str, owner: Option<Account>) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path =
        std::env::temp_dir().join(format!("authpi-it-{kind}-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder can be made");
    if let Some(Account { user, group }) = owner {
        chown(&path, Some(user), Some(group)).expect("root can give a folder away");
    }
    path
}

/// A port that was free a moment ago. The caller must handle that it is taken.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// A server's program: on the path, or where Debian installs it.
pub(crate) fn program(name: &str, package: &str, elsewhere: &[PathBuf]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = elsewhere
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "{name} is not here; on Debian: apt-get install {package}. `cargo xtask test` does so, and \
             `cargo test -- --skip drivers:: --skip crash::` leaves out what needs it"
        )
    })
}

/// Polls until there is a result, or panics with the text of `otherwise`.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    otherwise: impl Fn() -> String,
    ask: impl Fn() -> F,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "{}", otherwise());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The end of a server's log.
pub(crate) fn log(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    log.lines()
        .rev()
        .take(20)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join("\n")
}
