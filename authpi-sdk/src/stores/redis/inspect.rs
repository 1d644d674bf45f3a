//! Reads the keys without changing them: `GET`, `PTTL` and `SCAN`.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use redis::cmd;

use super::{
    Redis, RedisOptions,
    failure::{Foreign, StepError, Unfit, is_denied},
    options::OPEN,
    record::Record,
};
use crate::{
    ledger::{
        DeadLetter, Digest, EventKey, LedgerError, RecordState,
        inspect::{
            Counts, Cursor, Filter, InspectError, InspectErrorKind, Inspector, RecordPage,
            RecordView, Status,
        },
    },
    stores::inspect::{invalid_cursor, needs_scan, scan_limit},
};

/// An [`Inspector`] of the records of a [`Redis`] ledger.
///
/// - **Writes nothing.** It needs the commands `GET`, `PTTL` and `SCAN`, and those of a connection
///   (`HELLO`, `SELECT`). So a user with `+@read +@connection` and a replica are enough. A replica
///   shows what it has replicated.
/// - **No index.** [`get`](Inspector::get) reads one key. Everything else has to walk through the
///   keys of the whole database, and fails with [`NeedsScan`](InspectErrorKind::NeedsScan) unless
///   that is [allowed](Self::scan).
/// - **No times.** A record has no times, so a list has no order, and there are no ages.
/// - **No dead letters**, and no inbox.
/// - **Never hangs.** Each command fails after the [`timeout`](RedisOptions::timeout) (default
///   5 s).
/// - **No tables.** Whether there is a ledger under the prefix shows only when records are found.
///
/// The server is a single one, not a node of a cluster, whose keys would be a part of all.
///
/// ```no_run
/// # use authpi_sdk::{ledger::inspect::Inspector, stores::Redis};
/// # async fn shown() -> Result<(), Box<dyn std::error::Error>> {
/// let inspector = Redis::inspect("redis://127.0.0.1").await?.scan(true);
/// println!("{:?}", inspector.endpoints().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisInspector {
    /// Only used to read.
    ledger: Redis,
    scan: bool,
    scan_limit: u32,
}

impl Redis {
    /// Connects to `redis://user:password@host:port/database` to read records.
    ///
    /// # Errors
    /// When the URL is invalid; when the server cannot be reached or refuses the login; when it is
    /// a Sentinel or a node of a cluster.
    pub async fn inspect(url: &str) -> Result<RedisInspector, InspectError> {
        Self::options().inspect(url).await
    }
}

impl RedisOptions {
    /// Connects to read records. The [`retention`](Self::retention) has no effect.
    ///
    /// # Errors
    /// As for [`Redis::inspect`]; and when the prefix is invalid.
    pub async fn inspect(self, url: &str) -> Result<RedisInspector, InspectError> {
        let connection = self.connection(url)?;
        let ledger = self.over(connection.clone(), Some(connection))?;
        let unfit = ledger
            .step(OPEN, true, || async { Ok(ledger.unfit().await?) })
            .await?;
        match unfit {
            None | Some(Unfit::Replica | Unfit::TooOld(_)) => Ok(RedisInspector {
                ledger,
                scan: false,
                scan_limit: RedisInspector::DEFAULT_SCAN_LIMIT,
            }),
            Some(Unfit::Cluster) => Err(InspectError::new(
                InspectErrorKind::Incompatible,
                "the server is a node of a cluster, which has a part of the keys; inspecting a \
                 cluster is not supported",
            )),
            Some(unfit @ Unfit::Sentinel) => Err(InspectError::new(
                InspectErrorKind::Incompatible,
                unfit.to_string(),
            )),
        }
    }
}

/// The keys that one `SCAN` examines at least.
const KEYS_PER_SCAN: u32 = 1_000;
/// The keys that are examined for one page of a list, about, and the `SCAN`s for that.
const KEYS_PER_PAGE: u32 = 100_000;
const SCANS_PER_PAGE: u32 = 1_000;
/// Between two commands for the same key, another step may take place.
const TRIES: u32 = 5;

impl RedisInspector {
    /// The default of [`scan_limit`](Self::scan_limit).
    pub const DEFAULT_SCAN_LIMIT: u32 = 1_000_000;

    /// Whether it may walk through all keys of the database (default false). A walk is made of
    /// `SCAN`s of about 1,000 keys, between which the server serves others. Records that come or go
    /// meanwhile may be missed.
    #[must_use]
    pub fn scan(self, allowed: bool) -> Self {
        Self {
            scan: allowed,
            ..self
        }
    }

    /// How many keys of the database [`endpoints`](Inspector::endpoints) and
    /// [`status`](Inspector::status) examine, about (default 1,000,000), before they fail with
    /// [`ScanLimit`](InspectErrorKind::ScanLimit). Keys of other programs count too.
    #[must_use]
    pub fn scan_limit(self, keys: u32) -> Self {
        Self {
            scan_limit: keys,
            ..self
        }
    }

    fn may_scan(&self) -> Result<(), InspectError> {
        if self.scan {
            Ok(())
        } else {
            Err(needs_scan(
                "redis has no index, so this walks through all keys of the database",
            ))
        }
    }

