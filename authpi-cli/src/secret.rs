//! Secrets from files. No option takes a secret's value: other users can see a program's arguments.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use authpi_sdk::signature::Secret;
use clap::Args;

use crate::failure::{Failure, Result};

/// The maximum length of a secret's file.
const MAX_SECRET: u64 = 64 * 1024;

/// Reads a secret from a file, or from standard input for `-`. A line break at its end is removed.
pub(crate) fn read(path: &Path) -> Result<Secret> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_SECRET)
            .read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_SECRET).read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::because(
            format!("cannot read the secret in {}", path.display()),
            &error,
        )
    })?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err(Failure::new(format!("{} holds no secret", path.display())));
    }
    Ok(Secret::from(secret))
}

/// The secret that signs deliveries.
#[derive(Args, Clone, Debug)]
pub(crate) struct SigningSecret {
    /// A file with the webhook's secret, or - for standard input [env: AUTHPI_WEBHOOK_SECRET holds
    /// the secret itself]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

impl SigningSecret {
    pub(crate) fn read(&self) -> Result<Secret> {
        match &self.secret_file {
            Some(file) => read(file),
            None => Secret::from_env("AUTHPI_WEBHOOK_SECRET").map_err(|error| {
                Failure::usage(format!("the webhook's secret is missing: {error}"))
                    .hint("give --secret-file")
            }),
        }
    }
}

/// A new file for a secret that is not known yet, readable by its owner only. It is removed if no
/// secret is written to it.
pub(crate) struct NewSecretFile {
    path: PathBuf,
    file: Option<File>,
}

impl NewSecretFile {
    /// Creates the file. An existing one is an error, since it may hold another secret.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(|error| {
            Failure::because(format!("cannot create {}", path.display()), &error)
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Writes the secret and a line break, and waits until they are on the disk.
    pub(crate) fn write(mut self, secret: &Secret) -> Result {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        writeln!(file, "{}", secret.expose())
            .and_then(|()| file.sync_all())
            .map_err(|error| {
                Failure::because(
                    format!("cannot write the secret to {}", self.path.display()),
                    &error,
                )
            })
    }
}

impl Drop for NewSecretFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_its_line_break_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        drop(NewSecretFile::create(&path).unwrap());
        assert!(!path.exists(), "an unused file stays");
        NewSecretFile::create(&path)
            .unwrap()
            .write(&"whs_1".into())
            .unwrap();
        assert_eq!(read(&path).unwrap().expose(), "whs_1");
        assert!(NewSecretFile::create(&path).is_err(), "it was overwritten");
        fs::write(&path, "\n").unwrap();
        assert!(read(&path).is_err(), "an empty secret was read");
    }
}
