//! The service's processes: started, killed, and restarted.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use authpi_tests::harness::{Entry, Role, Setup};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use super::{Trial, service};
use crate::servers::DEADLINE;

const SIGKILL: i32 = 9;

/// A running process.
pub(super) struct Process {
    child: Child,
    /// The process ends when this is dropped. (Waiting for a child would drop it.)
    _stdin: ChildStdin,
    number: u32,
}

impl Process {
    pub(super) fn start(trial: &Trial, setup: &Setup) -> Self {
        let log = File::create(trial.log(setup.process)).expect("a log can be made");
        let mut child = Command::new(service())
            .arg(serde_json::to_string(setup).expect("it is plain data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the service starts");
        let stdin = child.stdin.take().expect("it is piped");
        Self {
            child,
            _stdin: stdin,
            number: setup.process,
        }
    }

    /// The port that it serves; zero for a worker.
    pub(super) async fn ready(&mut self, trial: &Trial) -> u16 {
        let out = BufReader::new(self.child.stdout.take().expect("it is piped"));
        let line = timeout(DEADLINE, out.lines().next_line()).await;
        let line =
            line.unwrap_or_else(|_| panic!("{}", self.reported(trial, "is not ready in time")));
        let line = line.expect("a pipe can be read").unwrap_or_default();
        let port = line
            .strip_prefix("ready ")
            .and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{}", self.reported(trial, "did not get ready")))
    }

    pub(super) async fn kill(mut self, trial: &Trial) {
        trial.journal.write(&Entry::Killing(self.number));
        self.child.start_kill().expect("it can be killed");
        self.until_killed(trial, "survives SIGKILL").await;
    }

    /// Stops it for this time, whatever it is doing.
    async fn freeze(&self, trial: &Trial, how_long: Duration) {
        let id = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?))
            .expect("it runs");
        trial.journal.write(&Entry::Freezing(self.number));
        kill_process(id, Signal::STOP).expect("it can be stopped");
        tokio::time::sleep(how_long).await;
        kill_process(id, Signal::CONT).expect("it is still there");
    }

    /// Waits until it has killed itself.
    pub(super) async fn until_killed(mut self, trial: &Trial, otherwise: &str) {
        let ended = timeout(DEADLINE, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{}", self.reported(trial, otherwise)));
        let ended = ended.expect("a child can be waited for");
        assert!(
            was_killed(ended),
            "{}",
            self.reported(trial, &format!("ended by itself: {ended}"))
        );
    }

    /// Resolves if it ends without being killed.
    pub(super) async fn ended(&mut self, trial: &Trial) -> String {
        let ended = self.child.wait().await.expect("a child can be waited for");
        self.reported(trial, &format!("ended by itself: {ended}"))
    }

    fn reported(&self, trial: &Trial, what: &str) -> String {
        let log = std::fs::read_to_string(trial.log(self.number)).unwrap_or_default();
        let end = log.lines().rev().take(20).collect::<Vec<_>>();
        let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("{}: process {} {what}\n{end}", trial.name, self.number)
    }
}

fn was_killed(ended: ExitStatus) -> bool {
    ended.signal() == Some(SIGKILL)
}

/// How a process dies.
#[derive(Clone, Debug)]
pub(super) enum Death {
    /// By itself, at this pass of this crash point.
    At(&'static str, u32),
    /// This time after it was started, whether it is ready or not.
    Starting(Duration),
    /// This time after it became ready.
    Working(Duration),
    /// Like the previous one, but before that it is stopped for this time, and resumes after its
    /// leases have expired.
    Frozen(Duration, Duration),
}

impl Trial {
    /// Runs a process until it dies as planned, or for ever without a plan.
    pub(super) async fn live(&self, slot: usize, role: Role, death: Option<Death>) {
        let at = match &death {
            Some(Death::At(point, pass)) => Some(((*point).to_owned(), *pass)),
            _ => None,
        };
        let mut process = Process::start(self, &self.setup(role, at));
        if let Some(Death::Starting(after)) = death {
            tokio::time::sleep(after).await;
            return process.kill(self).await;
        }
        let port = process.ready(self).await;
        if role != Role::Worker {
            self.ports.lock().unwrap()[slot] = Some(port);
        }
        self.ready.send_modify(|ready| *ready += 1);
        match death {
            Some(Death::Working(after)) => {
                tokio::time::sleep(after).await;
                process.kill(self).await;
            }
            Some(Death::Frozen(after, how_long)) => {
                tokio::time::sleep(after).await;
                process.freeze(self, how_long).await;
                tokio::time::sleep(after).await;
                process.kill(self).await;
            }
            Some(Death::At(point, pass)) => {
                process
                    .until_killed(
                        self,
                        &format!("does not pass the point {point} {pass} times"),
                    )
                    .await;
            }
            _ => panic!("{}", process.ended(self).await),
        }
        self.ports.lock().unwrap()[slot] = None;
    }
}
