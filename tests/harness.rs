//! Shared by the crash tests and the service that they kill: its setup, and the journal that all
//! of them write.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The secret that deliveries are signed with.
pub const SECRET: &str = "whs_crash";
/// The endpoint's name.
pub const ENDPOINT: &str = "users";

/// One process of the service. It gets this as JSON in its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The process's number. Unlike the system's, it is never reused.
    pub process: u32,
    /// Where events are recorded.
    pub store: Store,
    /// When the handler runs.
    pub mode: Mode,
    /// The role of this process.
    pub role: Role,
    /// The journal's file.
    pub journal: PathBuf,
    /// How long claims and leases last, in milliseconds.
    pub lease: u64,
    /// The timeout of a store operation, in milliseconds.
    pub timeout: u64,
    /// The maximum duration of a handler, in milliseconds.
    pub handling: u64,
    /// How many of a thousand attempts fail.
    pub failing: u32,
    /// The seed of the service's own random numbers.
    pub seed: u64,
    /// The crash point at which it kills itself, and at which pass of it, counted from 1.
    pub death: Option<(String, u32)>,
}

/// A store, with a name that no other test uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Store {
    /// A file.
    Sqlite(PathBuf),
    /// A server's address and a prefix of tables.
    Postgres(String, String),
    /// A server's address and a prefix of keys.
    Redis(String, String),
    /// A server's address, a name for the stream and its subjects, and the ledger.
    Nats(String, String, Box<Store>),
}

impl Store {
    /// Whether events with the same ordering key are handled one after the other.
    pub fn keeps_ordering_keys(&self) -> bool {
        !matches!(self, Self::Nats(..))
    }

    /// Whether handlers fail this event terminally. None without dead letters: AuthPI would have to
    /// retry for ever.
    pub fn gives_up(&self, event: EventId) -> bool {
        !matches!(self, Self::Redis(..)) && event.is_terminal()
    }
}

/// When the handler runs, and what its effect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Before the response; the effect is a line in the journal.
    Inline,
    /// After the response; the effect is a line in the journal.
    Inbox,
    /// Before the response; the effect is a row in the database, in the transaction that completes
    /// the claim.
    InlineTx,
    /// After the response; the effect is a row in the database, in the transaction that completes
    /// the claim.
    InboxTx,
}

impl Mode {
    /// Whether the effect is a row, which can exist at most once.
    pub fn in_transaction(self) -> bool {
        matches!(self, Self::InlineTx | Self::InboxTx)
    }

    /// Whether 200 means that the event has been handled.
    pub fn is_inline(self) -> bool {
        matches!(self, Self::Inline | Self::InlineTx)
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Receives; inline, it also handles.
    Receiver,
    /// Handles stored events.
    Worker,
    /// Both.
    Both,
}

/// The n-th event of an ordering key. They are sent one after the other, each when the previous one
/// has been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The ordering key: the user in the event's subject.
    pub ordering_key: u32,
    /// The position in it, from 0.
    pub place: u32,
}

impl EventId {
    /// Whether its failure is terminal. It follows from the id, so that all processes agree: one
    /// event in 25 of each ordering key, and of those that race.
    pub fn is_terminal(self) -> bool {
        (self.ordering_key + self.place) % 25 == 7
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evt_{}_{}", self.ordering_key, self.place)
    }
}

impl FromStr for EventId {
    type Err = NotReadable;

    fn from_str(text: &str) -> Result<Self, NotReadable> {
        let (ordering_key, place) = text
            .strip_prefix("evt_")
            .and_then(|rest| rest.split_once('_'))
            .ok_or(NotReadable)?;
        Ok(Self {
            ordering_key: ordering_key.parse().map_err(|_| NotReadable)?,
            place: place.parse().map_err(|_| NotReadable)?,
        })
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A handler started: the process, the event, the number of the attempt.
    Tried(u32, EventId, u32),
    /// The effect took place. Not written if the effect is a row.
    Effect(u32, EventId),
    /// The handler failed terminally.
    GaveUp(u32, EventId),
    /// The ledger has recorded the outcome and responded.
    Completed(u32, EventId),
    /// The ledger could not record the outcome, or its response was lost.
    NotCompleted(u32, EventId),
    /// The process found that another one had taken over the event.
    LeaseLost(u32, EventId),
    /// The process is about to kill itself at this crash point.
    Dying(u32, String),
    /// The process is about to be killed.
    Killing(u32),
    /// The process is about to be stopped (SIGSTOP) for longer than a lease.
    Freezing(u32),
    /// A delivery of the event was answered 200.
    Acknowledged(EventId),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tried(process, event, attempt) => write!(f, "tried {process} {event} {attempt}"),
            Self::Effect(process, event) => write!(f, "effect {process} {event}"),
            Self::GaveUp(process, event) => write!(f, "gave-up {process} {event}"),
            Self::Completed(process, event) => write!(f, "completed {process} {event}"),
            Self::NotCompleted(process, event) => write!(f, "not-completed {process} {event}"),
            Self::LeaseLost(process, event) => write!(f, "lease-lost {process} {event}"),
            Self::Dying(process, point) => write!(f, "dying {process} {point}"),
            Self::Killing(process) => write!(f, "killing {process}"),
            Self::Freezing(process) => write!(f, "freezing {process}"),
            Self::Acknowledged(event) => write!(f, "acknowledged {event}"),
        }
    }
}

impl FromStr for Entry {
    type Err = NotReadable;

    fn from_str(line: &str) -> Result<Self, NotReadable> {
        let number = |text: &str| text.parse().map_err(|_| NotReadable);
        Ok(match line.split(' ').collect::<Vec<_>>()[..] {
            ["tried", process, event, attempt] => {
                Self::Tried(number(process)?, event.parse()?, number(attempt)?)
            }
            ["effect", process, event] => Self::Effect(number(process)?, event.parse()?),
            ["gave-up", process, event] => Self::GaveUp(number(process)?, event.parse()?),
            ["completed", process, event] => Self::Completed(number(process)?, event.parse()?),
            ["not-completed", process, event] => {
                Self::NotCompleted(number(process)?, event.parse()?)
            }
            ["lease-lost", process, event] => Self::LeaseLost(number(process)?, event.parse()?),
            ["dying", process, point] => Self::Dying(number(process)?, point.to_owned()),
            ["killing", process] => Self::Killing(number(process)?),
            ["freezing", process] => Self::Freezing(number(process)?),
            ["acknowledged", event] => Self::Acknowledged(event.parse()?),
            _ => return Err(NotReadable),
        })
    }
}

/// A line that does not belong to the journal.
#[derive(Debug)]
pub struct NotReadable;

/// A file to which every process appends complete lines. Their order is the order of what happened.
///
/// A line is one `write` to a file opened with `O_APPEND`. When it returns, the line is in the
/// file, whatever happens to the process.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Opens it, or creates it.
    ///
    /// # Errors
    /// As for any file.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map(Self)
    }

    /// Writes a line.
    ///
    /// # Panics
    /// If the disk is full.
    pub fn write(&self, entry: &Entry) {
        (&self.0)
            .write_all(format!("{entry}\n").as_bytes())
            .expect("there is room for a journal");
    }

    /// Everything written so far.
    ///
    /// # Panics
    /// If the file cannot be read, or contains anything else.
    pub fn read(path: &Path) -> Vec<Entry> {
        let text = std::fs::read_to_string(path).expect("the journal can be read");
        // The last line may be incomplete.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let entry = |line: &str| {
            line.parse()
                .unwrap_or_else(|_| panic!("the journal holds {line:?}"))
        };
        whole.lines().map(entry).collect()
    }
}
