//! Secrets in a file on one machine.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{SecretStore, SecretStoreError, StoredSecret};
use crate::{
    files::{self, private},
    json,
};

/// The default of [`FileSecretStore::lock_timeout`]: 10 seconds.
pub const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause before the lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Secrets in a JSON file that only its owner may read: a new file has mode 0600 on Unix
/// (elsewhere, the folder decides). An existing file keeps its owner, group and mode, such as 0640,
/// as far as the process may set them. If it cannot keep the group, the group loses its
/// permissions.
///
/// Any number of processes on one machine may use it at once. Writers lock the file `<path>.lock`
/// next to it, and replace the file with a new one that was flushed to disk. So a reader sees a
/// change completely or not at all, and after a crash, there is either the old or the new file. A
/// writer waits for the lock for at most 10 s ([`lock_timeout`](Self::lock_timeout)), so that a
/// stopped process cannot block the others. A symbolic link stays a link, even if its target does
/// not exist yet; the target is written.
///
/// The folder must exist, and the service must be allowed to create files in it. A file system
/// whose locks do not work across machines (usually NFS) is not suitable.
#[derive(Clone, Debug)]
pub struct FileSecretStore {
    path: PathBuf,
    lock_timeout: Duration,
}

/// The secrets by endpoint. A `BTreeMap`, so that the file's order is stable.
type Kept = BTreeMap<String, Vec<StoredSecret>>;

impl FileSecretStore {
    /// The secrets in the file at `path`, which need not exist yet. Nothing is read or written
    /// before the first use.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            lock_timeout: DEFAULT_LOCK_TIMEOUT,
        }
    }

    /// How long to wait for another process that writes the same file. Default:
    /// [`DEFAULT_LOCK_TIMEOUT`] (10 s). After that the step fails without a change.
    #[must_use]
    pub fn lock_timeout(self, lock_timeout: Duration) -> Self {
        Self {
            lock_timeout,
            ..self
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn off_the_runtime<T: Send + 'static>(
        &self,
        step: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SecretStoreError> {
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| SecretStoreError::new(step, error))
    }

    async fn change(
        &self,
        step: &'static str,
        change: impl FnOnce(&mut Kept) + Send + 'static,
    ) -> Result<(), SecretStoreError> {
        let wait = self.lock_timeout;
        self.off_the_runtime(step, move |path| {
            let path = files::target(path)?;
            // Released when closed, including by a crash.
            let _lock = lock(&beside(&path, ".lock"), wait)?;
            let mut kept = read(&path)?;
            change(&mut kept);
            write(&path, &kept)
        })
        .await
    }
}

impl SecretStore for FileSecretStore {
    /// # Errors
    /// Also when users other than the file's owner and group may read it.
    async fn load(&self, endpoint: &str) -> Result<Vec<StoredSecret>, SecretStoreError> {
        let endpoint = endpoint.to_owned();
        self.off_the_runtime("load secrets", move |path| {
            Ok(read(path)?.remove(&endpoint).unwrap_or_default())
        })
        .await
    }

    async fn save(&self, endpoint: &str, kept: &StoredSecret) -> Result<(), SecretStoreError> {
        let (endpoint, kept) = (endpoint.to_owned(), kept.clone());
        self.change("save a secret", move |all| {
            kept.put_into(all.entry(endpoint).or_default());
        })
        .await
    }

    async fn forget(
        &self,
        endpoint: &str,
        account_id: &str,
        webhook_id: &str,
    ) -> Result<(), SecretStoreError> {
        let (endpoint, account_id, webhook_id) = (
            endpoint.to_owned(),
            account_id.to_owned(),
            webhook_id.to_owned(),
        );
        let forget = move |all: &mut Kept| {
            let Some(kept) = all.get_mut(&endpoint) else {
                return;
            };
            kept.retain(|kept| !kept.is_of(&account_id, &webhook_id));
            if kept.is_empty() {
                all.remove(&endpoint);
            }
        };
        self.change("forget a secret", forget).await
    }
}

/// Takes the lock, or fails after `wait`.
fn lock(path: &Path, wait: Duration) -> io::Result<File> {
    let file = private()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| files::about(path, &error))?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < wait => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                let path = path.display();
                let why = format!(
                    "{path} has been locked for more than {wait:?}; check for a stopped process that uses it"
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            Err(TryLockError::Error(error)) => return Err(files::about(path, &error)),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn read(path: &Path) -> io::Result<Kept> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Fails if the folder does not exist either: a wrong path must not look like an empty
            // store.
            return files::target(path).map(|_| Kept::new());
        }
        Err(error) => return Err(files::about(path, &error)),
    };
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions()) & 0o007 != 0 {
        let path = path.display();
        return Err(io::Error::other(format!(
            "{path} is readable by every user: run chmod 600 on it"
        )));
    }
    let text = zeroize::Zeroizing::new(
        io::read_to_string(file).map_err(|error| files::about(path, &error))?,
    );
    // Not serde's own message, which quotes the content.
    let not_ours = |error: serde_json::Error| {
        let (path, line, column) = (path.display(), error.line(), error.column());
        let why = format!("{path}: not a secret file (line {line}, column {column})");
        io::Error::new(io::ErrorKind::InvalidData, why)
    };
    if text.is_empty() {
        Ok(Kept::new())
    } else {
        json::read(&text).map_err(not_ours)
    }
}

/// Replaces the file as a whole. The caller holds the lock.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let next = beside(path, ".next");
    // A writer that died may have left this file; its mode may have been changed.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(files::about(&next, &error));
        }
        _ => {}
    }
    let text = zeroize::Zeroizing::new(serde_json::to_vec_pretty(kept)?);
    files::replace(path, &next, &text, &mut private())
}
