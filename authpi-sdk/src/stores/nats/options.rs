//! The options, and opening an inbox.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{
    ConnectOptions, Event, ServerAddr,
    jetstream::{
        self, Context,
        context::GetStreamErrorKind,
        stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
    },
};
use tokio::time::timeout;

use super::{
    Nats, Shared,
    dead_letters::Letters,
    failure::AnyError,
    failure::{Said, Unconnected},
    names::Names,
    queue::Queue,
};
use crate::{
    Clock, hex,
    ledger::{Ledger, LedgerError},
    stores::timeout::{BadName, TIMEOUT},
    telemetry::LogLimit,
};

/// Options of a [`Nats`] inbox, set before it is opened.
///
/// Options of the streams only apply when they are created. Existing streams are used unchanged, if
/// they are suitable, so that operators may change their limits, replicas and placement.
#[derive(Clone, Debug)]
#[must_use = "does nothing until `open` or `connect`"]
pub struct NatsOptions {
    stream: String,
    prefix: String,
    ack_wait: Duration,
    duplicate_window: Duration,
    replicas: usize,
    max_bytes: Option<u64>,
    dead_letters_for: Option<Duration>,
    timeout: Duration,
    pub(super) clock: Clock,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            stream: "authpi".into(),
            prefix: "authpi".into(),
            ack_wait: Duration::from_secs(30),
            duplicate_window: Duration::from_mins(2),
            replicas: 1,
            max_bytes: None,
            dead_letters_for: None,
            timeout: TIMEOUT,
            clock: Clock::system(),
        }
    }
}

impl NatsOptions {
    /// The name of the stream (default `authpi`). Dead letters are in a second stream,
    /// `<stream>_dead`. 1 to 100 ASCII letters, digits, `-` and `_`.
    pub fn stream(mut self, name: impl Into<String>) -> Self {
        self.stream = name.into();
        self
    }

    /// The prefix of every subject (default `authpi`). The subjects are
    /// `<prefix>.event.<endpoint>`, `<prefix>.dead.<endpoint>.<event>`, and `<prefix>.appended`,
    /// which notifies workers. The prefix consists of tokens of ASCII letters, digits, `-` and `_`,
    /// separated by dots, with 1 to 100 characters in total.
    pub fn subjects(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long the server waits before it delivers an event to another worker, counted from the
    /// delivery or the last renewal of the lease (default 30 s, the lease of a
    /// [`Worker`](crate::worker::Worker)). At least a second.
    ///
    /// A worker renews every third of the lease, so this should not be shorter than a third of the
    /// lease. If it is longer than the lease, events of a crashed worker are delayed.
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.ack_wait = wait;
        self
    }