    fn prefix(&self) -> &str {
        &self.ledger.shared.prefix
    }

    /// The pattern of the keys of an endpoint, or of all.
    fn pattern(&self, endpoint: Option<&str>) -> String {
        let prefix = escaped(self.prefix());
        match endpoint {
            Some(endpoint) => format!("{prefix}{}:{}:*", endpoint.len(), escaped(endpoint)),
            None => prefix + "*",
        }
    }

    /// The next keys of the ledger, and where to continue; zero at the end.
    async fn keys(
        &self,
        from: u64,
        pattern: &str,
        count: u32,
    ) -> Result<(u64, Vec<EventKey>), InspectError> {
        let scan = || async {
            let found: (u64, Vec<Vec<u8>>) = cmd("SCAN")
                .arg(from)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(count)
                .query_async(&mut self.ledger.connection.clone())
                .await?;
            Ok(found)
        };
        let (next, keys) = self
            .ledger
            .step("scan", true, scan)
            .await
            .map_err(explained)?;
        let keys = keys.iter().filter_map(|key| read_key(self.prefix(), key));
        Ok((next, keys.collect()))
    }

    /// Walks through all keys of the pattern, each once.
    async fn walk(
        &self,
        pattern: &str,
        mut each: impl FnMut(&EventKey) -> bool + Send,
    ) -> Result<Vec<EventKey>, InspectError> {
        let (hasher, mut seen) = (RandomState::new(), HashSet::new());
        let (mut from, mut kept) = (0, Vec::new());
        for _ in 0..self.scan_limit.div_ceil(KEYS_PER_SCAN) {
            let (next, keys) = self.keys(from, pattern, KEYS_PER_SCAN).await?;
            for key in keys {
                // The server may return a key more than once.
                if seen.insert(hasher.hash_one(&key)) && each(&key) {
                    kept.push(key);
                }
            }
            from = next;
            if from == 0 {
                return Ok(kept);
            }
        }
        Err(scan_limit(self.scan_limit, "keys"))
    }

    /// The records of these keys, and their remaining time in ms; without those that are gone.
    async fn records(&self, keys: &[EventKey]) -> Result<Vec<Found>, InspectError> {
        let mut found = Vec::with_capacity(keys.len());
        let mut left: Vec<&EventKey> = keys.iter().collect();
        for _ in 0..TRIES {
            if left.is_empty() {
                break;
            }
            let mut again = Vec::new();
            for keys in left.chunks(KEYS_PER_SCAN as usize) {
                let answers = self.ask(keys).await?;
                for (key, (before, remaining, after)) in keys.iter().zip(answers) {
                    match (before, after) {
                        (Some(before), Some(after)) if before == after => {
                            found.push(Found::read((*key).clone(), &before, remaining)?);
                        }
                        (None, None) => {}
                        _ => again.push(*key),
                    }
                }
            }
            left = again;
        }
        if left.is_empty() {
            Ok(found)
        } else {
            Err(InspectError::new(
                InspectErrorKind::Failed,
                "a record was changed each time it was read; try again",
            ))
        }
    }

    /// Each key's value, its remaining time, and its value again.
    async fn ask(&self, keys: &[&EventKey]) -> Result<Vec<Answer>, InspectError> {
        let mut pipeline = redis::pipe();
        for key in keys {
            let key = self.ledger.key(key);
            pipeline.get(&key).pttl(&key).get(&key);
        }
        let ask = || async {
            let mut connection = self.ledger.connection.clone();
            Ok::<Vec<redis::Value>, StepError>(pipeline.query_async(&mut connection).await?)
        };
        let values = self.ledger.step("get a record", true, ask);
        let values = values.await.map_err(explained)?;
        values
            .chunks_exact(3)
            .map(|three| redis::from_redis_value(redis::Value::Array(three.to_vec())))
            .collect::<Result<_, _>>()
            .map_err(|error| LedgerError::new("get a record", error).into())
    }
}

type Answer = (Option<Vec<u8>>, i64, Option<Vec<u8>>);

struct Found {
    key: EventKey,
    record: Record,
    /// Of the lease or pause.
    left: Duration,
}

impl Found {
    fn read(key: EventKey, value: &[u8], remaining: i64) -> Result<Self, InspectError> {
        let record = Record::read(value).map_err(|foreign: Foreign| {
            InspectError::new(InspectErrorKind::Incompatible, foreign.to_string())
        })?;
        let left = remaining.saturating_sub(record.retention);
        Ok(Self {
            key,
            left: Duration::from_millis(left.try_into().unwrap_or(0)),
            record,
        })
    }

    fn view(self) -> RecordView {
        let Record {
            state,
            token,
            first_digest,
            ..
        } = self.record;
        let mut view = RecordView::new(self.key, state);
        view.attempts = Some(token.attempt);
        view.lease_left = (state == RecordState::Claimed).then_some(self.left);
        view.pause_left = (state == RecordState::Pending).then_some(self.left);
        view.compared = Some(first_digest != Digest::UNCOMPARED);
        view.body_kept = Some(false);
        view
    }
}

