//! The ledger's own connection: one at a time, replaced when it breaks or leads to a server that
//! cannot serve.
//!
//! The connection manager of the `redis` crate only replaces a connection for I/O errors. It keeps
//! a connection to a server that has become a replica, and never tries again after the server has
//! refused the password.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::failure::{Unconnected, cannot_serve};

/// The connection of a [`Redis`](super::Redis) ledger that was opened by
/// [`connect`](super::Redis::connect). Clones share it.
///
/// It is replaced when it breaks, when a step got no answer in time, and when the server answers
/// that it cannot serve: it is read-only, loading its data, without its primary, replicas or
/// memory. Connecting is retried until it succeeds, at most a second apart.
#[derive(Clone)]
pub struct RedisConnection {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    config: AsyncConnectionConfig,
    /// Host and port, or the path of a socket.
    server: String,
    link: Mutex<Link>,
    /// The number of consecutive connections that failed or were useless.
    failures: AtomicU32,
}

enum Link {
    Up(Up),
    Connecting {
        /// The error of the previous attempt.
        failed: watch::Receiver<Option<RedisError>>,
        task: JoinHandle<()>,
    },
    Down,
}

#[derive(Clone)]
struct Up {
    connection: MultiplexedConnection,
    since: Instant,
}

impl RedisConnection {
    /// Connects with the first step.
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(timeout));
        let server = client.get_connection_info().addr().to_string();
        let (link, failures) = (Mutex::new(Link::Down), AtomicU32::new(0));
        Self {
            shared: Arc::new(Shared {
                client,
                config,
                server,
                link,
                failures,
            }),
        }
    }

    pub(super) fn server(&self) -> &str {
        &self.shared.server
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    /// When the server refuses it. A server that cannot be reached is retried as long as the caller
    /// waits.
    pub(super) async fn connected(&self) -> Result<(), Unconnected> {
        self.up()
            .await
            .map(drop)
            .map_err(|error| self.unconnected(Some(error)))
    }

    /// A step that began then had no answer in time. Returns why, if known.
    pub(super) fn unanswered(&self, began: Instant) -> Option<Unconnected> {
        let mut link = self.shared.link();
        match &*link {
            Link::Up(up) if up.since <= began => {
                self.shared.failed();
                *link = Link::Down;
                None
            }
            Link::Up(_) => None,
            Link::Connecting { failed, .. } => Some(self.unconnected(failed.borrow().clone())),
            Link::Down => Some(self.unconnected(None)),
        }
    }

    fn unconnected(&self, error: Option<RedisError>) -> Unconnected {
        Unconnected {
            server: self.shared.server.clone(),
            error,
        }
    }

    async fn up(&self) -> RedisResult<Up> {
        loop {
            let mut failed = {
                let mut link = self.shared.link();
                match &*link {
                    Link::Up(up) => return Ok(up.clone()),
                    // A finished task while the link is still `Connecting` has lost its runtime;
                    // the next arm starts another.
                    Link::Connecting { failed, task } if !task.is_finished() => failed.clone(),
                    Link::Connecting { .. } | Link::Down => {
                        let (sender, failed) = watch::channel(None);
                        let task = tokio::spawn(connect(Arc::downgrade(&self.shared), sender));
                        *link = Link::Connecting {
                            failed: failed.clone(),
                            task,
                        };
                        failed
                    }
                }
            };
            while failed.changed().await.is_ok() {
                match &*failed.borrow_and_update() {
                    Some(error) if !passes(error) => return Err(error.clone()),
                    _ => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let mut again = false;
        loop {
            let mut up = self.up().await?;
            let answer = up
                .connection
                .send_packed_command(command)
                .await
                .and_then(Value::extract_error);
            let Err(error) = answer else {
                self.shared.served();
                return answer;
            };
            // A server that answers that it cannot serve has not run the step, so the step is
            // retried once. It is not retried if an earlier connection was dropped too and no step
            // has been served since.
            let refused = cannot_serve(&error);
            let broken = error.is_io_error() || error.is_unrecoverable_error();
            if !refused && !broken {
                self.shared.served();
                return Err(error);
            }
            let first = self.shared.discard(&up) <= 1;
            if !(refused && first) || again {
                return Err(error);
            }
            again = true;
        }
    }
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        // It is consistent even if a thread panicked while it was locked.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self) {
        // Only written if it changes: this is on the path of every step.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    fn failed(&self) -> u32 {
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        failures
    }

    /// Drops this connection, unless it was replaced meanwhile. Returns how many consecutive
    /// connections were dropped without having served a step.
    fn discard(&self, up: &Up) -> u32 {
        let mut link = self.link();
        match &*link {
            Link::Up(current) if current.since == up.since => {
                *link = Link::Down;
                self.failed()
            }
            _ => self.failures.load(Ordering::Relaxed),
        }
    }
}

/// Retries until there is a connection, or the server refuses it.
async fn connect(shared: Weak<Shared>, failed: watch::Sender<Option<RedisError>>) {
    loop {
        let Some(failures) = shared
            .upgrade()
            .map(|shared| shared.failures.load(Ordering::Relaxed))
        else {
            return;
        };
        sleep(pause(failures)).await;
        // The ledger may be gone.
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match shared
            .client
            .get_multiplexed_async_connection_with_config(&shared.config)
            .await
        {
            Ok(connection) => {
                *shared.link() = Link::Up(Up {
                    connection,
                    since: Instant::now(),
                });
                return;
            }
            Err(error) => {
                shared.failed();
                let passes = passes(&error);
                tracing::debug!(server = shared.server, %error, "could not connect to redis");
                if !passes {
                    *shared.link() = Link::Down;
                }
                failed.send_replace(Some(error));
                if !passes {
                    return;
                }
            }
        }
    }
}

/// Whether waiting may help.
fn passes(error: &RedisError) -> bool {
    error.is_io_error()
}

/// The pause before the next attempt: none for the first two, then from 10 ms to a second.
fn pause(failures: u32) -> Duration {
    const BACKOFF_MAX: Duration = Duration::from_secs(1);
    match failures {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(10 << (more - 2).min(10)).min(BACKOFF_MAX),
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send(command))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut up = self.up().await?;
            let answers = up
                .connection
                .send_packed_commands(pipeline, offset, count)
                .await;
            if let Err(error) = &answers
                && (cannot_serve(error) || error.is_io_error() || error.is_unrecoverable_error())
            {
                self.shared.discard(&up);
            }
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.shared
            .client
            .get_connection_info()
            .redis_settings()
            .db()
    }
}

impl fmt::Debug for RedisConnection {
    /// Leaves the client out: there is a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second() {
        assert_eq!(
            [0, 1, 2, 3, 8, 9, 1000, u32::MAX]
                .map(pause)
                .map(|pause| pause.as_millis()),
            [0, 0, 10, 20, 640, 1000, 1000, 1000]
        );
    }
}
