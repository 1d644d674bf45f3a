use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    hash::{BuildHasher as _, RandomState},
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{Watermark, WatermarkError};
use crate::files;

/// Keeps the watermark of one endpoint in a file, which is replaced as a whole. For replicas on one
/// host.
///
/// The file is one line: the time in RFC 3339 and the endpoint's name. During a replacement, a
/// second file is next to it, with a random number and `.new` added to the name. The folder must
/// exist. A symbolic link stays a link; its target is replaced. The new file has the mode of the
/// old one, and its owner and group as far as the process may set them.
#[derive(Clone, Debug)]
pub struct FileWatermark {
    path: PathBuf,
}

impl FileWatermark {
    /// A watermark in this file, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Watermark for FileWatermark {
    async fn load(&self, endpoint: &str) -> Result<Option<Timestamp>, WatermarkError> {
        let (path, endpoint) = (self.path.clone(), endpoint.to_owned());
        in_background("load", move || match fs::read_to_string(&path) {
            Ok(text) => read(&text, &endpoint)
                .map(Some)
                .map_err(|error| files::about(&path, &error)),
            // Fails if the folder does not exist either: a wrong path must not look like a fresh
            // start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::target(&path).map(|_| None)
            }
            Err(error) => Err(files::about(&path, &error)),
        })
        .await
    }

    async fn save(&self, endpoint: &str, at: Timestamp) -> Result<(), WatermarkError> {
        let (path, line) = (self.path.clone(), format!("{at} {endpoint}\n"));
        in_background("save", move || replace(&path, &line)).await
    }
}

fn read(text: &str, endpoint: &str) -> io::Result<Timestamp> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let (at, owner) = text
        .trim_end_matches('\n')
        .split_once(' ')
        .ok_or_else(|| wrong("not a watermark file".into()))?;
    if owner != endpoint {
        return Err(wrong(format!("the file belongs to the endpoint {owner}")));
    }
    at.parse()
        .map_err(|_| wrong("the file does not begin with a time".into()))
}

fn replace(path: &Path, line: &str) -> io::Result<()> {
    let path = files::target(path)?;
    // Two replicas that both believe they hold the lock must not write into one file.
    let mut next = OsString::from(&path);
    next.push(format!(
        ".{:016x}.new",
        RandomState::new().hash_one(std::process::id())
    ));
    files::replace(
        &path,
        Path::new(&next),
        line.as_bytes(),
        &mut OpenOptions::new(),
    )
}

async fn in_background<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, WatermarkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| WatermarkError::new(step, error)),
        Err(ended) => Err(WatermarkError::new(step, ended)),
    }
}