    /// How long the server recognizes a stored event (default 2 min), so that another delivery of
    /// it is not stored again. This only saves space and work: an event that is stored twice is
    /// handled once.
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.duplicate_window = window;
        self
    }

    /// The number of servers in a cluster that have the streams (default 1; 3 or 5 to survive the
    /// loss of a server).
    pub fn replicas(mut self, servers: usize) -> Self {
        self.replicas = servers;
        self
    }

    /// The maximum size of the stream of waiting events. A delivery that does not fit is refused
    /// (503); stored events are never dropped. Default: the account's limit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How long dead letters are kept (default: the ledger's retention, usually 30 days).
    pub fn dead_letters_for(mut self, age: Duration) -> Self {
        self.dead_letters_for = Some(age);
        self
    }

    /// The time limit of a step (default 5 s). The ledger's part of a step has the ledger's own
    /// limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Replaces the system clock, for [`backlog`](crate::ledger::Inbox::backlog) and
    /// [`purge`](Nats::purge), which compare it with the server's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the inbox, and creates its streams if they do not exist.
    ///
    /// # Errors
    /// As for [`Nats::open`]; and when a name is invalid.
    pub async fn open<L: Ledger>(
        self,
        jetstream: Context,
        ledger: L,
    ) -> Result<Nats<L>, LedgerError> {
        Box::pin(self.open_over(jetstream, ledger, None)).await
    }

    async fn open_over<L: Ledger>(
        self,
        jetstream: Context,
        ledger: L,
        said: Option<Arc<Said>>,
    ) -> Result<Nats<L>, LedgerError> {
        let (queue, letters) = self.streams(jetstream, said).await?;
        let dead_for = self.dead_letters_for.unwrap_or_else(|| ledger.retention());
        let configs = [
            (self.inbox(&queue.names), fit_for_events as Fit),
            (self.dead(&queue.names, dead_for), fit_for_letters),
        ];
        for (config, fit) in configs {
            queue
                .within("open", ensure(&queue.jetstream, config, fit))
                .await?;
        }
        queue.within("open", queue.check()).await?;
        let (in_flight, log) = (Mutex::default(), LogLimit::new());
        let shared = Shared {
            ledger,
            queue,
            letters,
            in_flight,
            clock: self.clock,
            log,
        };
        Ok(Nats {
            shared: Arc::new(shared),
        })
    }

    /// The streams, which need not exist.
    pub(super) async fn streams(
        &self,
        jetstream: Context,
        said: Option<Arc<Said>>,
    ) -> Result<(Queue, Letters), LedgerError> {
        self.usable()
            .map_err(|error| LedgerError::new("open", error))?;
        let names = Names {
            stream: self.stream.clone(),
            prefix: self.prefix.clone(),
        };
        let stream = async |name: &str| {
            jetstream
                .get_stream_no_info(name)
                .await
                .map_err(|e| LedgerError::new("open", e))
        };
        let letters = Letters {
            stream: stream(&names.dead_stream()).await?,
            name: names.dead_stream(),
        };
        let queue = Queue {
            stream: stream(&names.stream).await?,
            names,
            jetstream,
            ack_wait: self.ack_wait,
            timeout: self.timeout,
            said,
            left: Mutex::default(),
            answer_timeout: self.timeout / 3,
            consumers: Mutex::default(),
            appended: Arc::default(),
            listener: tokio::sync::OnceCell::new(),
        };
        Ok((queue, letters))
    }

    /// Why the streams cannot be used; `None` if they can.
    pub(super) async fn unfit(&self, queue: &Queue) -> Result<Option<Unusable>, AnyError> {
        let configs = [
            (self.inbox(&queue.names), fit_for_events as Fit),
            (
                self.dead(&queue.names, Duration::from_secs(1)),
                fit_for_letters,
            ),
        ];
        for (config, fit) in configs {
            let Some(info) = info(&queue.jetstream, &config.name).await? else {
                return Ok(Some(Unusable::Missing(config.name)));
            };
            if let Some(why) = fit(&info.config, &config) {
                let stream = config.name;
                return Ok(Some(Unusable::Unfit(Unfit { stream, why })));
            }
        }
        Ok(None)
    }

    /// Opens the inbox with its own connection.
    ///
    /// # Errors
    /// As for [`Nats::connect`]; and when a name is invalid.
    pub async fn connect<L: Ledger>(self, url: &str, ledger: L) -> Result<Nats<L>, LedgerError> {
        let (jetstream, said) = self.connected(url).await?;
        Box::pin(self.open_over(jetstream, ledger, Some(said))).await
    }

    /// A connection of the inbox's own.
    pub(super) async fn connected(&self, url: &str) -> Result<(Context, Arc<Said>), LedgerError> {
        let (address, options) =
            credentials(url).map_err(|error| LedgerError::new("open", error))?;
        let server = format!("{}:{}", address.host(), address.port());
        let said = Arc::new(Said::default());
        let noted = Arc::clone(&said);
        let options = options
            // A server that hangs is left after three of them.
            .ping_interval(
                self.timeout
                    .clamp(Duration::from_secs(1), Duration::from_mins(1)),
            )
            .event_callback(move |event| {
                let noted = Arc::clone(&noted);
                async move {
                    if let Event::ServerError(error) = event {
                        noted.note(&error);
                    }
                }
            });
        let client = match timeout(self.timeout, Box::pin(options.connect(address))).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                return Err(LedgerError::new(
                    "open",
                    Unconnected::boxed(&server, Some(error)),
                ));
            }
            Err(_) => return Err(LedgerError::new("open", Unconnected::boxed(&server, None))),
        };
        Ok((jetstream::new(client), said))
    }

    fn usable(&self) -> Result<(), AnyError> {
        let plain = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        if !(1..=100).contains(&self.stream.len()) || !plain(&self.stream) {
            let allowed = "ASCII letters, digits, - and _, 1 to 100 of them";
            return Err(BadName {
                what: "a stream",
                name: self.stream.clone(),
                allowed,
            }
            .into());
        }
        if self.prefix.len() > 100
            || !self
                .prefix
                .split('.')
                .all(|token| !token.is_empty() && plain(token))
        {
            let allowed = "tokens of ASCII letters, digits, - and _ with dots between them, 1 to 100 characters";
            return Err(BadName {
                what: "a prefix of subjects",
                name: self.prefix.clone(),
                allowed,
            }
            .into());
        }
        if self.ack_wait < Duration::from_secs(1) {
            return Err("ack_wait has to be a second at least".into());
        }
        Ok(())
    }

    fn inbox(&self, names: &Names) -> Config {
        Config {
            name: names.stream.clone(),
            description: Some("AuthPI's events that are still to be handled".into()),
            subjects: vec![names.events("*")],
            retention: RetentionPolicy::WorkQueue,
            // AuthPI does not send an accepted event again. So a full stream refuses new events and
            // drops no old one, and no event expires.
            discard: DiscardPolicy::New,
            max_bytes: self
                .max_bytes
                .map_or(-1, |bytes| bytes.try_into().unwrap_or(i64::MAX)),
            storage: StorageType::File,
            num_replicas: self.replicas,
            duplicate_window: self
                .duplicate_window
                .clamp(Duration::from_millis(100), MAX_DURATION),
            ..Config::default()
        }
    }

    fn dead(&self, names: &Names, kept_for: Duration) -> Config {
        let max_age = kept_for.clamp(Duration::from_secs(1), MAX_DURATION);
        Config {
            name: names.dead_stream(),
            description: Some("AuthPI's events that were given up".into()),
            subjects: vec![names.letters("*", "*")],
            max_messages_per_subject: 1,
            max_age,
            storage: StorageType::File,
            num_replicas: self.replicas,
            duplicate_window: max_age.min(Duration::from_mins(2)),
            ..Config::default()
        }
    }
}

