//! The queue of the writer: steps with their callers, and handlers that want a transaction.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{
    failure::{Failure, Occupied, Reply},
    steps::{Records, Step},
    transaction::SqliteTransaction,
};

/// The capacity of the channel, and of the queue behind it, before callers have to wait.
pub(super) const ROOM: usize = 1024;
/// The maximum number of steps per flush. Enough to make the flush cheap per step, and few enough
/// to leave the file to other processes every few milliseconds.
pub(super) const GROUP: usize = 256;

pub(super) struct Request {
    pub(super) asked_at: Instant,
    pub(super) wanted: Wanted,
}

pub(super) enum Wanted {
    Step(Box<dyn Asked>),
    /// The connection, in a transaction.
    Transaction(Reply<SqliteTransaction>),
    Close,
}

impl Request {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            asked_at: Instant::now(),
            wanted,
        }
    }
}

impl Wanted {
    pub(super) fn step<S: Step>(step: S, reply: Reply<S::Answer>) -> Self {
        Self::Step(Box::new(Awaited {
            step,
            reply,
            found: None,
        }))
    }
}

/// A step of any kind, for the writer.
///
/// Its result is kept between [`run`](Asked::run) and [`answer`](Asked::answer), so that it is only
/// sent when it is durable.
pub(super) trait Asked: Send {
    /// Whether it changes nothing, and so needs no transaction.
    fn reads(&self) -> bool;
    /// Whether its caller has gone away, and the step is useless to others.
    fn is_moot(&self) -> bool;
    /// Runs the step, again if it was rolled back. Returns whether it succeeded.
    fn run<'a>(
        &'a mut self,
        records: &'a mut Records,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>>;
    /// Whether it was run and failed.
    fn has_failed(&self) -> bool;
    /// Sends the result to the caller, if it is still waiting.
    fn answer(self: Box<Self>);
    /// Tells the caller that the step did not take place.
    fn fail(self: Box<Self>, failure: Failure);
}

struct Awaited<S: Step> {
    step: S,
    reply: Reply<S::Answer>,
    found: Option<Result<S::Answer, sqlx::Error>>,
}

impl<S: Step> Asked for Awaited<S> {
    fn reads(&self) -> bool {
        S::READS
    }

    fn is_moot(&self) -> bool {
        S::FOR_ITS_CALLER && self.reply.is_closed()
    }

    fn run<'a>(
        &'a mut self,
        records: &'a mut Records,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(async {
            let found = self.step.run(records).await;
            self.found.insert(found).is_ok()
        })
    }

    fn has_failed(&self) -> bool {
        matches!(self.found, Some(Err(_)))
    }

    fn answer(self: Box<Self>) {
        if let Some(found) = self.found {
            let _ = self.reply.send(found.map_err(Into::into));
        }
    }

    fn fail(self: Box<Self>, failure: Failure) {
        let _ = self.reply.send(Err(failure));
    }
}

/// The waiting requests, in order.
pub(super) struct Queue {
    asked: mpsc::Receiver<Request>,
    steps: VecDeque<(Instant, Box<dyn Asked>)>,
    transactions: VecDeque<(Instant, Reply<SqliteTransaction>)>,
    /// Whether no more requests are accepted: the ledger was closed, or all handles are gone.
    closed: bool,
    busy_timeout: Duration,
}

impl Queue {
    /// `busy_timeout`: how long a request waits for others.
    pub(super) fn new(asked: mpsc::Receiver<Request>, busy_timeout: Duration) -> Self {
        Self {
            asked,
            steps: VecDeque::new(),
            transactions: VecDeque::new(),
            closed: false,
            busy_timeout,
        }
    }

    /// Waits until there is something to do. Returns false when there never will be.
    ///
    /// Callers that were just answered are about to request their next step. They run first, as
    /// long as that adds requests, so that all of them share the next flush instead of forming two
    /// groups that alternate. This does not delay: with nothing else to run on this runtime, yielding
    /// returns at once.
    pub(super) async fn gather(&mut self) -> bool {
        if self.is_empty() && !self.closed {
            let request = self.asked.recv().await;
            self.take_in(request);
        }
        loop {
            let before = self.waiting();
            yield_now().await;
            while self.has_room()
                && let Ok(request) = self.asked.try_recv()
            {
                self.take_in(Some(request));
            }
            if self.waiting() == before || self.waiting() >= GROUP {
                return !self.is_empty();
            }
        }
    }

    /// The steps of the next flush.
    pub(super) fn next_group(&mut self) -> Vec<Box<dyn Asked>> {
        let size = self.steps.len().min(GROUP);
        self.steps
            .drain(..size)
            .map(|(_, step)| step)
            .filter(|step| !step.is_moot())
            .collect()
    }

    /// The next handler that gets a transaction.
    pub(super) fn next_transaction(&mut self) -> Option<Reply<SqliteTransaction>> {
        self.turn_away();
        while let Some((_, reply)) = self.transactions.pop_front() {
            if !reply.is_closed() {
                return Some(reply);
            }
        }
        None
    }

    /// Adds a step of the writer itself.
    pub(super) fn put(&mut self, step: impl Step<Answer = ()>) {
        let (reply, _) = oneshot::channel();
        self.take_in(Some(Request::new(Wanted::step(step, reply))));
    }

    /// Waits while a handler holds the connection: accepts requests, and refuses those whose
    /// `busy_timeout` ends. Never resolves.
    pub(super) async fn hold(&mut self) -> Infallible {
        loop {
            let asked_at = [
                self.steps.front().map(|(at, _)| *at),
                self.transactions.front().map(|(at, _)| *at),
            ];
            let due = asked_at
                .into_iter()
                .flatten()
                .min()
                .and_then(|at| at.checked_add(self.busy_timeout));
            let timed_out = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let has_room = self.has_room();
            tokio::select! {
                () = timed_out => self.turn_away(),
                request = self.asked.recv(), if has_room => self.take_in(request),
            }
        }
    }

    fn take_in(&mut self, request: Option<Request>) {
        match request {
            Some(Request {
                asked_at,
                wanted: Wanted::Step(step),
            }) => self.steps.push_back((asked_at, step)),
            Some(Request {
                asked_at,
                wanted: Wanted::Transaction(reply),
            }) => {
                self.transactions.push_back((asked_at, reply));
            }
            Some(Request {
                wanted: Wanted::Close,
                ..
            })
            | None => self.closed = true,
        }
    }

    fn turn_away(&mut self) {
        let Some(limit) = Instant::now().checked_sub(self.busy_timeout) else {
            return;
        };
        let occupied = || {
            Box::new(Occupied {
                busy_timeout: self.busy_timeout,
            })
        };
        while let Some((_, step)) = self.steps.pop_front_if(|(at, _)| *at <= limit) {
            step.fail(occupied());
        }
        while let Some((_, reply)) = self.transactions.pop_front_if(|(at, _)| *at <= limit) {
            let _ = reply.send(Err(occupied()));
        }
    }

    fn waiting(&self) -> usize {
        self.steps.len() + self.transactions.len()
    }

    fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    fn has_room(&self) -> bool {
        !self.closed && self.waiting() < ROOM
    }
}
