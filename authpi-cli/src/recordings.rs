//! A folder of recorded deliveries.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use authpi_sdk::testing::Recording;

use crate::{
    failure::{Failure, Result},
    output::time,
};

/// How many recordings may begin with the same name.
const MAX_ALIKE: u32 = 10_000;

/// Creates a folder that only its owner can read, unless it is there.
pub(crate) fn create(folder: &Path) -> Result {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(|error| Failure::because(format!("cannot create {}", folder.display()), &error))
}

/// Writes a recording to a new file: its time, the event's id if it has one, and a number if there
/// are several.
pub(crate) fn save(
    folder: &Path,
    recording: &Recording,
    event_id: Option<&str>,
) -> io::Result<PathBuf> {
    let time = time(recording.received_at.into()).replace(':', "");
    let id: String = event_id
        .unwrap_or("delivery")
        .chars()
        .take(100)
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() => c,
            '-' | '_' => c,
            _ => '_',
        })
        .collect();
    for number in 1..MAX_ALIKE {
        let file = folder.join(match number {
            1 => format!("{time}-{id}.json"),
            number => format!("{time}-{id}-{number}.json"),
        });
        match recording.write_new(&file) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            done => return done.map(|()| file),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}