/// NATS counts nanoseconds in 64 bits.
const MAX_DURATION: Duration = Duration::from_hours(24 * 365 * 100);

/// The server's error code for a stream that was created meanwhile with other settings.
const NAME_IN_USE: u64 = 10058;
const SUBJECTS_OVERLAP: u64 = 10065;

/// The address without its credentials, which the client would ignore and log, and options that
/// contain them.
fn credentials(url: &str) -> Result<(ServerAddr, ConnectOptions), AnyError> {
    let mut url = url.parse::<ServerAddr>()?.into_inner();
    let (user, password) = (
        decoded(url.username())?,
        url.password().map(decoded).transpose()?,
    );
    let options = match (user, password) {
        (user, Some(password)) => ConnectOptions::new().user_and_password(user, password),
        (token, None) if !token.is_empty() => ConnectOptions::new().token(token),
        _ => ConnectOptions::new(),
    };
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return Err("the URL names no host".into());
    }
    Ok((ServerAddr::from_url(url)?, options))
}

/// Decodes the escapes in a part of a URL.
fn decoded(part: &str) -> Result<String, AnyError> {
    let mut bytes = part.as_bytes().iter();
    let mut out = Vec::with_capacity(part.len());
    while let Some(&byte) = bytes.next() {
        let digits = bytes.as_slice().get(..2).filter(|_| byte == b'%');
        let mut decoded = [byte];
        if let Some(digits) = digits
            && hex::decode_into(&mut decoded, digits).is_some()
        {
            bytes = bytes.as_slice()[2..].iter();
        } else {
            decoded = [byte];
        }
        out.push(decoded[0]);
    }
    String::from_utf8(out).map_err(|_| "the credentials in the URL are not UTF-8".into())
}

/// Why an existing stream cannot be used.
type Fit = fn(&Config, wanted: &Config) -> Option<&'static str>;

