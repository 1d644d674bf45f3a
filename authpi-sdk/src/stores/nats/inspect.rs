//! Reads the streams and consumers without changing them, over the inspector of the ledger.
//!
//! The ledger has the records of the events that were claimed at least once, and the stream the
//! events that wait. A list reads these sources one after the other, so its cursor contains the
//! current source.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use async_nats::jetstream::{Context, message::StreamMessage, response::Response};
use serde::Deserialize;

use super::{
    Nats, NatsOptions,
    dead_letters::{self, Letters},
    failure::{AnyError, Said},
    names,
    options::Unusable,
    queue::{self, Queue, found, timestamp},
};
use crate::{
    Clock,
    ledger::{
        Backlog, DeadLetter, Digest, EventKey, RecordState,
        inspect::{
            Cursor, Filter, InspectError, InspectErrorKind, Inspector, RecordPage, RecordView,
            Status,
        },
    },
    stores::inspect::{invalid_cursor, needs_scan, scan_limit},
};

/// An [`Inspector`] of a [`Nats`] inbox, over the inspector of its ledger.
///
/// - **Writes nothing.** It asks for the state of streams and consumers, and reads messages without
///   a consumer. Its user may be limited to publish to `$JS.API.STREAM.INFO.*`,
///   `$JS.API.STREAM.MSG.GET.*` and `$JS.API.CONSUMER.INFO.*.*`, and to subscribe to `_INBOX.>`.
/// - **Several sources.** The ledger has the records of events that were claimed at least once. An
///   event that only waits in the stream is shown as pending, with no attempts. The state of a
///   record is always the ledger's.
/// - **Scans.** The streams have no index by event. [`get`](Inspector::get) of an event without a
///   record, while others wait, and a [`list`](Inspector::list) with pending or dead records read
///   message by message, one round trip each. They fail with
///   [`NeedsScan`](InspectErrorKind::NeedsScan) unless that is [allowed](Self::scan).
/// - **Dead letters** of the ledger and of the stream are shown.
/// - **Never hangs.** Each request fails after the [`timeout`](NatsOptions::timeout) (default 5 s).
///
/// ```no_run
/// # use authpi_sdk::{ledger::inspect::Inspector, stores::{Nats, Postgres}};
/// # async fn shown() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = Postgres::inspect("postgres://reader@db.example/hooks").await?;
/// let inspector = Nats::inspect("nats://nats.example", ledger).await?;
/// println!("{:?}", inspector.status("users").await?.inbox);
/// # Ok(())
/// # }
/// ```
pub struct NatsInspector<L> {
    shared: Arc<Shared<L>>,
    scan: bool,
    scan_limit: u32,
}

struct Shared<L> {
    ledger: L,
    queue: Queue,
    letters: Letters,
    clock: Clock,
}

impl Nats<()> {
    /// Connects to `nats://user:password@host:port` or `nats://token@host:port` to read the
    /// streams, without creating any. `ledger` inspects the ledger of the inbox.
    ///
    /// # Errors
    /// When the URL is invalid; when the server cannot be reached, refuses the login or has no
    /// JetStream; when a stream does not exist or is not one of an inbox.
    pub async fn inspect<L: Inspector>(
        url: &str,
        ledger: L,
    ) -> Result<NatsInspector<L>, InspectError> {
        NatsOptions::default().inspect(url, ledger).await
    }

    /// As [`inspect`](Self::inspect), with your own connection.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn inspect_jetstream<L: Inspector>(
        jetstream: Context,
        ledger: L,
    ) -> Result<NatsInspector<L>, InspectError> {
        NatsOptions::default()
            .inspect_jetstream(jetstream, ledger)
            .await
    }
}

impl NatsOptions {
    /// Connects to read the streams, without creating any. Options of the streams have no effect.
    ///
    /// # Errors
    /// As for [`Nats::inspect`]; and when a name is invalid.
    pub async fn inspect<L: Inspector>(
        self,
        url: &str,
        ledger: L,
    ) -> Result<NatsInspector<L>, InspectError> {
        let (jetstream, said) = self.connected(url).await?;
        self.inspect_over(jetstream, ledger, Some(said)).await
    }

