//! What the crash tests and the service that they kill agree on: how it is set up, and the journal
//! in which all of them write what they do.

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

/// One process of the service; it gets this as JSON in its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Which process this is: unlike the system's number, it never comes again.
    pub process: u32,
    /// Where events are recorded.
    pub store: Store,
    /// When the handler runs.
    pub mode: Mode,
    /// What this process does of it.
    pub role: Role,
    /// The journal's file.
    pub journal: PathBuf,
    /// How long claims and leases last, in milliseconds.
    pub lease: u64,
    /// How long a step of the store may take, in milliseconds.
    pub timeout: u64,
    /// The longest time that a handler takes, in milliseconds.
    pub handling: u64,
    /// How many of a thousand attempts fail.
    pub failing: u32,
    /// What the service's own dice begin with.
    pub seed: u64,
    /// At which crash point it kills itself, and at which pass of it, from 1.
    pub death: Option<(String, u32)>,
}

/// A store, and a place in it that no other test uses.
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
    /// Whether events of an ordering key are handled one after the other.
    pub fn keeps_ordering_keys(&self) -> bool {
        !matches!(self, Self::Nats(..))
    }

    /// Whether handlers give this event up. Without a place for dead letters, none: AuthPI would
    /// have to send it for ever.
    pub fn gives_up(&self, event: EventId) -> bool {
        !matches!(self, Self::Redis(..)) && event.is_terminal()
    }
}

/// When the handler runs, and what its effect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Before the answer; a line in the journal.
    Inline,
    /// After the answer; a line in the journal.
    Inbox,
    /// Before the answer; a row in the database, in the transaction that completes the claim.
    InlineTx,
    /// After the answer; a row in the database, in the transaction that completes the claim.
    InboxTx,
}

impl Mode {
    /// Whether the effect is a row, which can take place once at most.
    pub fn in_transaction(self) -> bool {
        matches!(self, Self::InlineTx | Self::InboxTx)
    }

    /// Whether 200 says that the event has been handled.
    pub fn is_inline(self) -> bool {
        matches!(self, Self::Inline | Self::InlineTx)
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Receives; inline, it handles too.
    Receiver,
    /// Handles what receivers stored.
    Worker,
    /// Both.
    Both,
}

/// The n-th event of an ordering key. An ordering key's events are sent one after the other, each
/// when the one before has been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Which ordering key: the user whom its events are about.
    pub ordering_key: u32,
    /// The place in it, from 0.
    pub place: u32,
}

impl EventId {
    /// Whether its failure is terminal: the id alone tells, so that every process agrees. One event
    /// in 25 of each ordering key, and of those that race.
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
    /// A handler began: by this process, on this event, as its attempt with this number.
    Tried(u32, EventId, u32),
    /// The effect took place. Not written where the effect is a row.
    Effect(u32, EventId),
    /// The handler gave the event up.
    GaveUp(u32, EventId),
    /// The ledger was told, and has answered.
    Completed(u32, EventId),
    /// It turned out that the ledger could not be told, or that its answer was lost.
    NotCompleted(u32, EventId),
    /// The process found that another one had taken the event over.
    LeaseLost(u32, EventId),
    /// The process is about to kill itself at this crash point.
    Dying(u32, String),
    /// The process is about to be killed.
    Killing(u32),
    /// The process is about to be stopped for longer than a lease.
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

/// A line that is none of the journal's.
#[derive(Debug)]
pub struct NotReadable;

/// A file that every process appends to, a line at a time, whole and in order: what stands earlier
/// happened earlier.
///
/// A line is one `write` to a file opened with `O_APPEND`, which is there when it returns, whatever
/// then becomes of the process.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Opens it, or makes it.
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
    /// When the disk is full.
    pub fn write(&self, entry: &Entry) {
        (&self.0)
            .write_all(format!("{entry}\n").as_bytes())
            .expect("there is room for a journal");
    }

    /// All that was written so far.
    ///
    /// # Panics
    /// When the file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Vec<Entry> {
        let text = std::fs::read_to_string(path).expect("the journal can be read");
        // Whoever writes just now may have written half a line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let entry = |line: &str| {
            line.parse()
                .unwrap_or_else(|_| panic!("the journal holds {line:?}"))
        };
        whole.lines().map(entry).collect()
    }
}
