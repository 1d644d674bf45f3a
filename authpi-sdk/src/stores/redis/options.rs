//! Options, and the checks of the server when a ledger is opened.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{
    ConnectionInfo, IntoConnectionInfo as _, RedisError, RedisResult, Value, aio::ConnectionLike,
    cmd,
};

use super::{
    Redis, RedisConnection, Shared,
    failure::{self, Unfit},
    record::letter,
    scripts::{CHANGE, CLAIM, FINISH, Loaded, calling},
};
use crate::{
    ledger::{
        Claim, Digest, Ledger, LedgerError, LedgerErrorKind, RecordState, open_check::probe_ledger,
        probe,
    },
    stores::timeout::{BadName, Nonces},
};

/// Options of a [`Redis`] ledger, set before it is opened.
#[derive(Clone, Debug)]
#[must_use = "does nothing until `open` or `connect`"]
pub struct RedisOptions {
    pub(super) prefix: String,
    pub(super) retention: Duration,
    pub(super) timeout: Duration,
}

impl RedisOptions {
    /// The prefix of every key (default `authpi:`). Ledgers with different prefixes are
    /// independent, unless one prefix begins with the other. 1 to 100 ASCII letters, digits and
    /// `:._/-`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long handled and dead records are kept (default 30 days), counted from the end of the
    /// lease under which they were finished. The expiry is set by a record's claim, or by its last
    /// renewal or release.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// The time limit of a step (default 5 s). A connection of your own may have a shorter one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the ledger with `connection`, of which each step uses a clone.
    ///
    /// # Errors
    /// As for [`Redis::open`]; and when the prefix is invalid.
    pub async fn open<C>(self, connection: C) -> Result<Redis<C>, LedgerError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.open_over(connection, None).await
    }

    /// Opens the ledger with its own connection.
    ///
    /// # Errors
    /// As for [`Redis::connect`]; and when the prefix is invalid.
    pub async fn connect(self, url: &str) -> Result<Redis, LedgerError> {
        let connection = self.connection(url)?;
        self.open_over(connection.clone(), Some(connection)).await
    }

    /// A connection of the ledger's own, which connects with the first step.
    pub(super) fn connection(&self, url: &str) -> Result<RedisConnection, LedgerError> {
        let client = self
            .server(url)
            .and_then(redis::Client::open)
            .map_err(|error| LedgerError::new(OPEN, error))?;
        Ok(RedisConnection::new(client, self.timeout))
    }

    async fn open_over<C>(
        self,
        connection: C,
        own: Option<RedisConnection>,
    ) -> Result<Redis<C>, LedgerError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        let ledger = self.over(connection, own)?;
        ledger.check_role().await?;
        ledger.check_version().await?;
        ledger.check_scripts().await?;
        probe_ledger(&ledger).await?;
        Ok(ledger)
    }

    /// The ledger, not yet proven to work.
    pub(super) fn over<C>(
        self,
        connection: C,
        own: Option<RedisConnection>,
    ) -> Result<Redis<C>, LedgerError> {
        let usable = |c: char| c.is_ascii_alphanumeric() || ":._/-".contains(c);
        if !(1..=100).contains(&self.prefix.len()) || !self.prefix.chars().all(usable) {
            let allowed = "ASCII letters, digits and :._/-, 1 to 100 of them";
            return Err(LedgerError::new(
                OPEN,
                BadName {
                    what: "a prefix of keys",
                    name: self.prefix,
                    allowed,
                },
            ));
        }
        let shared = Shared {
            own,
            prefix: self.prefix,
            retention: self.retention,
            timeout: self.timeout,
            nonces: Nonces::default(),
            claim: Loaded::new(CLAIM),
            change: Loaded::new(CHANGE),
            handled: Loaded::new(FINISH.replace("STATE", letter(RecordState::Handled))),
            dead: Loaded::new(FINISH.replace("STATE", letter(RecordState::Dead))),
        };
        Ok(Redis {
            connection,
            shared: Arc::new(shared),
        })
    }

    /// Adds a limit to how long the kernel waits for a host that has disappeared.
    fn server(&self, url: &str) -> Result<ConnectionInfo, RedisError> {
        let server = url.into_connection_info()?;
        let settings = server.tcp_settings().clone();
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(self.timeout);
        Ok(server.set_tcp_settings(settings))
    }
}