    /// As [`inspect`](Self::inspect), with your own connection.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn inspect_jetstream<L: Inspector>(
        self,
        jetstream: Context,
        ledger: L,
    ) -> Result<NatsInspector<L>, InspectError> {
        self.inspect_over(jetstream, ledger, None).await
    }

    async fn inspect_over<L: Inspector>(
        self,
        jetstream: Context,
        ledger: L,
        said: Option<Arc<Said>>,
    ) -> Result<NatsInspector<L>, InspectError> {
        let (queue, letters) = self.streams(jetstream, said).await?;
        match queue.within("open", self.unfit(&queue)).await? {
            None => {}
            Some(Unusable::Missing(stream)) => {
                return Err(InspectError::new(
                    InspectErrorKind::Missing,
                    format!(
                        "the server has no stream {stream}: check the server, account and name; \
                         the service makes the stream when it starts"
                    ),
                ));
            }
            Some(Unusable::Unfit(unfit)) => {
                return Err(InspectError::new(
                    InspectErrorKind::Incompatible,
                    unfit.to_string(),
                ));
            }
        }
        let shared = Shared {
            ledger,
            queue,
            letters,
            clock: self.clock,
        };
        Ok(NatsInspector {
            shared: Arc::new(shared),
            scan: false,
            scan_limit: NatsInspector::<L>::DEFAULT_SCAN_LIMIT,
        })
    }
}

/// The messages that are read for one page of a list.
const MESSAGES_PER_PAGE: u32 = 1_000;

/// Where a list is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ledger,
    /// The stream of events, from this sequence number.
    Waiting(u64),
    /// The stream of dead letters, from this sequence number.
    Dead(u64),
}

/// Where the list continues after the ledger, or after the waiting events.
fn after(state: Option<RecordState>, place: Place) -> Option<Place> {
    match (state, place) {
        (None | Some(RecordState::Pending), Place::Ledger) => Some(Place::Waiting(1)),
        (Some(RecordState::Dead), Place::Ledger) | (None, Place::Waiting(_)) => {
            Some(Place::Dead(1))
        }
        _ => None,
    }
}

fn cursor(place: Place) -> Cursor {
    Cursor::new(match place {
        Place::Ledger => "ledger:".to_owned(),
        Place::Waiting(from) => format!("waiting:{from}"),
        Place::Dead(from) => format!("dead:{from}"),
    })
}

/// A position of the list: the place, and the ledger's own cursor.
fn read_cursor(cursor: Option<&Cursor>) -> Option<(Place, Option<Cursor>)> {
    let Some(cursor) = cursor else {
        return Some((Place::Ledger, None));
    };
    let (place, rest) = cursor.as_str().split_once(':')?;
    match place {
        "ledger" => {
            let of_ledger = (!rest.is_empty()).then(|| Cursor::new(rest));
            Some((Place::Ledger, of_ledger))
        }
        "waiting" => Some((Place::Waiting(rest.parse().ok()?), None)),
        "dead" => Some((Place::Dead(rest.parse().ok()?), None)),
        _ => None,
    }
}

impl<L: Inspector> NatsInspector<L> {
    /// The default of [`scan_limit`](Self::scan_limit).
    pub const DEFAULT_SCAN_LIMIT: u32 = 100_000;

    /// Whether it may read the streams message by message (default false). The inspector of the
    /// ledger has its own setting.
    #[must_use]
    pub fn scan(self, allowed: bool) -> Self {
        Self {
            scan: allowed,
            ..self
        }
    }

    /// How many messages [`get`](Inspector::get) reads (default 100,000) before it fails with
    /// [`ScanLimit`](InspectErrorKind::ScanLimit).
    #[must_use]
    pub fn scan_limit(self, messages: u32) -> Self {
        Self {
            scan_limit: messages,
            ..self
        }
    }

    /// The inspector of the ledger.
    pub fn ledger(&self) -> &L {
        &self.shared.ledger
    }

    fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    async fn ask<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = Result<T, AnyError>>,
    ) -> Result<T, InspectError> {
        Ok(self.queue().within(step, work).await?)
    }

    fn may_scan(&self, what: &'static str) -> Result<(), InspectError> {
        if self.scan {
            Ok(())
        } else {
            Err(needs_scan(what))
        }
    }

    /// The endpoint's first waiting message at or after this position.
    async fn waiting(
        &self,
        endpoint: &str,
        from: u64,
    ) -> Result<Option<StreamMessage>, InspectError> {
        let subject = self.queue().names.events(&names::token(endpoint));
        self.ask("read the stream", async {
            let stream = &self.queue().stream;
            found(
                stream
                    .get_first_raw_message_by_subject(&subject, from)
                    .await,
            )
        })
        .await
    }

    /// The dead letter of the event.
    async fn letter(&self, key: &EventKey) -> Result<Option<DeadLetter>, InspectError> {
        let letter = self.shared.letters.get(self.queue(), key);
        let letter = self.ask("read a dead letter", letter).await?;
        Ok(letter.and_then(dead_letters::read))
    }

    async fn depth(&self, endpoint: &str) -> Result<Backlog, InspectError> {
        let (depth, first) = self
            .ask("count the backlog", self.queue().depth(endpoint))
            .await?;
        Ok(Backlog {
            depth,
            oldest: first.map(|first| self.shared.clock.since(first)),
        })
    }

    /// Adds what the streams know to a record of the ledger.
    async fn complete(&self, mut view: RecordView) -> Result<RecordView, InspectError> {
        match view.state {
            // If the ledger has no body, the stream may have it. A message cannot be looked up by
            // its event, so this is unknown (`None`).
            RecordState::Pending | RecordState::Claimed => {
                view.body_kept = view.body_kept.filter(|kept| *kept);
            }
            RecordState::Dead => {
                if let Some(letter) = self.letter(&view.key).await? {
                    view.body_kept = Some(true);
                    view.reason = Some(letter.reason);
                    view.first_claimed_at = view.first_claimed_at.or(Some(letter.first_claimed_at));
                    view.finished_at = view.finished_at.or(Some(letter.died_at));
                }
            }
            RecordState::Handled => {}
        }
        Ok(view)
    }

    /// Searches the event among those that wait.
    async fn find_waiting(&self, key: &EventKey) -> Result<Option<RecordView>, InspectError> {
        if self.depth(key.endpoint()).await?.depth == 0 {
            return Ok(None);
        }
        self.may_scan(
            "the ledger has no record of this event, so it may be among the waiting ones, which \
             have no index",
        )?;
        let mut from = 1;
        for _ in 0..self.scan_limit {
            let Some(message) = self.waiting(key.endpoint(), from).await? else {
                return Ok(None);
            };
            from = message.sequence + 1;
            if let Some(view) = view(&message).filter(|view| view.key == *key) {
                return Ok(Some(view));
            }
        }
        Err(scan_limit(self.scan_limit, "messages"))
    }

    /// A page of waiting events without a record, and where to continue.
    async fn list_waiting(
        &self,
        filter: &Filter,
        mut from: u64,
    ) -> Result<(Vec<RecordView>, Option<u64>), InspectError> {
        let mut records = Vec::new();
        for _ in 0..MESSAGES_PER_PAGE {
            if records.len() >= filter.bounded_limit() as usize {
                break;
            }
            let Some(message) = self.waiting(&filter.endpoint, from).await? else {
                return Ok((records, None));
            };
            from = message.sequence + 1;
            if let Some(view) = view(&message)
                && self.ledger().get(&view.key).await?.is_none()
            {
                records.push(view);
            }
        }
        Ok((records, Some(from)))
    }

    /// A page of dead letters without a record, and where to continue.
    async fn list_dead(
        &self,
        filter: &Filter,
        mut from: u64,
    ) -> Result<(Vec<RecordView>, Option<u64>), InspectError> {
        let token = names::token(&filter.endpoint);
        let subject = self.queue().names.letters(&token, "*");
        let mut records = Vec::new();
        for _ in 0..MESSAGES_PER_PAGE {
            if records.len() >= filter.bounded_limit() as usize {
                break;
            }
            let next = self.shared.letters.at_or_after(from, &subject);
            let Some(letter) = self.ask("read a dead letter", next).await? else {
                return Ok((records, None));
            };
            from = letter.sequence + 1;
            if let Some(letter) = dead_letters::read(letter)
                && self.ledger().get(&letter.key).await?.is_none()
            {
                records.push(dead(letter));
            }
        }
        Ok((records, Some(from)))
    }

    /// How many messages the subjects of a stream have.
    async fn subjects(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<HashMap<String, u64>, InspectError> {
        #[derive(Deserialize)]
        struct StreamInfo {
            state: State,
            /// Of the subjects; missing if the answer has all of them.
            #[serde(default)]
            total: usize,
        }
        #[derive(Deserialize)]
        struct State {
            subjects: Option<HashMap<String, u64>>,
        }
        let mut all = HashMap::new();
        loop {
            let request = serde_json::json!({ "subjects_filter": filter, "offset": all.len() });
            let answer = self
                .ask("count messages", async {
                    let jetstream = &self.queue().jetstream;
                    match jetstream
                        .request(format!("STREAM.INFO.{stream}"), &request)
                        .await?
                    {
                        Response::Ok(info) => Ok::<StreamInfo, AnyError>(info),
                        Response::Err { error } => Err(error.into()),
                    }
                })
                .await?;
            let subjects = answer.state.subjects.unwrap_or_default();
            let before = all.len();
            all.extend(subjects);
            if all.len() == before || all.len() >= answer.total {
                return Ok(all);
            }
        }
    }

    /// The endpoint's name, from its token or from a message of the subject.
    async fn endpoint(
        &self,
        token: &str,
        first: impl Future<Output = Result<Option<StreamMessage>, AnyError>>,
    ) -> Result<Option<String>, InspectError> {
        if !token.starts_with('~') {
            return Ok(names::read(token).filter(|name| names::token(name) == token));
        }
        let first = self.ask("read the stream", first).await?;
        let key = first.and_then(|message| queue::key(&message.headers));
        Ok(key.map(|key| key.endpoint().to_owned()))
    }
}

