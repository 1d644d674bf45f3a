//! The log of a running emulator.

use std::{fmt, sync::Arc};

/// One line of an emulator's log; `Display` writes the line. It contains no secret, no payload and
/// no query of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLine {
    /// A delivery attempt and its result.
    Attempt(String),
    /// Something that cannot work, and how to fix it.
    Warning(String),
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt(text) => f.write_str(text),
            Self::Warning(text) => write!(f, "warning: {text}"),
        }
    }
}

type Sink = dyn Fn(&LogLine) + Send + Sync;

/// The receiver of the lines, if any. Never called while the store is locked.
#[derive(Clone, Default)]
pub(crate) struct Log(Option<Arc<Sink>>);

impl Log {
    pub(crate) fn new(to: impl Fn(&LogLine) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(to)))
    }

    pub(crate) fn line(&self, line: impl FnOnce() -> LogLine) {
        if let Some(to) = &self.0 {
            to(&line());
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}
