//! Secrets in a file of one machine.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{KeptSecret, SecretStore, SecretStoreError};

/// Secrets in a JSON file that only its owner may read (mode 0600 on Unix; elsewhere as the folder has it).
///
/// Any number of processes of one machine may use it at once: writers lock the file `<path>.lock` beside it and put a new file in the
/// place of the old one, flushed to disk first, so that a reader sees all or nothing of a change, and a crash leaves the
/// old or the new file. A symbolic link stays one; what it points to is written.
///
/// The folder must exist, and be the service's own: it must be able to make files in it. A file system whose locks do not reach all
/// machines (NFS, mostly) is no place for it.
#[derive(Clone, Debug)]
pub struct SecretFile {
    path: PathBuf,
}

/// By endpoint. `BTreeMap`, so that a file does not change without reason.
type Kept = BTreeMap<String, Vec<KeptSecret>>;

impl SecretFile {
    /// The secrets in the file at `path`, which need not be there yet. Nothing is read or written before it is used.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
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
        done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| SecretStoreError::new(step, error))
    }

    async fn change(
        &self,
        step: &'static str,
        change: impl FnOnce(&mut Kept) + Send + 'static,
    ) -> Result<(), SecretStoreError> {
        self.off_the_runtime(step, |path| {
            // Through a link to the file that it stands for; a file that is not there is made where the path says.
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let lock = private().write(true).create(true).truncate(false).open(beside(&path, ".lock"))?;
            // Released when it is closed, also by a crash.
            lock.lock()?;
            let mut kept = read(&path)?;
            change(&mut kept);
            write(&path, &kept)
        })
        .await
    }
}

impl SecretStore for SecretFile {
    /// # Errors
    /// Also when users other than the file's owner and group may read it.
    async fn load(&self, endpoint: &str) -> Result<Vec<KeptSecret>, SecretStoreError> {
        let endpoint = endpoint.to_owned();
        self.off_the_runtime("load secrets", move |path| Ok(read(path)?.remove(&endpoint).unwrap_or_default())).await
    }

    async fn save(&self, endpoint: &str, kept: &KeptSecret) -> Result<(), SecretStoreError> {
        let (endpoint, kept) = (endpoint.to_owned(), kept.clone());
        self.change("save a secret", move |all| kept.put_into(all.entry(endpoint).or_default())).await
    }

    async fn forget(&self, endpoint: &str, account_id: &str, webhook_id: &str) -> Result<(), SecretStoreError> {
        let (endpoint, account_id, webhook_id) = (endpoint.to_owned(), account_id.to_owned(), webhook_id.to_owned());
        let forget = move |all: &mut Kept| {
            let Some(kept) = all.get_mut(&endpoint) else { return };
            kept.retain(|kept| !kept.is_of(&account_id, &webhook_id));
            if kept.is_empty() {
                all.remove(&endpoint);
            }
        };
        self.change("forget a secret", forget).await
    }
}

/// For files that nobody else may read.
fn private() -> OpenOptions {
    #[cfg_attr(not(unix), allow(unused_mut, reason = "modes are Unix's"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn read(path: &Path) -> io::Result<Kept> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::new()),
        Err(error) => return Err(error),
    };
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions()) & 0o007 != 0 {
        return Err(io::Error::other("the file is open to every user of this machine: chmod 600 it"));
    }
    let text = zeroize::Zeroizing::new(io::read_to_string(file)?);
    // Not serde's own message, which quotes what it found.
    let not_ours = |error: serde_json::Error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        io::Error::new(io::ErrorKind::InvalidData, format!("the file is not one of ours ({place})"))
    };
    if text.is_empty() { Ok(Kept::new()) } else { serde_json::from_str(&text).map_err(not_ours) }
}

/// Another file takes the place of this one, as a whole. Whoever calls it holds the lock.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let next = beside(path, ".next");
    // Of a writer that died; its mode may have been changed.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().write(true).create_new(true).open(&next)?;
    let text = zeroize::Zeroizing::new(serde_json::to_vec_pretty(kept)?);
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    #[cfg(unix)]
    {
        // Or the folder may forget the new name.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