/// An event that was never claimed.
fn view(message: &StreamMessage) -> Option<RecordView> {
    let (key, digest) = queue::event(&message.headers)?;
    let mut view = RecordView::new(key, RecordState::Pending);
    view.attempts = Some(0);
    view.pause_left = Some(std::time::Duration::ZERO);
    view.first_claimed_at = Some(timestamp(message.time.into()));
    view.compared = Some(digest != Digest::UNCOMPARED);
    view.body_kept = Some(true);
    Some(view)
}

/// A dead letter without a record in the ledger.
fn dead(letter: DeadLetter) -> RecordView {
    let mut view = RecordView::new(letter.key, RecordState::Dead);
    // The number is zero if it was not known.
    view.attempts = Some(letter.attempts).filter(|attempts| *attempts > 0);
    view.first_claimed_at = Some(letter.first_claimed_at);
    view.finished_at = Some(letter.died_at);
    view.body_kept = Some(true);
    view.reason = Some(letter.reason);
    view
}

impl<L> Clone for NatsInspector<L> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            ..*self
        }
    }
}

impl<L> fmt::Debug for NatsInspector<L> {
    /// Omits the connection, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsInspector")
            .field("queue", &self.shared.queue)
            .field("scan", &self.scan)
            .field("scan_limit", &self.scan_limit)
            .finish_non_exhaustive()
    }
}

impl<L: Inspector> Inspector for NatsInspector<L> {
    /// The endpoints of the ledger and of both streams.
    async fn endpoints(&self) -> Result<Vec<String>, InspectError> {
        let mut endpoints: BTreeSet<String> =
            self.ledger().endpoints().await?.into_iter().collect();
        let names = &self.queue().names;
        let events = self.subjects(&names.stream, &names.events("*")).await?;
        let begin = names.events("");
        for subject in events.keys() {
            let Some(token) = subject.strip_prefix(&begin) else {
                continue;
            };
            let first = async {
                let stream = &self.queue().stream;
                found(stream.get_first_raw_message_by_subject(subject, 1).await)
            };
            endpoints.extend(self.endpoint(token, first).await?);
        }
        let letters = &self.shared.letters;
        let dead = self
            .subjects(&letters.name, &names.letters("*", "*"))
            .await?;
        // `{prefix}.dead..`, of which the last dot is cut off: it comes between the endpoint and
        // the event.
        let begin = names.letters("", "");
        let begin = &begin[..begin.len() - 1];
        let tokens: BTreeSet<&str> = dead
            .keys()
            .filter_map(|subject| Some(subject.strip_prefix(begin)?.split_once('.')?.0))
            .collect();
        for token in tokens {
            let subject = names.letters(token, "*");
            let first = letters.at_or_after(1, &subject);
            endpoints.extend(self.endpoint(token, first).await?);
        }
        Ok(endpoints.into_iter().collect())
    }

