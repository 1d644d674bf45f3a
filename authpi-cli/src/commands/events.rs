//! `authpi events`: the account's event log.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use authpi_sdk::{
    client::{AggregateEvents, Call, EventAggregate, ListEvents, LoggedEvent},
    event::EventType,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::deliveries::progress;
use crate::{
    arguments::{event_type, time},
    connect::Connect,
    failure::{Failure, Result},
    files,
    follow::{Follower, Position},
    output::{Output, Record, time as shown},
    stop::Stop,
};

/// Read the account's event log.
#[derive(Subcommand)]
pub(crate) enum Command {
    List(List),
    Get(Get),
    Tail(Tail),
    Aggregate(Aggregate),
    Export(Export),
}

/// Which events.
#[derive(Args, Clone)]
struct Filter {
    /// Only events of these types, with commas between them
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = event_type)]
    types: Vec<EventType>,

    /// Only events about this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,

    /// Only events about this issuer
    #[arg(long, value_name = "ID")]
    issuer: Option<String>,

    /// Only events about this client
    #[arg(long, value_name = "ID")]
    client: Option<String>,

    /// Only events after this time, such as 2026-11-25T08:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    after: Option<Timestamp>,

    /// Only events before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    before: Option<Timestamp>,
}

/// List events. AuthPI does not document the order.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi events list --types user.created --after 1d")]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,

    /// The maximum number of events to list
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    #[command(flatten)]
    connect: Connect,
}

/// Show one event.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi events get evt_1")]
pub(crate) struct Get {
    /// The event's id
    event_id: String,

    #[command(flatten)]
    connect: Connect,
}

/// Print events as they happen, until a signal ends it.
///
/// It reads the log every 2 seconds, and 5 minutes of it again each time, so that an event which
/// appears late is not missed. When AuthPI cannot be reached, it says so and continues where it
/// was. A table prints one line per event; json and ndjson print each event on one line.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi events tail --types user.created --since 10m")]
pub(crate) struct Tail {
    /// Only events of these types, with commas between them
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = event_type)]
    types: Vec<EventType>,

    /// Begin at this time instead of now, such as 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,

    /// Keep the position in this file, and continue there next time
    #[arg(long, value_name = "FILE", conflicts_with = "since")]
    cursor: Option<PathBuf>,

    #[command(flatten)]
    connect: Connect,
}

/// Count events: in total, per member or per interval.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi events aggregate --group-by type --after 7d")]
pub(crate) struct Aggregate {
    #[command(flatten)]
    filter: Filter,

    /// The member to group by; names such as type are assumed
    #[arg(long, value_name = "MEMBER")]
    group_by: Option<String>,

    /// The length of an interval; words such as hour or day are assumed
    #[arg(long, value_name = "WORD")]
    interval: Option<String>,

    /// Count the different values of this member
    #[arg(long, value_name = "MEMBER")]
    count_unique: Option<String>,

    #[command(flatten)]
    connect: Connect,
}

/// Write events to a file as NDJSON.
///
/// If it is interrupted, the same command continues where it stopped: the position is in a second
/// file, with .cursor at the end of its name, until the export is complete.
#[derive(Args)]
#[command(
    after_help = "Example:\n  authpi events export november.ndjson --after 2026-11-01T00:00:00Z"
)]
pub(crate) struct Export {
    /// The file to write
    file: PathBuf,

    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    connect: Connect,
}

impl Record for LoggedEvent {
    const COLUMNS: &[&str] = &["time", "type", "id", "subject"];

    fn cells(&self) -> Vec<String> {
        vec![
            shown(self.timestamp),
            self.r#type.clone(),
            self.id.clone(),
            self.subject
                .as_ref()
                .map_or_else(String::new, |subject| subject.get().to_owned()),
        ]
    }
}

impl Command {
    pub(crate) async fn run(self, output: Output) -> Result {
        match self {
            Self::List(list) => list.run(output).await,
            Self::Get(Get { event_id, connect }) => {
                output.one(&connect.client()?.events().get(event_id).await?.value)
            }
            Self::Tail(tail) => tail.run(output).await,
            Self::Aggregate(aggregate) => aggregate.run(output).await,
            Self::Export(export) => export.run(output).await,
        }
    }
}

/// Applies the filters that both calls share.
macro_rules! filtered {
    ($filter:expr, $call:expr) => {{
        let (filter, mut call) = ($filter, $call);
        if !filter.types.is_empty() {
            call = call.event_types(filter.types.iter().cloned());
        }
        if let Some(user) = &filter.user {
            call = call.user(user);
        }
        if let Some(issuer) = &filter.issuer {
            call = call.issuer(issuer);
        }
        if let Some(client) = &filter.client {
            call = call.client(client);
        }
        if let Some(after) = filter.after {
            call = call.after(after);
        }
        if let Some(before) = filter.before {
            call = call.before(before);
        }
        call
    }};
}

impl Filter {
    fn list(&self, call: Call<ListEvents>) -> Call<ListEvents> {
        filtered!(self, call)
    }

    fn aggregate(&self, call: Call<AggregateEvents>) -> Call<AggregateEvents> {
        filtered!(self, call)
    }
}

impl List {
    async fn run(self, output: Output) -> Result {
        let call = self.filter.list(self.connect.client()?.events().list());
        output.items(call.items(), self.limit).await
    }
}

