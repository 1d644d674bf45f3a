//! The state file: what outlives the process.
//!
//! `file` locks, reads and replaces the file. `Content` is what is in it; the store and the
//! idempotency keys define their parts (`store/saved.rs`, `idempotency.rs`). The task below saves
//! after changes, and pauses between two writes, so that a large state costs little.
//!
//! The format is JSON: `{"format": "authpi-emulator-state", "version": 1, …}`. A change that an
//! older emulator cannot read, or reads wrongly, needs a new [`VERSION`](file::VERSION).

mod file;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) use file::{StateFile, damaged};

use crate::{
    credentials::Account, idempotency::SavedCall, log::LogLine, state::State, store::SavedStore,
};

/// The shortest pause between two writes.
const PAUSE: Duration = Duration::from_millis(200);
/// The pause is at least this many times as long as the write before it.
const PAUSE_PER_WRITE: u32 = 10;
/// The pause after a write that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// What is saved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    format: String,
    version: u64,
    pub(crate) account: Account,
    pub(crate) store: SavedStore,
    pub(crate) idempotency_keys: Vec<SavedCall>,
}

impl Content {
    fn of(world: &State) -> Self {
        // The keys are read before the store. Otherwise a saved key could replay the answer of a
        // call whose result is not in the saved store.
        let idempotency_keys = world.replays.saved(world.clock.millis());
        Self {
            format: file::FORMAT.to_owned(),
            version: file::VERSION,
            account: world.account.clone(),
            store: world.store().saved(),
            idempotency_keys,
        }
    }
}

/// Saves the state of a running emulator.
pub(crate) struct Saver {
    world: Arc<State>,
    file: Arc<StateFile>,
    task: JoinHandle<()>,
}

impl Saver {
    /// Saves once, and then after changes until `stop`.
    pub(crate) async fn start(
        world: Arc<State>,
        file: StateFile,
        stop: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let file = Arc::new(file);
        let changes = world.changes();
        save(&world, &file).await?;
        let task = tokio::spawn(run(world.clone(), file.clone(), changes, stop));
        Ok(Self { world, file, task })
    }

    /// Saves for the last time, after `stop` and after everything else has ended.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        // A write in progress ends first. If the task panicked, this write replaces its own.
        let _ = (&mut self.task).await;
        save(&self.world, &self.file).await
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    world: Arc<State>,
    file: Arc<StateFile>,
    mut changes: watch::Receiver<()>,
    mut stop: watch::Receiver<bool>,
) {
    let mut has_failed = false;
    loop {
        tokio::select! {
            // The sender is in `world`.
            _ = changes.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let begun = Instant::now();
        let pause = match save(&world, &file).await {
            Ok(()) => {
                has_failed = false;
                PAUSE.max(begun.elapsed() * PAUSE_PER_WRITE)
            }
            Err(error) => {
                // Once, until it succeeds again.
                if !has_failed {
                    let warning = format!("cannot save the state: {error}");
                    world.log.line(|| LogLine::Warning(warning));
                }
                has_failed = true;
                changes.mark_changed();
                PAUSE_AFTER_FAILURE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// The file stays locked until the write has ended, also if this future is dropped before.
async fn save(world: &Arc<State>, file: &Arc<StateFile>) -> io::Result<()> {
    let (world, file) = (world.clone(), file.clone());
    tokio::task::spawn_blocking(move || file.write(&Content::of(&world)))
        .await
        .map_err(io::Error::other)?
}
