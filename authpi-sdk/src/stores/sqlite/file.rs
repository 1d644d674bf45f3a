//! The file on disk: created for its owner only, and checked for deletion, since SQLite continues
//! to write to a deleted file.

use std::{
    error::Error,
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use sqlx::{Row as _, SqliteConnection};

use super::open_error::OpenError;

/// Creates the file, if it does not exist. (SQLite would make it readable for others.) The files
/// next to it (`-wal`, `-shm`) get its mode from SQLite.
///
/// # Errors
/// When the path names no file, or the file cannot be created.
pub(super) fn prepare(path: &Path) -> Result<(), OpenError> {
    if path.as_os_str().is_empty() || path == Path::new(":memory:") {
        return Err(OpenError::KeepsNothing);
    }
    // A URI is left to SQLite, which creates the file. `OpenFile::of` checks later that the
    // database is kept in a file.
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

    /// The limit of the system for chains of links.
    const MAX_LINKS: usize = 40;
    static MADE: AtomicU32 = AtomicU32::new(0);

    let mut path = path.to_owned();
    // For a link to a file that does not exist, the target is created.
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => break,
        }
    }
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    // Under another name: closing a file drops all locks that this process has on it, and SQLite
    // may have some by then.
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
    // If the file exists now, another process was faster. A file system without links leaves it to
    // SQLite.
    let linked = fs::hard_link(&unfinished, &path);
    fs::remove_file(&unfinished).map_err(OpenError::Io)?;
    if let Err(error) = linked {
        tracing::debug!(%error, "SQLite will create the ledger's file");
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

/// The file and its log, as they were opened.
#[derive(Debug)]
pub(super) struct OpenFile(Vec<(PathBuf, Identity)>);

impl OpenFile {
    /// The files that a connection has open, after it has read something.
    ///
    /// # Errors
    /// When the database is not kept in a file, or not in the mode that the ledger needs.
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

    /// Detects that the file was deleted. It checks two names, at about a microsecond each.
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

/// The identity of a file: device and inode.
#[cfg(unix)]
pub(super) type Identity = (u64, u64);

#[cfg(unix)]
pub(super) fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// On other systems an open file cannot be deleted.
#[cfg(not(unix))]
pub(super) type Identity = ();

#[cfg(not(unix))]
pub(super) fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(drop)
}

/// The opened file is no longer under its name.
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