impl Aggregate {
    async fn run(self, output: Output) -> Result {
        let mut call = self
            .filter
            .aggregate(self.connect.client()?.events().aggregate());
        if let Some(member) = self.group_by {
            call = call.group_by(member);
        }
        if let Some(interval) = self.interval {
            call = call.interval(interval);
        }
        if let Some(member) = self.count_unique {
            call = call.count_unique(member);
        }
        let counts: EventAggregate = call.await?;
        output.one(&counts)
    }
}

impl Tail {
    async fn run(self, output: Output) -> Result {
        let mut stop = Stop::listen()?;
        let position = match &self.cursor {
            Some(file) => saved(file)?,
            None => None,
        };
        let start = self.since.unwrap_or_else(Timestamp::now);
        let position = position.unwrap_or_else(|| Position::new(start));
        let mut follower = Follower::new(&self.connect.client()?, self.types, position);
        loop {
            let (events, pause) = tokio::select! {
                polled = follower.poll(output) => polled?,
                () = stop.requested() => return Ok(()),
            };
            let any = !events.is_empty();
            for event in events {
                output.line(&event)?;
            }
            if let (true, Some(file)) = (any, &self.cursor) {
                save(file, follower.position())?;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.requested() => return Ok(()),
            }
        }
    }
}

/// The content of a position file, if there is one.
fn saved<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::because(
                format!("{} does not hold a position", file.display()),
                &error,
            )
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", file, &error)),
    }
}

fn save(file: &Path, position: &impl Serialize) -> Result {
    let text = serde_json::to_vec(position)
        .map_err(|error| Failure::because("cannot write the position", &error))?;
    files::replace(file, &text).map_err(|error| cannot("write", file, &error))
}

fn cannot(what: &str, file: &Path, error: &io::Error) -> Failure {
    Failure::because(format!("cannot {what} {}", file.display()), error)
}

/// Where an interrupted export continues.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    /// The filters: another export must not continue this one.
    filter: String,
    /// The page to read next; `None` is the first one.
    next: Option<String>,
    /// The length of the file before that page.
    bytes: u64,
    events: u64,
}

impl Export {
    async fn run(self, output: Output) -> Result {
        let client = self.connect.client()?;
        let mut at_file = self.file.clone().into_os_string();
        at_file.push(".cursor");
        let at_file = PathBuf::from(at_file);
        let filter = self.filter.describe();
        let saved = saved::<Cursor>(&at_file)?;
        let known = saved.is_some();
        let mut at = match saved {
            Some(at) if at.filter == filter => {
                output.note(&format!("continuing after {} events", at.events));
                at
            }
            Some(_) => {
                return Err(Failure::usage(format!(
                    "{} belongs to an export with other filters",
                    at_file.display()
                ))
                .hint("repeat that export, or delete the file"));
            }
            None => Cursor {
                filter,
                next: None,
                bytes: 0,
                events: 0,
            },
        };
        let mut file = self.open(known.then_some(at.bytes))?;
        save(&at_file, &at)?;
        let bar = progress(output.quiet);
        bar.set_style(
            indicatif::ProgressStyle::with_template("{spinner} {pos} events")
                .unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()),
        );
        loop {
            let mut call = self.filter.list(client.events().list()).limit(100);
            if let Some(next) = &at.next {
                call = call.cursor(next);
            }
            let page = call.await?;
            let mut lines = Vec::new();
            for event in &page.items {
                serde_json::to_writer(&mut lines, event)
                    .map_err(|error| Failure::because("cannot write the event", &error))?;
                lines.push(b'\n');
            }
            file.write_all(&lines)
                .and_then(|()| file.sync_data())
                .map_err(|error| cannot("write", &self.file, &error))?;
            at.bytes += lines.len() as u64;
            at.events += page.items.len() as u64;
            bar.set_position(at.events);
            if !page.unreadable.is_empty() {
                output.note(&format!(
                    "{} events were left out: this version cannot read them",
                    page.unreadable.len()
                ));
            }
            match page.next_page() {
                Some(next) => at.next = Some(next.to_owned()),
                None if page.has_more => {
                    return Err(Failure::new(
                        "AuthPI says that there is more, but not where",
                    ));
                }
                None => break,
            }
            save(&at_file, &at)?;
        }
        bar.finish_and_clear();
        match fs::remove_file(&at_file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(cannot("remove", &at_file, &error));
            }
            _ => {}
        }
        output.note(&format!("{} events in {}", at.events, self.file.display()));
        Ok(())
    }

    /// Opens the file at the length where the export continues. A new export does not replace a
    /// file.
    fn open(&self, length: Option<u64>) -> Result<File> {
        let mut options = OpenOptions::new();
        options.write(true);
        // Events are personal data.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let Some(length) = length else {
            return options.create_new(true).open(&self.file).map_err(|error| {
                cannot("create", &self.file, &error).hint("choose a name that does not exist yet")
            });
        };
        let open = || {
            let mut file = options.open(&self.file)?;
            file.set_len(length)?;
            io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
            io::Result::Ok(file)
        };
        open().map_err(|error| cannot("continue", &self.file, &error))
    }
}

impl Filter {
    fn describe(&self) -> String {
        let Self {
            types,
            user,
            issuer,
            client,
            after,
            before,
        } = self;
        let types: Vec<_> = types.iter().map(EventType::as_str).collect();
        format!("{types:?} {user:?} {issuer:?} {client:?} {after:?} {before:?}")
    }
}