/// `None` for a stream that does not exist.
async fn info(jetstream: &Context, stream: &str) -> Result<Option<Info>, AnyError> {
    match jetstream.get_stream(stream).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(reported) if reported.code() == 404 => Ok(None),
            _ => Err(error.into()),
        },
    }
}

async fn ensure(jetstream: &Context, config: Config, unfit: Fit) -> Result<(), AnyError> {
    let found = |info: &Info| match unfit(&info.config, &config) {
        None => Ok(()),
        Some(why) => Err(AnyError::from(Unfit {
            stream: config.name.clone(),
            why,
        })),
    };
    if let Some(there) = info(jetstream, &config.name).await? {
        return found(&there);
    }
    // Several processes may do so at once; the same settings twice are not an error.
    match jetstream.create_stream(config.clone()).await {
        Ok(stream) => found(stream.cached_info()),
        Err(error) => match error.kind() {
            // If the server is creating it for another process at this moment, it may report that
            // its own subjects are taken.
            jetstream::context::CreateStreamErrorKind::JetStream(reported)
                if [NAME_IN_USE, SUBJECTS_OVERLAP].contains(&reported.error_code().0) =>
            {
                match jetstream.get_stream(&config.name).await {
                    Ok(stream) => found(stream.cached_info()),
                    Err(_) => Err(error.into()),
                }
            }
            _ => Err(error.into()),
        },
    }
}

const IN_MEMORY: &str = "it is kept in memory, so that events would be lost";

fn fit_for_events(found: &Config, wanted: &Config) -> Option<&'static str> {
    let limited =
        found.max_bytes > 0 || found.max_messages > 0 || found.max_messages_per_subject > 0;
    if !wanted
        .subjects
        .iter()
        .all(|subject| found.subjects.contains(subject))
    {
        Some("it is of other subjects")
    } else if found.storage != wanted.storage {
        Some(IN_MEMORY)
    } else if found.retention != RetentionPolicy::WorkQueue {
        Some("its retention is not `workqueue`")
    } else if !found.max_age.is_zero() {
        Some("it has a `max_age`, after which events would be lost")
    } else if limited && found.discard != DiscardPolicy::New {
        Some("it has a limit and does not `discard` what is new, so that events would be lost")
    } else if found.no_ack {
        Some("it acknowledges nothing (`no_ack`)")
    } else if found.sealed {
        Some("it is sealed, so that it takes no message")
    } else {
        None
    }
}

fn fit_for_letters(found: &Config, wanted: &Config) -> Option<&'static str> {
    if !wanted
        .subjects
        .iter()
        .all(|subject| found.subjects.contains(subject))
    {
        Some("it is of other subjects")
    } else if found.storage != wanted.storage {
        Some(IN_MEMORY)
    } else if found.retention != RetentionPolicy::Limits {
        Some("its retention is not `limits`")
    } else if found.max_messages_per_subject != 1 {
        Some("it keeps not one message per subject")
    } else if found.no_ack {
        Some("it acknowledges nothing (`no_ack`)")
    } else if found.sealed {
        Some("it is sealed, so that it takes no message")
    } else {
        None
    }
}

/// Why a stream cannot be inspected.
pub(super) enum Unusable {
    /// The stream with this name.
    Missing(String),
    Unfit(Unfit),
}

/// A stream with this name exists for another purpose.
#[derive(Debug)]
pub(super) struct Unfit {
    stream: String,
    why: &'static str,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stream {} cannot be used: {}", self.stream, self.why)
    }
}

impl std::error::Error for Unfit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_the_url() {
        for url in [
            "nats://me:hunter2@host",
            "nats://hunter2@host:4222",
            "me:hunter2@host",
            "tls://m%40e:hunter2@host",
        ] {
            let (address, options) = credentials(url).unwrap();
            assert!(
                !format!("{address:?} {options:?}").contains("hunter2"),
                "{url}"
            );
            assert_eq!(
                (address.host(), address.username(), address.password()),
                ("host", None, None),
                "{url}"
            );
        }
        for (part, text) in [
            ("", ""),
            ("a%40b%2F%25", "a@b/%"),
            ("%c3%A9", "é"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
        ] {
            assert_eq!(decoded(part).unwrap(), text);
        }
        assert!(decoded("%ff").is_err());
    }
}
