//! The stream of what is to be handled: publishing to it, taking from it, settling what was taken.

use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_nats::{
    HeaderMap, Subject, Subscriber,
    client::Request,
    header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::{
        self, Context, ErrorCode,
        consumer::{self, pull},
        context::ConsumerInfoErrorKind,
        message::{AckKind, Acker, StreamMessage},
        response::Response,
        stream::{ConsumerError, ConsumerErrorKind, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_core::Stream as _;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::{
    sync::{Notify, OnceCell},
    task::JoinHandle,
    time::timeout,
};

use super::{
    failure::{AnyError, Denied, Said, Verdict},
    in_flight::Ticket,
    names::{self, Names},
};
use crate::{
    ledger::{Digest, EventKey, LedgerError, LedgerErrorKind, probe},
    stores::timeout::within,
};

/// How many messages of an endpoint may be out of the stream and not settled: being handled, or
/// waiting for another try.
pub(super) const MOST_UNSETTLED: i64 = 100_000;

const ENDPOINT: &str = "Authpi-Endpoint";
const EVENT: &str = "Authpi-Event";
const DIGEST: &str = "Authpi-Digest";

pub(super) struct Queue {
    pub(super) jetstream: Context,
    pub(super) names: Names,
    pub(super) stream: Stream<()>,
    pub(super) ack_wait: Duration,
    /// How long a step may take.
    pub(super) timeout: Duration,
    /// What the server said of itself, over a connection that is the inbox's own.
    pub(super) said: Option<Arc<Said>>,
    /// When a connection of one's own was last given up for a server without JetStream.
    pub(super) left: Mutex<Option<Instant>>,
    /// How long an answer that has nothing to wait for may take.
    pub(super) answer_timeout: Duration,
    /// The consumers that were looked at, each by the id of the server that this process was
    /// connected to and the endpoint's token; and whether they are known to be there.
    pub(super) consumers: Mutex<HashMap<(String, String), bool>>,
    pub(super) appended: Arc<Notify>,
    pub(super) listener: OnceCell<Listener>,
}

/// A message, as it came out of the stream.
pub(super) struct Arrived {
    /// Not there if something else published it than this crate, or an unreleased version of it,
    /// whose digests were longer.
    pub(super) event: Option<(EventKey, Digest)>,
    pub(super) body: Bytes,
    pub(super) ticket: Ticket,
    pub(super) sequence: u64,
}

/// Between two connections that were given up.
const LEFT_FOR: Duration = Duration::from_secs(1);

/// A message's fate after it was published.
pub(super) enum Published {
    Stored,
    /// The same event waits already, or is being handled.
    Waits(Digest),
}

impl Queue {
    /// Runs a step for the timeout at most, and says of its error what that says about the server.
    pub(super) async fn within<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = Result<T, AnyError>>,
    ) -> Result<T, LedgerError> {
        let began = Instant::now();
        let error = match within(self.timeout, step, work).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let verdict = Verdict::of(&error);
        let Some(said) = &self.said else {
            return Err(error.with_kind(verdict.kind()));
        };
        if verdict == Verdict::NoJetStream {
            self.leave().await;
        }
        Err(
            match said.since(began).filter(|_| verdict == Verdict::Other) {
                Some(said) => LedgerError::new(step, Denied { said, error })
                    .with_kind(LedgerErrorKind::CannotWrite),
                None => error.with_kind(verdict.kind()),
            },
        )
    }

    /// Gives the connection up if its server has no JetStream: at the same address may be another
    /// server by now, or in the cluster one that has.
    async fn leave(&self) {
        let asked = self
            .jetstream
            .request::<_, _, Response<serde_json::Value>>("INFO", &());
        let gone = match timeout(self.answer_timeout, asked).await {
            Ok(Ok(Response::Err { error })) => Verdict::of_cause(&error) == Verdict::NoJetStream,
            Ok(Err(error)) => Verdict::of_cause(&error) == Verdict::NoJetStream,
            Ok(Ok(Response::Ok(_))) | Err(_) => false,
        };
        if !gone {
            return;
        }
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            if left.is_some_and(|at| at.elapsed() < LEFT_FOR) {
                return;
            }
            *left = Some(Instant::now());
        }
        if let Err(error) = self.jetstream.client().force_reconnect().await {
            tracing::debug!(%error, "could not give up the connection to a server without JetStream");
        }
    }

    /// Makes a consumer that no endpoint has, asks it for a message, and removes it.
    pub(super) async fn check(&self) -> Result<(), AnyError> {
        let name = names::token(probe::probe_key().event_id());
        let unused = Duration::from_secs(30);
        let made = self
            .stream
            .create_consumer(pull::Config {
                inactive_threshold: unused,
                ..self.consumer(&name)
            })
            .await;
        match made {
            // Those that there are may be all that are needed.
            Err(error) if is_code(&error, ErrorCode::MAXIMUM_CONSUMERS_LIMIT) => return Ok(()),
            made => made?,
        };
        let asked = self.ask(&name).await;
        let removed = self.stream.delete_consumer(&name).await;
        if asked?.is_none() {
            return Err("a consumer did not answer a request for its next message".into());
        }
        removed?;
        Ok(())
    }

    /// Durable, as far as the stream is, when it returns.
    pub(super) async fn publish(
        &self,
        key: &EventKey,
        digest: Digest,
        body: Bytes,
    ) -> Result<Published, AnyError> {
        self.publish_as(names::message_id(key), key, digest, body)
            .await
    }

    pub(super) async fn publish_as(
        &self,
        mut id: String,
        key: &EventKey,
        digest: Digest,
        body: Bytes,
    ) -> Result<Published, AnyError> {
        let subject = self.names.events(&names::token(key.endpoint()));
        loop {
            let mut headers = event_headers(key);
            headers.insert(NATS_MESSAGE_ID, id.as_str());
            headers.insert(NATS_EXPECTED_STREAM, self.names.stream.as_str());
            headers.insert(DIGEST, digest.to_string());
            let ack = self
                .jetstream
                .publish_with_headers(subject.clone(), headers, body.clone())
                .await?
                .await?;
            if !ack.duplicate {
                // A hint, which may be lost.
                self.appended.notify_waiters();
                let _ = self
                    .jetstream
                    .client()
                    .publish(self.names.appended(), Bytes::new())
                    .await;
                return Ok(Published::Stored);
            }
            // The server only knows that there was such a message. If it is gone, the event may
            // have been forgotten since, so it is stored again, and the ledger decides. The next id
            // follows from the last, so that copies of this delivery are duplicates again.
            match self
                .message(ack.sequence)
                .await?
                .and_then(|first| event(&first.headers))
            {
                Some((of, first)) if of == *key => return Ok(Published::Waits(first)),
                _ => id = format!("{}@{}", names::message_id(key), ack.sequence),
            }
        }
    }

    async fn message(&self, sequence: u64) -> Result<Option<StreamMessage>, AnyError> {
        found(self.stream.get_raw_message(sequence).await)
    }

    /// The endpoint's next message, if there is one.
    pub(super) async fn next(&self, endpoint: &str) -> Result<Option<Arrived>, AnyError> {
        let consumer = names::token(endpoint);
        self.ensure_consumer(&consumer).await?;
        loop {
            match self.ask(&consumer).await? {
                Some(message) if message.status.is_none() => {
                    return self.arrived(message).map(Some);
                }
                // None there, or all of them promised to requests that came earlier.
                Some(message)
                    if message
                        .status
                        .is_some_and(|status| matches!(status.as_u16(), 404 | 408)) =>
                {
                    return Ok(None);
                }
                // The consumer is going; or nobody knows it, which gets no answer at all.
                _ => {
                    // Not one that was never looked at.
                    if let Some(there) = self.known().get_mut(&(self.server(), consumer.clone())) {
                        *there = false;
                    }
                    if !self.ensure_consumer(&consumer).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// What a consumer says to a request for its next message; nothing where it says nothing.
    async fn ask(&self, consumer: &str) -> Result<Option<async_nats::Message>, AnyError> {
        let client = self.jetstream.client();
        // With an inbox of its own, so that the server sees when nobody waits for the answer any
        // more.
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await?;
        let request = Request::new()
            .payload(Bytes::from_static(br#"{"batch":1,"no_wait":true}"#))
            .inbox(inbox);
        let subject = format!("CONSUMER.MSG.NEXT.{}.{consumer}", self.names.stream);
        self.jetstream.send_request(subject, request).await?;
        Ok(timeout(self.answer_timeout, next_of(&mut answers))
            .await
            .ok()
            .flatten())
    }

    fn arrived(&self, message: async_nats::Message) -> Result<Arrived, AnyError> {
        let message = jetstream::Message {
            message,
            context: self.jetstream.clone(),
        };
        let (received_at, sequence) = {
            let about = message.info()?;
            (timestamp(about.published.into()), about.stream_sequence)
        };
        let message = message.message;
        let reply = message.reply.unwrap_or_else(|| Subject::from_static(""));
        Ok(Arrived {
            event: message.headers.as_ref().and_then(event),
            body: message.payload,
            ticket: Ticket { reply, received_at },
            sequence,
        })
    }

    /// Says whether it was not there.
    ///
    /// A server that was killed may have forgotten half of a settlement: a message is in the stream
    /// again, and its consumer will not hand it out; or it is gone, and its consumer waits for it
    /// for ever. So a consumer lives no longer than its server, whose id it bears. The next one
    /// hands out all that is in the stream, and the ledger knows what of it is done. In a cluster,
    /// where the server that one happens to be connected to says nothing of the consumer's, it
    /// stays.
    async fn ensure_consumer(&self, name: &str) -> Result<bool, AnyError> {
        if self.known().get(&(self.server(), name.to_owned())) == Some(&true) {
            return Ok(false);
        }
        let found = match self.stream.consumer_info(name).await {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        // Asked for only now: it is the one that has answered.
        let server = self.server();
        // Once for each server: where processes are connected to several (leaf nodes) that lead to
        // one JetStream, they must not go on to take each other's.
        let looked_at = self
            .known()
            .contains_key(&(server.clone(), name.to_owned()));
        let outlived = |found: &consumer::Info| {
            !looked_at
                && found.cluster.is_none()
                && found.config.description.as_deref() != Some(server.as_str())
        };
        let there = match found {
            Some(found) if outlived(&found) => {
                match self.stream.delete_consumer(name).await {
                    // Nor is it there when somebody else was quicker.
                    Err(error) if !is_no_consumer(&error) => return Err(error.into()),
                    Ok(_) | Err(_) => None,
                }
            }
            found => found,
        };
        let fits = |config: &consumer::Config| {
            config.ack_wait == self.ack_wait && config.max_ack_pending == MOST_UNSETTLED
        };
        if !there.as_ref().is_some_and(|there| fits(&there.config)) {
            // Any number of processes may do so at once: it is made, or brought up to date, by
            // whoever comes first.
            let config = pull::Config {
                description: Some(server.clone()),
                ..self.consumer(name)
            };
            self.stream.create_consumer(config).await?;
        }
        self.known().insert((server, name.to_owned()), true);
        Ok(there.is_none())
    }

    fn consumer(&self, name: &str) -> pull::Config {
        pull::Config {
            durable_name: Some(name.to_owned()),
            filter_subject: self.names.events(name),
            ack_policy: consumer::AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            max_ack_pending: MOST_UNSETTLED,
            ..Default::default()
        }
    }

    /// The server that this process is connected to; another one after each of its starts.
    fn server(&self) -> String {
        self.jetstream.client().server_info().server_id
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), bool>> {
        // A map of names is whole whatever panicked beside it.
        self.consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the server what became of a delivery, and waits until it has heard it.
    pub(super) async fn settle(&self, ticket: &Ticket, kind: AckKind) -> Result<(), AnyError> {
        Acker::new(self.jetstream.clone(), Some(ticket.reply.clone()))
            .double_ack_with(kind)
            .await
    }

    /// The same without waiting: for what is only a matter of when.
    pub(super) async fn acknowledge(&self, ticket: &Ticket, kind: AckKind) {
        let reported = Acker::new(self.jetstream.clone(), Some(ticket.reply.clone()))
            .ack_with(kind)
            .await;
        if let Err(error) = reported {
            tracing::debug!(%error, "the stream could not be told of a delivery, which comes again");
        }
    }

    /// How many messages of the endpoint are not settled, and the time of the first.
    ///
    /// The consumer knows, once there is one. What the stream holds besides, after a crash of the
    /// server, is done ([`ensure_consumer`](Self::ensure_consumer)).
    pub(super) async fn depth(&self, endpoint: &str) -> Result<(u64, Option<Timestamp>), AnyError> {
        #[derive(Deserialize)]
        struct StreamState {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            subjects: Option<HashMap<String, u64>>,
        }
        let consumer = names::token(endpoint);
        let subject = self.names.events(&consumer);
        match self.stream.consumer_info(&consumer).await {
            Ok(info) => {
                let depth = info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(0);
                let unsettled = info.ack_floor.stream_sequence + 1;
                return Ok((
                    depth,
                    self.first(&subject, unsettled).await?.filter(|_| depth > 0),
                ));
            }
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let request = serde_json::json!({ "subjects_filter": subject });
        let info = self
            .jetstream
            .request(format!("STREAM.INFO.{}", self.names.stream), &request)
            .await?;
        let depth = match info {
            Response::Ok(StreamState { state }) => state
                .subjects
                .and_then(|subjects| subjects.get(&subject).copied()),
            Response::Err { error } => return Err(error.into()),
        };
        let Some(depth) = depth.filter(|depth| *depth > 0) else {
            return Ok((0, None));
        };
        Ok((depth, self.first(&subject, 1).await?))
    }

    /// When the first message of the subject was stored that has this place in the stream, or a
    /// later one.
    async fn first(&self, subject: &str, place: u64) -> Result<Option<Timestamp>, AnyError> {
        let first = found(
            self.stream
                .get_first_raw_message_by_subject(subject, place)
                .await,
        )?;
        Ok(first.map(|message| timestamp(message.time.into())))
    }

    /// Has `appended` told of what other processes append.
    pub(super) async fn listen(&self) -> Result<(), AnyError> {
        let start = || async {
            let mut reported = self
                .jetstream
                .client()
                .subscribe(self.names.appended())
                .await?;
            let appended = Arc::clone(&self.appended);
            Ok::<_, AnyError>(Listener(tokio::spawn(async move {
                while next_of(&mut reported).await.is_some() {
                    appended.notify_waiters();
                }
            })))
        };
        self.listener.get_or_try_init(start).await.map(drop)
    }
}

/// Ends with the queue.
pub(super) struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn next_of(subscriber: &mut Subscriber) -> Option<async_nats::Message> {
    poll_fn(|cx| Pin::new(&mut *subscriber).poll_next(cx)).await
}

/// Headers that tell which event a message is.
pub(super) fn event_headers(key: &EventKey) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ENDPOINT, names::word(key.endpoint()));
    headers.insert(EVENT, names::word(key.event_id()));
    headers
}

pub(super) fn key(headers: &HeaderMap) -> Option<EventKey> {
    let name = |header: &str| names::read(headers.get(header)?.as_str());
    Some(EventKey::from_stored(name(ENDPOINT)?, name(EVENT)?))
}

fn event(headers: &HeaderMap) -> Option<(EventKey, Digest)> {
    let digest = Digest::from_hex(headers.get(DIGEST)?.as_str())?;
    Some((key(headers)?, digest))
}

fn is_no_consumer(error: &ConsumerError) -> bool {
    is_code(error, ErrorCode::CONSUMER_NOT_FOUND)
}

fn is_code(error: &ConsumerError, code: ErrorCode) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(said) if said.error_code() == code)
}

/// Nothing where there is no such message.
pub(super) fn found(
    asked: Result<StreamMessage, jetstream::stream::RawMessageError>,
) -> Result<Option<StreamMessage>, AnyError> {
    match asked {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The server's clock; the end of the calendar for what lies beyond it.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::MAX)
}

impl fmt::Debug for Queue {
    /// Leaves the connection out: there may be a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("names", &self.names)
            .field("ack_wait", &self.ack_wait)
            .finish_non_exhaustive()
    }
}
