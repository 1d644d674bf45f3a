//! The file: its lock, reading and replacing it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::Content;
use crate::StartError;

/// The first member of the file.
pub(super) const FORMAT: &str = "authpi-emulator-state";
/// The version of the format that this emulator writes and reads.
pub(super) const VERSION: u64 = 1;

/// A state file, locked.
pub(crate) struct StateFile {
    path: PathBuf,
    /// The next content, until it is complete.
    temporary: PathBuf,
    /// On a file of its own, because the state file is replaced. The operating system releases it
    /// when the process ends.
    _lock: File,
}

impl StateFile {
    /// Locks the file, and reads it if it exists. A file that is not readable stays as it is.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Content>), StartError> {
        let path = resolved(path).map_err(|error| failed("use", path, error))?;
        // Before anything is made beside it.
        check_begin(&path)?;
        let lock_path = path.with_added_extension("lock");
        let lock = private()
            .create(true)
            .open(&lock_path)
            .map_err(|error| failed("create", &lock_path, error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StartError {
                what: format!(
                    "another emulator uses the state file {}: stop it, or give another file",
                    path.display()
                ),
                cause: None,
            },
            TryLockError::Error(error) => failed("lock", &lock_path, error),
        })?;
        let content = read(&path)?;
        let file = Self {
            temporary: path.with_added_extension("tmp"),
            path,
            _lock: lock,
        };
        Ok((file, content))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file as a whole, with mode 0600: a crash leaves the old one or the new one.
    pub(super) fn write(&self, content: &Content) -> io::Result<()> {
        let written = self.write_beside(content).and_then(|()| {
            // Atomic.
            fs::rename(&self.temporary, &self.path)
        });
        if written.is_err() {
            // The incomplete temporary file may fill the disk. If it cannot be removed, the first
            // error is still the one returned.
            let _ = fs::remove_file(&self.temporary);
        }
        written
    }

    fn write_beside(&self, content: &Content) -> io::Result<()> {
        // Removes the temporary file that a killed process may have left.
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = private().create_new(true).open(&self.temporary)?;
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, content)?;
        file.write_all(b"\n")?;
        file.into_inner()?.sync_all()
    }
}

/// To write, with mode 0600: the file contains secrets.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Absolute, and without links: a link stays one when its target is replaced.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(path),
        resolved => resolved,
    }
}

/// Refuses a file that does not begin like a state file.
fn check_begin(path: &Path) -> Result<(), StartError> {
    let unreadable = |error| failed("read", path, error);
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(unreadable)?,
    };
    if !metadata.is_file() {
        return Err(foreign(path));
    }
    let mut begin = Vec::new();
    File::open(path)
        .and_then(|file| file.take(1024).read_to_end(&mut begin))
        .map_err(unreadable)?;
    begin.retain(|byte| !byte.is_ascii_whitespace());
    if begin.starts_with(format!("{{\"format\":\"{FORMAT}\"").as_bytes()) {
        Ok(())
    } else {
        Err(foreign(path))
    }
}

fn read(path: &Path) -> Result<Option<Content>, StartError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Header {
        version: u64,
    }
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| failed("read", path, error))?,
    };
    // Without serde's message, which may quote a secret.
    let damage = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        damaged(path, &format!("line {line}, column {column}"))
    };
    let header: Header = serde_json::from_slice(&bytes).map_err(damage)?;
    if header.version != VERSION {
        return Err(StartError {
            what: format!(
                "the state file {} has format version {}, and this emulator reads version \
                 {VERSION}: use the emulator that wrote it, or give another file",
                path.display(),
                header.version
            ),
            cause: None,
        });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damage)
}

fn failed(what: &str, path: &Path, error: io::Error) -> StartError {
    StartError {
        what: format!("cannot {what} {}", path.display()),
        cause: Some(error),
    }
}

fn foreign(path: &Path) -> StartError {
    StartError {
        what: format!(
            "{} is not a state file of the emulator; it was not changed: give another file",
            path.display()
        ),
        cause: None,
    }
}

/// `what` is wrong with it.
pub(crate) fn damaged(path: &Path, what: &str) -> StartError {
    StartError {
        what: format!(
            "the state file {} is damaged ({what}); it was not changed: restore or move it, or \
             give another file",
            path.display()
        ),
        cause: None,
    }
}