pub(super) const DEFAULT_PREFIX: &str = "authpi:";
pub(super) const OPEN: &str = "open";

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Redis<C> {
    /// Refuses a server that would refuse most steps, although it may accept some.
    async fn check_role(&self) -> Result<(), LedgerError> {
        // The caller's connection may be one to a cluster, and ask any of its nodes.
        if self.shared.own.is_none() {
            return Ok(());
        }
        let unfit = self
            .step(OPEN, true, || async { Ok(self.unfit().await?) })
            .await?;
        unfit.map_or(Ok(()), |unfit| {
            Err(LedgerError::new(OPEN, unfit).with_kind(LedgerErrorKind::CannotWrite))
        })
    }

    pub(super) async fn unfit(&self) -> RedisResult<Option<Unfit>> {
        let mut connection = self.connection.clone();
        let is = |value: Option<&Value>, name: &[u8]| match value {
            Some(Value::BulkString(text)) => text == name,
            Some(Value::SimpleString(text)) => text.as_bytes() == name,
            _ => false,
        };
        // Old servers and some proxies do not know it, or do not allow it.
        let asked: RedisResult<HashMap<String, Value>> =
            cmd("HELLO").query_async(&mut connection).await;
        let unknown = match asked {
            Ok(hello) => {
                let (mode, role) = (hello.get("mode"), hello.get("role"));
                return Ok(if is(mode, b"cluster") {
                    Some(Unfit::Cluster)
                } else if is(mode, b"sentinel") {
                    Some(Unfit::Sentinel)
                } else if is(role, b"replica") || is(role, b"slave") {
                    Some(Unfit::Replica)
                } else {
                    None
                });
            }
            Err(error) => error,
        };
        if unknown.is_io_error() || failure::cannot_serve(&unknown) {
            return Err(unknown);
        }
        let role: RedisResult<Vec<Value>> = cmd("ROLE").query_async(&mut connection).await;
        Ok(role
            .ok()
            .filter(|role| is(role.first(), b"slave"))
            .map(|_| Unfit::Replica))
    }

    /// Tries the command that older servers do not know.
    async fn check_version(&self) -> Result<(), LedgerError> {
        let key = probe::probe_key();
        let set = cmd("SET")
            .arg(self.key(&key))
            .arg("")
            .arg("NX")
            .arg("GET")
            .arg("PX")
            .arg(10_000)
            .to_owned();
        let set = || async {
            match set
                .query_async::<Option<Vec<u8>>>(&mut self.connection.clone())
                .await
            {
                Err(error)
                    if error
                        .detail()
                        .is_some_and(|detail| detail.contains("syntax")) =>
                {
                    Err(Unfit::TooOld(error).into())
                }
                done => Ok(done.map(drop)?),
            }
        };
        self.step(OPEN, true, set).await?;
        // Removes the key now. Otherwise it would expire later, and the server would write that to
        // its file.
        self.forget(&key).await.map(drop)
    }

    /// Tries everything that steps may need: a script by its text, as after a restart of the
    /// server, and by its hash.
    async fn check_scripts(&self) -> Result<(), LedgerError> {
        let (key, lease) = (probe::probe_key(), Duration::from_secs(10));
        let name = self.key(&key);
        let load = || async {
            let call = calling("EVAL", &self.shared.change.text, &name, &["", "", "", ""]);
            Ok(call
                .query_async::<i64>(&mut self.connection.clone())
                .await?)
        };
        self.step(OPEN, true, load).await?;
        let tried = async {
            if let Claim::Granted { token, .. } =
                Ledger::claim(self, &key, Digest::UNCOMPARED, lease).await?
            {
                Ledger::claim(self, &key, Digest::UNCOMPARED, lease).await?;
                // A lost lease is fine too.
                let _held = self.release(&key, token, Duration::ZERO).await?;
            }
            Ok(())
        };
        let tried = tried.await;
        let forgotten = self.forget(&key).await;
        tried.and(forgotten.map(drop))
    }
}