/// Adds what to do to an error of the server.
fn explained(error: LedgerError) -> InspectError {
    let mut causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
    let denied = causes.any(|cause| cause.downcast_ref().is_some_and(is_denied));
    if denied {
        InspectError::new(
            InspectErrorKind::Denied,
            "redis denies a command: inspecting needs GET, PTTL and SCAN",
        )
        .with_source(error)
    } else {
        error.into()
    }
}

/// A text as a pattern that only matches itself.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '*' | '?' | '[' | ']') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// The key of a record; `None` for a key that the ledger has not written, and for that of a probe.
fn read_key(prefix: &str, key: &[u8]) -> Option<EventKey> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    let (length, rest) = rest.split_once(':')?;
    let length: usize = length.parse().ok().filter(|&length| length > 0)?;
    let endpoint = rest.get(..length)?;
    let event_id = rest.get(length..)?.strip_prefix(':')?;
    Some(EventKey::from_stored(endpoint, event_id))
}

impl fmt::Debug for RedisInspector {
    /// Omits the connection, which contains a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisInspector")
            .field("prefix", &self.prefix())
            .field("scan", &self.scan)
            .field("scan_limit", &self.scan_limit)
            .finish_non_exhaustive()
    }
}

impl Inspector for RedisInspector {
    async fn endpoints(&self) -> Result<Vec<String>, InspectError> {
        self.may_scan()?;
        let mut endpoints = BTreeSet::new();
        let note = |key: &EventKey| {
            if !endpoints.contains(key.endpoint()) {
                endpoints.insert(key.endpoint().to_owned());
            }
            false
        };
        self.walk(&self.pattern(None), note).await?;
        Ok(endpoints.into_iter().collect())
    }

    async fn get(&self, key: &EventKey) -> Result<Option<RecordView>, InspectError> {
        let found = self.records(std::slice::from_ref(key)).await?;
        Ok(found.into_iter().next().map(Found::view))
    }

    async fn dead_letter(&self, _: &EventKey) -> Result<Option<DeadLetter>, InspectError> {
        Err(InspectError::new(
            InspectErrorKind::NotKept,
            "Redis keeps no dead letters: an event that was given up is only remembered as dead",
        ))
    }

    /// A page may have a few records more than the limit, and a record may come twice.
    async fn list(&self, filter: &Filter) -> Result<RecordPage, InspectError> {
        self.may_scan()?;
        let mut from = match &filter.before {
            None => 0,
            Some(cursor) => cursor
                .as_str()
                .strip_prefix("scan:")
                .and_then(|from| from.parse().ok())
                .ok_or_else(invalid_cursor)?,
        };
        let pattern = self.pattern(Some(&filter.endpoint));
        let limit = filter.bounded_limit();
        let mut records = Vec::new();
        // One `SCAN` cannot be continued half-way, so each returns about as many keys as fit.
        for _ in 0..(KEYS_PER_PAGE / limit).min(SCANS_PER_PAGE) {
            let (next, keys) = self.keys(from, &pattern, limit).await?;
            let found = self.records(&keys).await?.into_iter();
            let is_wanted =
                |found: &Found| filter.state.is_none_or(|state| state == found.record.state);
            records.extend(found.filter(is_wanted).map(Found::view));
            from = next;
            if from == 0 || records.len() >= limit as usize {
                break;
            }
        }
        let next = (from != 0).then(|| Cursor::new(format!("scan:{from}")));
        Ok(RecordPage::new(records, next))
    }

    async fn status(&self, endpoint: &str) -> Result<Status, InspectError> {
        self.may_scan()?;
        let keys = self.walk(&self.pattern(Some(endpoint)), |_| true).await?;
        let (mut counts, mut in_flight) = (Counts::default(), 0);
        for keys in keys.chunks(KEYS_PER_SCAN as usize) {
            for found in self.records(keys).await? {
                let state = found.record.state;
                counts.add(state);
                in_flight += u64::from(state == RecordState::Claimed && !found.left.is_zero());
            }
        }
        let mut status = Status::new(endpoint);
        status.counts = Some(counts);
        status.leases_in_flight = Some(in_flight);
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_the_ledger_are_read_as_records() {
        let key = |text: &str| read_key("authpi:", text.as_bytes());
        assert_eq!(
            key("authpi:5:users:evt_1"),
            Some(EventKey::new("users", "evt_1"))
        );
        assert_eq!(key("authpi:3:a:b:c:d"), Some(EventKey::new("a:b", "c:d")));
        assert_eq!(key("authpi:2:é:x"), Some(EventKey::new("é", "x")));
        for other in [
            "",
            "authpi:",
            "authpi:5:users",
            "authpi:6:users:evt_1",
            "authpi:1:é:x",
            "authpi:0::probe-1",
            "other:5:users:evt_1",
            "authpi:-1:a:b",
        ] {
            assert_eq!(key(other), None, "{other}");
        }
        assert_eq!(read_key("authpi:", b"authpi:1:\xff:x"), None);
    }

    #[test]
    fn a_pattern_only_matches_its_own_text() {
        assert_eq!(escaped(r"a*b?[c]\d"), r"a\*b\?\[c\]\\d");
    }
}
