//! The file on the disk: made for its owner alone, and watched, since SQLite goes on writing to a
//! file that was deleted.

use std::{
    error::Error,
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use sqlx::{Row as _, SqliteConnection};

use super::open_error::OpenError;

/// Makes the file, if there is none, and may be made: SQLite would make it readable for others. Its
/// companions (`-wal`, `-shm`) get its mode from SQLite.
///
/// # Errors
/// When the path names no file, or the file cannot be made.
pub(super) fn prepare(path: &Path) -> Result<(), OpenError> {
    if path.as_os_str().is_empty() || path == Path::new(":memory:") {
        return Err(OpenError::KeepsNothing);
    }
    // A URI is for SQLite to read, and is looked at afterwards.
    if path.as_os_str().as_encoded_bytes().starts_with(b"file:") {
        return Ok(());
    }
    make(path)
}

#[cfg(unix)]
fn make(path: &Path) -> Result<(), OpenError> {
    use std::{
        os::unix::fs::OpenOptionsExt as _,
        sync::atomic::{AtomicU32, Ordering},
    };

    /// Like the system, for links that lead to links.
    const MAX_LINKS: usize = 40;
    static MADE: AtomicU32 = AtomicU32::new(0);

    let mut path = path.to_owned();
    // A link to a file that is not there: that is made, and not the link.
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => break,
        }
    }
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    // Not under its own name: to close a file gives up all locks that this process has on it, and
    // SQLite may have some by then.
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(format!(
        ".new-{}-{}",
        std::process::id(),
        MADE.fetch_add(1, Ordering::Relaxed)
    ));
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
    {
        Ok(file) => drop(file),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(OpenError::NoFolder {
                folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            });
        }
        Err(error) => return Err(OpenError::Io(error)),
    }
    // If it is there by now, somebody else was faster; a file system without links leaves it to
    // SQLite.
    let linked = fs::hard_link(&unfinished, &path);
    fs::remove_file(&unfinished).map_err(OpenError::Io)?;
    if let Err(error) = linked {
        tracing::debug!(%error, "the ledger's file is left to SQLite to make");
    }
    Ok(())
}

#[cfg(not(unix))]
fn make(path: &Path) -> Result<(), OpenError> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.exists() => {
            Err(OpenError::NoFolder {
                folder: folder.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// The file and its log, as they were when they were opened.
#[derive(Debug)]
pub(super) struct OpenFile(Vec<(PathBuf, Identity)>);

impl OpenFile {
    /// What a connection has open, once it has read something.
    ///
    /// # Errors
    /// When it is kept nowhere, or not as the ledger needs it.
    pub(super) async fn of(connection: &mut SqliteConnection) -> Result<Self, OpenError> {
        let main = "SELECT coalesce(file, '') FROM pragma_database_list WHERE name = 'main'";
        let main: String = sqlx::query(main)
            .fetch_one(&mut *connection)
            .await?
            .try_get(0)?;
        let Some(known) = identity(Path::new(&main)).filter(|_| !main.is_empty()) else {
            return Err(OpenError::KeepsNothing);
        };
        let mode: String = sqlx::query("PRAGMA journal_mode")
            .fetch_one(connection)
            .await?
            .try_get(0)?;
        if mode != "wal" {
            return Err(OpenError::NotWal { mode });
        }
        let log = PathBuf::from(format!("{main}-wal"));
        let known_log = identity(&log).map(|known| (log, known));
        Ok(Self(
            [(main.into(), known)]
                .into_iter()
                .chain(known_log)
                .collect(),
        ))
    }

    /// Says so when what is written goes to a file that was deleted. A look at each of
    /// two names, about a microsecond each.
    pub(super) fn check(&self) -> Result<(), Gone> {
        match self
            .0
            .iter()
            .find(|(path, known)| identity(path) != Some(*known))
        {
            Some((path, _)) => Err(Gone { path: path.clone() }),
            None => Ok(()),
        }
    }
}

/// What a file is whatever its name: device and inode.
#[cfg(unix)]
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Elsewhere an open file cannot be deleted.
#[cfg(not(unix))]
type Identity = ();

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(drop)
}

/// What was opened is no longer under its name.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    path: PathBuf,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(
            f,
            "{path} was deleted or replaced after it was opened, so what is written to it would be lost: put it back, or \
             restart the process to begin with the file that is there"
        )
    }
}

impl Error for Gone {}
