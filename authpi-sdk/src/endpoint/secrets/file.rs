//! Secrets in a file of one machine.

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

/// How long a [`FileSecretStore`] waits for another process that writes the same file, unless set:
/// 10 seconds.
pub const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait before the lock is tried once more.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Secrets in a JSON file that only its owner may read: a new one has mode 0600 on Unix (elsewhere
/// as the folder has it). One that is there keeps its owner, group and mode, such as 0640, as far
/// as the process may set them; a group that it cannot keep loses its rights.
///
/// Any number of processes of one machine may use it at once: writers lock the file `<path>.lock`
/// beside it and put a new file in the place of the old one, flushed to disk first, so that a
/// reader sees all or nothing of a change, and a crash leaves the old or the new file. A writer
/// waits for the lock for at most 10 s ([`lock_timeout`](Self::lock_timeout)), so that a process
/// that was stopped while it held it keeps no other from going on or from ending. A symbolic link
/// stays one, also where what it points to is not there yet; what it points to is written.
///
/// The folder must exist, and be the service's own: it must be able to make files in it. A file
/// system whose locks do not reach all machines (NFS, mostly) is not suitable.
#[derive(Clone, Debug)]
pub struct FileSecretStore {
    path: PathBuf,
    lock_timeout: Duration,
}

/// By endpoint. `BTreeMap`, so that a file does not change without reason.
type Kept = BTreeMap<String, Vec<StoredSecret>>;

impl FileSecretStore {
    /// The secrets in the file at `path`, which need not be there yet. Nothing is read or written
    /// before it is used.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            lock_timeout: DEFAULT_LOCK_TIMEOUT,
        }
    }

    /// How long to wait for another process that writes the same file; [`DEFAULT_LOCK_TIMEOUT`] (10
    /// s) if not given. After that the step fails, and nothing is changed.
    #[must_use]
    pub fn lock_timeout(self, lock_timeout: Duration) -> Self {
        Self {
            lock_timeout,
            ..self
        }
    }

    /// Where it is.
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
            // Released when it is closed, also by a crash.
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

/// Takes the lock, or gives up.
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
            // Not even its folder: a wrong path must not look like a file without secrets.
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
    // Not serde's own message, which quotes what it found.
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

/// Another file takes the place of this one, as a whole. The caller holds the lock.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let next = beside(path, ".next");
    // Of a writer that died; its mode may have been changed.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(files::about(&next, &error));
        }
        _ => {}
    }
    let text = zeroize::Zeroizing::new(serde_json::to_vec_pretty(kept)?);
    files::replace(path, &next, &text, &mut private())
}