    async fn get(&self, key: &EventKey) -> Result<Option<RecordView>, InspectError> {
        if let Some(view) = self.ledger().get(key).await? {
            return self.complete(view).await.map(Some);
        }
        if let Some(letter) = self.letter(key).await? {
            return Ok(Some(dead(letter)));
        }
        if let Some(view) = self.find_waiting(key).await? {
            return Ok(Some(view));
        }
        // It may have been claimed and handled meanwhile.
        match self.ledger().get(key).await? {
            Some(view) => self.complete(view).await.map(Some),
            None => Ok(None),
        }
    }

    /// Where the ledger has a record, it decides whether the event is dead.
    async fn dead_letter(&self, key: &EventKey) -> Result<Option<DeadLetter>, InspectError> {
        let record = self.ledger().get(key).await?;
        if record.is_some_and(|record| record.state != RecordState::Dead) {
            return Ok(None);
        }
        if let Some(letter) = self.letter(key).await? {
            return Ok(Some(letter));
        }
        match self.ledger().dead_letter(key).await {
            Err(error) if error.kind() == InspectErrorKind::NotKept => Ok(None),
            letter => letter,
        }
    }

    /// First the records of the ledger, then the events and dead letters without a record.
    async fn list(&self, filter: &Filter) -> Result<RecordPage, InspectError> {
        if after(filter.state, Place::Ledger).is_some() {
            self.may_scan(
                "waiting events and dead letters are in streams, which have no index, so this \
                 reads them message by message",
            )?;
        }
        let (place, before) = read_cursor(filter.before.as_ref()).ok_or_else(invalid_cursor)?;
        let (records, next) = match place {
            Place::Ledger => {
                let of_ledger = Filter {
                    before,
                    ..filter.clone()
                };
                let page = self.ledger().list(&of_ledger).await?;
                let mut records = Vec::with_capacity(page.records.len());
                for view in page.records {
                    records.push(self.complete(view).await?);
                }
                let is_whole = after(filter.state, Place::Ledger).is_none();
                if page.next.is_some() || is_whole {
                    let next = page.next.map(|next| Cursor::new(format!("ledger:{next}")));
                    return Ok(RecordPage {
                        newest_first: is_whole && page.newest_first,
                        ..RecordPage::new(records, next)
                    });
                }
                (records, None)
            }
            Place::Waiting(from) => {
                let (records, next) = self.list_waiting(filter, from).await?;
                (records, next.map(Place::Waiting))
            }
            Place::Dead(from) => {
                let (records, next) = self.list_dead(filter, from).await?;
                (records, next.map(Place::Dead))
            }
        };
        let next = next.or_else(|| after(filter.state, place));
        Ok(RecordPage::new(records, next.map(cursor)))
    }

    /// The counts and leases are from the ledger, the rest is from the streams. The counts are
    /// `None` if the inspector of the ledger is not allowed to scan and would have to.
    async fn status(&self, endpoint: &str) -> Result<Status, InspectError> {
        let mut status = match self.ledger().status(endpoint).await {
            Err(error) if error.kind() == InspectErrorKind::NeedsScan => Status::new(endpoint),
            status => status?,
        };
        let letters = &self.shared.letters;
        let subject = self.queue().names.letters(&names::token(endpoint), "*");
        let dead = self.subjects(&letters.name, &subject).await?;
        status.dead_letters = Some(dead.len() as u64);
        status.inbox = Some(self.depth(endpoint).await?);
        Ok(status)
    }
}
