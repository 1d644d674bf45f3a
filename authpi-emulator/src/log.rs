//! What a running emulator reports.

use std::{fmt, sync::Arc};

/// One line of a running emulator's log; `Display` is the line. It holds no secret, no payload and
/// no query of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLine {
    /// An attempt to deliver an event, and how it ended.
    Attempt(String),
    /// Something that will not work as it stands, and what to do.
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

/// Where the lines go, if anywhere. Never called while the store is locked.
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
