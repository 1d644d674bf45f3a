//! The stream of events to be handled: publishing, fetching, and settling messages.

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

/// The maximum number of unsettled messages of an endpoint: in progress, or waiting for a retry.
pub(super) const MOST_UNSETTLED: i64 = 100_000;

const ENDPOINT: &str = "Authpi-Endpoint";
const EVENT: &str = "Authpi-Event";
const DIGEST: &str = "Authpi-Digest";

pub(super) struct Queue {
    pub(super) jetstream: Context,
    pub(super) names: Names,
    pub(super) stream: Stream<()>,
    pub(super) ack_wait: Duration,
    /// The time limit of a step.
    pub(super) timeout: Duration,
    /// Errors that the server sent on the inbox's own connection.
    pub(super) said: Option<Arc<Said>>,
    /// When the inbox last left a server without JetStream.
    pub(super) left: Mutex<Option<Instant>>,
    /// The time limit of an answer that does not wait for anything.
    pub(super) answer_timeout: Duration,
    /// The checked consumers, by the id of the connected server and the endpoint's token, and
    /// whether they are known to exist.
    pub(super) consumers: Mutex<HashMap<(String, String), bool>>,
    pub(super) appended: Arc<Notify>,
    pub(super) listener: OnceCell<Listener>,
}

/// A message from the stream.
pub(super) struct Arrived {
    /// `None` if the message was published by another program, or by an unreleased version of this
    /// crate, whose digests were longer.
    pub(super) event: Option<(EventKey, Digest)>,
    pub(super) body: Bytes,
    pub(super) ticket: Ticket,
    pub(super) sequence: u64,
}

/// The minimum time between giving up two connections.
const LEFT_FOR: Duration = Duration::from_secs(1);

/// The result of publishing.
pub(super) enum Published {
    Stored,
    /// The event is already waiting or being handled.
    Waits(Digest),
}

impl Queue {
    /// Runs a step within the timeout, and classifies its error.
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

    /// Gives the connection up if its server has no JetStream: another server at the same address,
    /// or in the cluster, may have it.
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

    /// Creates a consumer that no endpoint uses, asks it for a message, and removes it.
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
            // The existing ones may be enough.
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

    /// When it returns, the message is as durable as the stream.
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
            // follows from the last one, so that copies of this delivery are duplicates again.
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

    /// The endpoint's next message, if any.
    pub(super) async fn next(&self, endpoint: &str) -> Result<Option<Arrived>, AnyError> {
        let consumer = names::token(endpoint);
        self.ensure_consumer(&consumer).await?;
        loop {
            match self.ask(&consumer).await? {
                Some(message) if message.status.is_none() => {
                    return self.arrived(message).map(Some);
                }
                // There is none, or earlier requests get all of them.
                Some(message)
                    if message
                        .status
                        .is_some_and(|status| matches!(status.as_u16(), 404 | 408)) =>
                {
                    return Ok(None);
                }
                // The consumer is being removed, or does not exist, which gets no answer at all.
                _ => {
                    // A consumer that was found before is no longer known to exist.
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

    /// A consumer's answer to a request for its next message; `None` for no answer.
    async fn ask(&self, consumer: &str) -> Result<Option<async_nats::Message>, AnyError> {
        let client = self.jetstream.client();
        // With a separate inbox, so that the server notices when nothing waits for the answer any
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

    /// Returns whether it did not exist.
    ///
    /// A server that was killed may have lost half of a settlement: a message is in the stream
    /// again, but its consumer does not deliver it; or it is gone, but its consumer waits for it
    /// forever. So a consumer lives no longer than its server, whose id is in the consumer's
    /// description. The next one delivers everything in the stream, and the ledger knows which
    /// events are finished. In a cluster, the connected server need not be the consumer's, so the
    /// consumer stays.
    async fn ensure_consumer(&self, name: &str) -> Result<bool, AnyError> {
        if self.known().get(&(self.server(), name.to_owned())) == Some(&true) {
            return Ok(false);
        }
        let found = match self.stream.consumer_info(name).await {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        // Read after the response, so that it is the server that sent the response.
        let server = self.server();
        // This process removes a consumer of another server only at its first look since it
        // connected to this server. Otherwise, processes that are connected to different servers
        // (leaf nodes) of one JetStream would keep removing each other's consumers.
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
                    // It also does not exist if another process was faster.
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
            // Any number of processes may do this at once; the first one creates or updates it.
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

    /// The server that this process is connected to; its id changes with each start.
    fn server(&self) -> String {
        self.jetstream.client().server_info().server_id
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), bool>> {
        // The map is consistent even if another thread panicked.
        self.consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a delivery's outcome to the server, and waits for the confirmation.
    pub(super) async fn settle(&self, ticket: &Ticket, kind: AckKind) -> Result<(), AnyError> {
        Acker::new(self.jetstream.clone(), Some(ticket.reply.clone()))
            .double_ack_with(kind)
            .await
    }

    /// The same without waiting, if the outcome only affects timing.
    pub(super) async fn acknowledge(&self, ticket: &Ticket, kind: AckKind) {
        let reported = Acker::new(self.jetstream.clone(), Some(ticket.reply.clone()))
            .ack_with(kind)
            .await;
        if let Err(error) = reported {
            tracing::debug!(%error, "a message could not be settled and will be delivered again");
        }
    }

    /// The number of unsettled messages of the endpoint, and the time of the first.
    ///
    /// If the endpoint has a consumer, they are read from it, otherwise from the stream. After a
    /// crash of the server, the stream may contain further messages, which are already finished
    /// ([`ensure_consumer`](Self::ensure_consumer)).
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

    /// When the subject's first message at or after this position was stored.
    async fn first(&self, subject: &str, place: u64) -> Result<Option<Timestamp>, AnyError> {
        let first = found(
            self.stream
                .get_first_raw_message_by_subject(subject, place)
                .await,
        )?;
        Ok(first.map(|message| timestamp(message.time.into())))
    }

    /// Makes `appended` report what other processes append.
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

/// The headers that identify a message's event.
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

pub(super) fn event(headers: &HeaderMap) -> Option<(EventKey, Digest)> {
    let digest = Digest::from_hex(headers.get(DIGEST)?.as_str())?;
    Some((key(headers)?, digest))
}

fn is_no_consumer(error: &ConsumerError) -> bool {
    is_code(error, ErrorCode::CONSUMER_NOT_FOUND)
}

fn is_code(error: &ConsumerError, code: ErrorCode) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(said) if said.error_code() == code)
}

/// `None` if it does not exist.
pub(super) fn found(
    asked: Result<StreamMessage, jetstream::stream::RawMessageError>,
) -> Result<Option<StreamMessage>, AnyError> {
    match asked {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The server's clock; jiff's last timestamp for larger values.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::MAX)
}

impl fmt::Debug for Queue {
    /// Omits the connection, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("names", &self.names)
            .field("ack_wait", &self.ack_wait)
            .finish_non_exhaustive()
    }
}
