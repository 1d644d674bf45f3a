//! The ledger in memory: records of this process, bounded, lost at exit.
//!
//! Records are in a slab of fixed chunks, so growing never copies them. An index from a 32-bit hash
//! to the slab finds them (keys that collide are chained and compared). Three lists through the
//! slab (claimed, pending, finished, each oldest first) let claims prune and evict in constant
//! time, without a thread.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    Clock,
    ledger::{
        Claim, Completion, DEFAULT_RETENTION, Digest, EventKey, LeaseStatus, Ledger, LedgerError,
        RecordState, Token,
    },
    telemetry,
};

/// A [`Ledger`] in memory: for tests, for development, and for services whose handlers may repeat
/// after a restart.
///
/// Clones share the records. It keeps no dead letters: the record of an event that was given up is
/// kept, its body is not.
///
/// - **Bounded.** It holds at most [`with_capacity`](Memory::with_capacity) records (default
///   1,000,000). At capacity, a claim of a new event evicts the record that was finished longest
///   ago; a duplicate of that event would be handled again. If no record is finished, it evicts one
///   that waits for its next attempt, whose attempts are then counted from 1 again, or else one
///   with an expired lease. A record under a running lease is never evicted: if there are no
///   others, the claim fails. The first eviction is logged as a warning;
///   `authpi_memory_evictions_total` and [`evicted`](Memory::evicted) count all of them.
/// - **Small.** About 155 bytes per record with an id of 30 bytes (measured with 10³ to 10⁷
///   records).
/// - **Flat.** A step takes about a microsecond at most, however many records there are.
///
/// Its clock is monotonic: setting the system's time neither ends nor prolongs a lease.
#[derive(Clone)]
pub struct Memory {
    records: Arc<Mutex<Records>>,
}

impl Memory {
    /// The default of [`with_capacity`](Memory::with_capacity).
    pub const DEFAULT_CAPACITY: usize = 1_000_000;

    /// An empty ledger with the default capacity, retention and clock.
    pub fn new() -> Self {
        Self {
            records: Arc::new(Mutex::new(Records::new())),
        }
    }

    /// Sets the maximum number of records, for all clones (default 1,000,000; at least 1, at most
    /// 2³² − 2).
    #[must_use]
    pub fn with_capacity(self, records: usize) -> Self {
        let mut held = self.lock();
        held.capacity = records.clamp(1, NONE as usize - 1);
        let now = held.now();
        while held.used > held.capacity && held.evict_one(now) {}
        drop(held);
        self
    }

    /// Sets how long a handled or dead record is kept, for all clones (default 30 days).
    #[must_use]
    pub fn with_retention(self, retention: Duration) -> Self {
        self.lock().retention = retention;
        self
    }

    /// Sets the clock, for all clones (default: a monotonic clock). For tests; set it before the
    /// first claim.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        self.lock().time = Time::Of(clock);
        self
    }

    /// The current number of records, in any state.
    pub fn len(&self) -> usize {
        self.lock().used
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records were evicted before their retention ended. If this is not zero, the
    /// capacity is too small for the retention.
    pub fn evicted(&self) -> u64 {
        self.lock().evicted
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // No step panics half-way, so the records are consistent even if the lock is poisoned (by a
        // user's clock that panicked).
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.lock();
        f.debug_struct("Memory")
            .field("records", &held.used)
            .field("capacity", &held.capacity)
            .field("retention", &held.retention)
            .finish_non_exhaustive()
    }
}

impl Ledger for Memory {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        self.lock().claim(key, digest, lease)
    }

    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        Ok(self.lock().renew(key, token, lease))
    }

    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        let state = match completion {
            Completion::Handled => RecordState::Handled,
            Completion::Dead { .. } => RecordState::Dead,
        };
        Ok(self.lock().complete(key, token, state))
    }

    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        Ok(self.lock().release(key, token, pause))
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        Ok(self.lock().forget(key))
    }

    fn keeps_dead_letters(&self) -> bool {
        false
    }

    fn retention(&self) -> Duration {
        self.lock().retention
    }
}

/// Every record is claimed, so there is no room for another one.
#[derive(Debug)]
struct AllClaimed {
    capacity: usize,
}

impl fmt::Display for AllClaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "all {} records in memory are claimed; raise the capacity or lower the number of events in flight",
            self.capacity
        )
    }
}

impl std::error::Error for AllClaimed {}

/// The maximum number of outdated records of each list that a claim removes. More than one, so that
/// pruning catches up.
const PRUNED_PER_CLAIM: usize = 2;
/// How many records a claim at capacity checks for an expired lease.
const CLAIMS_LOOKED_THROUGH: usize = 64;
/// The end of a list or chain.
const NONE: u32 = u32::MAX;
/// Records per chunk of the slab (about 350 KiB).
const CHUNK: usize = 1 << 12;

/// The list that records of a state are in.
const fn list_of(state: RecordState) -> usize {
    match state {
        RecordState::Claimed => CLAIMED,
        RecordState::Pending => PENDING,
        RecordState::Handled | RecordState::Dead => FINISHED,
    }
}

const CLAIMED: usize = 0;
const PENDING: usize = 1;
const FINISHED: usize = 2;

struct Record {
    event_id: Box<str>,
    first_digest: Digest,
    nonce: u64,
    /// In microseconds: when the lease or the pause ends, or when the record was finished.
    at: i64,
    attempt: u32,
    /// An index into `Records::endpoints`.
    endpoint: u32,
    /// The neighbours in the list of its state.
    older: u32,
    newer: u32,
    /// The next record with the same hash.
    chained: u32,
    state: RecordState,
}

#[derive(Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
}

/// An endpoint's name, stored once for all of its records.
struct Endpoint {
    name: Arc<str>,
    records: usize,
}

struct Records {
    capacity: usize,
    retention: Duration,
    time: Time,
    /// Keyed randomly per ledger, so that a sender cannot choose ids that collide.
    hashes: RandomState,
    index: HashMap<u32, u32, BuildHasherDefault<Spread>>,
    chunks: Vec<Vec<Record>>,
    free: Vec<u32>,
    lists: [List; 3],
    endpoints: Vec<Endpoint>,
    used: usize,
    /// How many claims were granted, modulo 2³².
    minted: u32,
    evicted: u64,
    /// Whether the first eviction was logged.
    said_so: bool,
}

impl Records {
    fn new() -> Self {
        Self {
            capacity: Memory::DEFAULT_CAPACITY,
            retention: DEFAULT_RETENTION,
            time: Time::SinceStart(Instant::now()),
            hashes: RandomState::new(),
            index: HashMap::default(),
            chunks: Vec::new(),
            free: Vec::new(),
            lists: [List {
                oldest: NONE,
                newest: NONE,
            }; 3],
            endpoints: Vec::new(),
            used: 0,
            minted: 0,
            evicted: 0,
            said_so: false,
        }
    }

    fn now(&self) -> i64 {
        match &self.time {
            Time::SinceStart(start) => micros(start.elapsed()),
            Time::Of(clock) => clock.now().as_microsecond(),
        }
    }

    fn claim(
        &mut self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        let now = self.now();
        let retention = micros(self.retention);
        self.prune(now, retention);
        let hash = self.hash(key.endpoint(), key.event_id());
        if let Some(slot) = self.find(hash, key) {
            let record = self.get(slot);
            let first_digest = record.first_digest;
            let left = Duration::from_micros(record.at.saturating_sub(now).try_into().unwrap_or(0));
            match record.state {
                RecordState::Claimed if !left.is_zero() => {
                    return Ok(Claim::InFlight { lease_left: left });
                }
                RecordState::Pending if !left.is_zero() => return Ok(Claim::NotYet { wait: left }),
                RecordState::Claimed | RecordState::Pending => {
                    let nonce = self.mint(slot);
                    let record = self.get_mut(slot);
                    record.attempt = record.attempt.saturating_add(1);
                    record.nonce = nonce;
                    let token = record.token();
                    self.enter(
                        slot,
                        RecordState::Claimed,
                        now.saturating_add(micros(lease)),
                    );
                    return Ok(Claim::Granted {
                        token,
                        first_digest,
                    });
                }
                RecordState::Handled if record.at.saturating_add(retention) > now => {
                    return Ok(Claim::Handled { first_digest });
                }
                RecordState::Dead if record.at.saturating_add(retention) > now => {
                    return Ok(Claim::Dead { first_digest });
                }
                // Its retention has ended, but it is not pruned yet: treated as if it were gone.
                RecordState::Handled | RecordState::Dead => self.remove(slot),
            }
        }
        while self.used >= self.capacity {
            if !self.evict_one(now) {
                return Err(LedgerError::new(
                    "claim",
                    AllClaimed {
                        capacity: self.capacity,
                    },
                ));
            }
        }
        Ok(Claim::Granted {
            token: self.insert(hash, key, digest, now.saturating_add(micros(lease))),
            first_digest: digest,
        })
    }

    fn renew(&mut self, key: &EventKey, token: Token, lease: Duration) -> LeaseStatus {
        let Some(slot) = self.held(key, token) else {
            return LeaseStatus::Lost;
        };
        let until = self.now().saturating_add(micros(lease));
        self.enter(slot, RecordState::Claimed, until);
        LeaseStatus::Held
    }

    fn complete(&mut self, key: &EventKey, token: Token, state: RecordState) -> LeaseStatus {
        let Some(slot) = self.slot_of(key, token) else {
            return LeaseStatus::Lost;
        };
        let current = self.get(slot).state;
        if current == RecordState::Claimed {
            let now = self.now();
            self.enter(slot, state, now);
            return LeaseStatus::Held;
        }
        // Completing again as before changes nothing.
        if current == state {
            LeaseStatus::Held
        } else {
            LeaseStatus::Lost
        }
    }

    fn release(&mut self, key: &EventKey, token: Token, pause: Duration) -> LeaseStatus {
        let Some(slot) = self.held(key, token) else {
            return LeaseStatus::Lost;
        };
        let until = self.now().saturating_add(micros(pause));
        self.enter(slot, RecordState::Pending, until);
        LeaseStatus::Held
    }

    fn forget(&mut self, key: &EventKey) -> bool {
        let Some(slot) = self.find(self.hash(key.endpoint(), key.event_id()), key) else {
            return false;
        };
        self.remove(slot);
        true
    }

    fn held(&self, key: &EventKey, token: Token) -> Option<u32> {
        let slot = self.slot_of(key, token)?;
        (self.get(slot).state == RecordState::Claimed).then_some(slot)
    }

    /// The record whose latest claim this token belongs to. The token contains its slot, so this
    /// does not hash the key again.
    fn slot_of(&self, key: &EventKey, token: Token) -> Option<u32> {
        let slot = slot_in(token.nonce);
        let chunk = self.chunks.get(slot as usize / CHUNK)?;
        let record = chunk.get(slot as usize % CHUNK)?;
        (record.token() == token && self.is_of(record, key)).then_some(slot)
    }

    /// Drops a few records past their retention. For an abandoned claim or attempt, the retention
    /// starts when it could be claimed again.
    fn prune(&mut self, now: i64, retention: i64) {
        for list in [FINISHED, PENDING, CLAIMED] {
            for _ in 0..PRUNED_PER_CLAIM {
                let oldest = self.lists[list].oldest;
                if oldest == NONE || self.get(oldest).at.saturating_add(retention) > now {
                    break;
                }
                self.remove(oldest);
            }
        }
    }

    fn evict_one(&mut self, now: i64) -> bool {
        let victim = [FINISHED, PENDING]
            .map(|list| self.lists[list].oldest)
            .into_iter()
            .find(|&slot| slot != NONE);
        let Some(victim) = victim.or_else(|| self.abandoned(now)) else {
            return false;
        };
        let endpoint = Arc::clone(&self.endpoints[self.get(victim).endpoint as usize].name);
        self.remove(victim);
        self.evicted += 1;
        telemetry::count(telemetry::EVICTED, &endpoint);
        if !std::mem::replace(&mut self.said_so, true) {
            tracing::warn!(
                %endpoint,
                capacity = self.capacity,
                "the memory ledger is full and evicts its oldest records: their events are handled again if they are \
                 redelivered; raise the capacity or use a durable store (logged once)"
            );
        }
        true
    }

    /// A claimed record with an expired lease. As leases have similar lengths, it is among the
    /// oldest.
    fn abandoned(&self, now: i64) -> Option<u32> {
        let mut slot = self.lists[CLAIMED].oldest;
        for _ in 0..CLAIMS_LOOKED_THROUGH {
            if slot == NONE {
                break;
            }
            if self.get(slot).at <= now {
                return Some(slot);
            }
            slot = self.get(slot).newer;
        }
        None
    }

    // The index.

    #[expect(
        clippy::cast_possible_truncation,
        reason = "any 32 of the 64 bits will do"
    )]
    fn hash(&self, endpoint: &str, event_id: &str) -> u32 {
        self.hashes.hash_one((endpoint, event_id)) as u32
    }

    fn find(&self, hash: u32, key: &EventKey) -> Option<u32> {
        let mut slot = *self.index.get(&hash)?;
        while slot != NONE {
            let record = self.get(slot);
            if self.is_of(record, key) {
                return Some(slot);
            }
            slot = record.chained;
        }
        None
    }

    fn is_of(&self, record: &Record, key: &EventKey) -> bool {
        *record.event_id == *key.event_id()
            && *self.endpoints[record.endpoint as usize].name == *key.endpoint()
    }

    /// Inserts a record that is claimed for the first time.
    fn insert(&mut self, hash: u32, key: &EventKey, first_digest: Digest, at: i64) -> Token {
        let endpoint = self.endpoint(key);
        let record = Record {
            event_id: key.event_id().into(),
            first_digest,
            nonce: 0,
            at,
            attempt: 1,
            endpoint,
            older: NONE,
            newer: NONE,
            chained: NONE,
            state: RecordState::Claimed,
        };
        let slot = if let Some(slot) = self.free.pop() {
            *self.get_mut(slot) = record;
            slot
        } else {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            let chunk = self.chunks.len() - 1;
            self.chunks[chunk].push(record);
            u32::try_from(chunk * CHUNK + self.chunks[chunk].len() - 1)
                .expect("the capacity is below 2³², and free slots are used first")
        };
        let chained = self.index.insert(hash, slot).unwrap_or(NONE);
        let nonce = self.mint(slot);
        let record = self.get_mut(slot);
        record.chained = chained;
        record.nonce = nonce;
        let token = record.token();
        self.append(slot, CLAIMED);
        self.used += 1;
        token
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let record = self.get_mut(slot);
        let chained = record.chained;
        let event_id = std::mem::take(&mut record.event_id);
        // No token has this number, so none finds the removed record.
        record.attempt = 0;
        let endpoint = record.endpoint as usize;
        let hash = self.hash(&self.endpoints[endpoint].name, &event_id);
        let first = self.index[&hash];
        if first != slot {
            let mut before = first;
            while self.get(before).chained != slot {
                before = self.get(before).chained;
            }
            self.get_mut(before).chained = chained;
        } else if chained == NONE {
            self.index.remove(&hash);
        } else {
            self.index.insert(hash, chained);
        }
        let endpoint = &mut self.endpoints[endpoint];
        endpoint.records -= 1;
        self.free.push(slot);
        self.used -= 1;
    }

    /// The endpoint's number. A service has a handful, so they are searched linearly. The number of
    /// a name without records is reused.
    fn endpoint(&mut self, key: &EventKey) -> u32 {
        let known = self
            .endpoints
            .iter()
            .position(|endpoint| *endpoint.name == *key.endpoint());
        let at = known
            .or_else(|| {
                self.endpoints
                    .iter()
                    .position(|endpoint| endpoint.records == 0)
            })
            .unwrap_or_else(|| {
                self.endpoints.push(Endpoint {
                    name: key.shared_endpoint().clone(),
                    records: 0,
                });
                self.endpoints.len() - 1
            });
        let endpoint = &mut self.endpoints[at];
        if known.is_none() {
            endpoint.name = key.shared_endpoint().clone();
        }
        endpoint.records += 1;
        u32::try_from(at).expect("the endpoints in use are at most the records")
    }

    // The slab and the lists through it.

    fn get(&self, slot: u32) -> &Record {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn get_mut(&mut self, slot: u32) -> &mut Record {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// Appends a record to the list of `state`.
    fn enter(&mut self, slot: u32, state: RecordState, at: i64) {
        self.unlink(slot);
        let record = self.get_mut(slot);
        record.state = state;
        record.at = at;
        self.append(slot, list_of(state));
    }

    fn append(&mut self, slot: u32, list: usize) {
        let newest = std::mem::replace(&mut self.lists[list].newest, slot);
        let record = self.get_mut(slot);
        record.older = newest;
        record.newer = NONE;
        if newest == NONE {
            self.lists[list].oldest = slot;
        } else {
            self.get_mut(newest).newer = slot;
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Record {
            older,
            newer,
            state,
            ..
        } = *self.get(slot);
        let list = list_of(state);
        if older == NONE {
            self.lists[list].oldest = newer;
        } else {
            self.get_mut(older).newer = newer;
        }
        if newer == NONE {
            self.lists[list].newest = older;
        } else {
            self.get_mut(newer).older = older;
        }
    }

    /// A nonce that no earlier claim of the slot has: a count of all claims, and the slot.
    fn mint(&mut self, slot: u32) -> u64 {
        self.minted = self.minted.wrapping_add(1);
        u64::from(self.minted) << 32 | u64::from(slot)
    }
}

/// The slot of the record that a nonce belongs to.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the slot is the lower half"
)]
const fn slot_in(nonce: u64) -> u32 {
    nonce as u32
}

impl Record {
    fn token(&self) -> Token {
        Token {
            attempt: self.attempt,
            nonce: self.nonce,
        }
    }
}

/// Passes the index's hash, which is already random, to both halves of the 64 bits that the map
/// uses.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0 << 32 | self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u32(&mut self, hash: u32) {
        self.0 = u64::from(hash);
    }
}

fn micros(duration: Duration) -> i64 {
    duration.as_micros().try_into().unwrap_or(i64::MAX)
}

/// What times in records are measured by. They are only compared with each other.
enum Time {
    /// Monotonic time, which no change of the system's clock affects.
    SinceStart(Instant),
    /// A test's clock.
    Of(Clock),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use jiff::Timestamp;

    use super::*;
    use crate::ledger::conformance;

    /// A ledger whose clock is advanced manually.
    fn at_rest() -> (Memory, Arc<AtomicI64>) {
        let millis = Arc::new(AtomicI64::new(1_700_000_000_000));
        (Memory::new().with_clock(clock_of(&millis)), millis)
    }

    fn clock_of(millis: &Arc<AtomicI64>) -> Clock {
        let millis = millis.clone();
        Clock::from_fn(move || Timestamp::from_millisecond(millis.load(Ordering::Relaxed)).unwrap())
    }

    fn key(n: usize) -> EventKey {
        EventKey::new("users", format!("evt_{n}"))
    }

    const LEASE: Duration = Duration::from_secs(30);
    const DIGEST: Digest = Digest::from_bytes([7; 16]);

    async fn handle(ledger: &Memory, n: usize) {
        let Claim::Granted { token, .. } = ledger.claim(&key(n), DIGEST, LEASE).await.unwrap()
        else {
            panic!("event {n} was not granted");
        };
        assert_eq!(
            ledger
                .complete(&key(n), token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }

    struct Memories(Arc<AtomicI64>, Clock);

    impl conformance::Harness for Memories {
        type Ledger = Memory;

        async fn fresh(&self) -> Memory {
            Memory::new().with_clock(self.1.clone())
        }

        async fn advance(&self, _: &Memory, by: Duration) {
            self.0
                .fetch_add(by.as_millis().try_into().unwrap(), Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn it_conforms() {
        let (_, time) = at_rest();
        let clock = clock_of(&time);
        conformance::run(&Memories(time, clock)).await;
    }

    #[tokio::test]
    async fn ten_times_its_capacity_leaves_the_newest_records_and_no_others() {
        let (ledger, _) = at_rest();
        let ledger = ledger.with_capacity(100);
        for n in 0..1000 {
            handle(&ledger, n).await;
            assert!(ledger.len() <= 100);
        }
        assert_eq!(ledger.evicted(), 900);
        for n in 900..1000 {
            assert_eq!(
                ledger.claim(&key(n), DIGEST, LEASE).await.unwrap(),
                Claim::Handled {
                    first_digest: DIGEST
                },
                "event {n} was forgotten"
            );
        }
        assert!(matches!(
            ledger.claim(&key(899), DIGEST, LEASE).await.unwrap(),
            Claim::Granted { .. }
        ));
        let chunks = ledger.lock().chunks.len();
        assert_eq!(chunks, 1, "evicted records' places were not used again");
    }

    #[tokio::test]
    async fn a_claimed_record_is_never_evicted() {
        let (ledger, time) = at_rest();
        let ledger = ledger.with_capacity(3);
        let mut tokens = Vec::new();
        for n in 0..3 {
            let Claim::Granted { token, .. } = ledger.claim(&key(n), DIGEST, LEASE).await.unwrap()
            else {
                panic!("not granted");
            };
            tokens.push(token);
        }
        let error = ledger.claim(&key(3), DIGEST, LEASE).await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("all 3 records"), "{cause}");
        // A record that waits for its next attempt makes room …
        assert_eq!(
            ledger.release(&key(1), tokens[1], LEASE).await.unwrap(),
            LeaseStatus::Held
        );
        assert!(matches!(
            ledger.claim(&key(3), DIGEST, LEASE).await.unwrap(),
            Claim::Granted { .. }
        ));
        assert_eq!(
            ledger.renew(&key(0), tokens[0], LEASE).await.unwrap(),
            LeaseStatus::Held
        );
        // … and so does one whose holder has died.
        time.fetch_add(29_000, Ordering::Relaxed);
        assert_eq!(
            ledger.renew(&key(0), tokens[0], LEASE).await.unwrap(),
            LeaseStatus::Held
        );
        assert!(ledger.claim(&key(4), DIGEST, LEASE).await.is_err());
        time.fetch_add(1_000, Ordering::Relaxed);
        assert!(matches!(
            ledger.claim(&key(4), DIGEST, LEASE).await.unwrap(),
            Claim::Granted { .. }
        ));
        assert_eq!(
            ledger.renew(&key(2), tokens[2], LEASE).await.unwrap(),
            LeaseStatus::Lost
        );
        assert_eq!(
            ledger.renew(&key(0), tokens[0], LEASE).await.unwrap(),
            LeaseStatus::Held
        );
    }

    #[tokio::test]
    async fn records_past_their_retention_are_pruned_by_later_claims() {
        let (ledger, time) = at_rest();
        for n in 0..100 {
            handle(&ledger, n).await;
        }
        time.fetch_add(30 * 24 * 60 * 60 * 1000, Ordering::Relaxed);
        for n in 100..200 {
            handle(&ledger, n).await;
        }
        assert_eq!(ledger.len(), 100);
        assert_eq!(ledger.evicted(), 0, "pruning is not eviction");
    }

    #[tokio::test]
    async fn keys_with_colliding_hashes_are_distinguished() {
        let (ledger, _) = at_rest();
        for n in 0..3 {
            let mut held = ledger.lock();
            // As if all three had the hash of the first.
            let hash = held.hash("users", "evt_0");
            held.insert(hash, &key(n), DIGEST, i64::MAX);
        }
        let held = ledger.lock();
        let hash = held.hash("users", "evt_0");
        let slots: Vec<_> = (0..3).map(|n| held.find(hash, &key(n))).collect();
        assert_eq!(slots, [Some(0), Some(1), Some(2)]);
        assert_eq!(held.find(hash, &key(3)), None);
    }

    #[tokio::test]
    async fn a_token_of_an_earlier_record_in_the_same_slot_is_stale() {
        let (ledger, _) = at_rest();
        let mut earlier: Vec<(EventKey, Token)> = Vec::new();
        for n in [0, 0, 1] {
            let key = key(n);
            let Claim::Granted { token, .. } = ledger.claim(&key, DIGEST, LEASE).await.unwrap()
            else {
                panic!("not granted")
            };
            for (of, stale) in &earlier {
                assert_eq!(slot_in(stale.nonce), slot_in(token.nonce));
                // With its own key, and with that of the slot's record.
                for key in [of, &key] {
                    let renewed = ledger.renew(key, *stale, LEASE).await.unwrap();
                    assert_eq!(renewed, LeaseStatus::Lost);
                    let completed = ledger.complete(key, *stale, Completion::Handled).await;
                    assert_eq!(completed.unwrap(), LeaseStatus::Lost);
                }
            }
            assert!(ledger.forget(&key).await.unwrap());
            let renewed = ledger.renew(&key, token, LEASE).await.unwrap();
            assert_eq!(
                renewed,
                LeaseStatus::Lost,
                "a forgotten record has no lease"
            );
            earlier.push((key, token));
        }
    }

    #[tokio::test]
    async fn an_endpoint_without_records_leaves_nothing_behind() {
        let (ledger, _) = at_rest();
        for n in 0..1000 {
            let key = EventKey::new(format!("endpoint {n}"), "evt");
            assert!(matches!(
                ledger.claim(&key, DIGEST, LEASE).await.unwrap(),
                Claim::Granted { .. }
            ));
            assert!(ledger.forget(&key).await.unwrap());
        }
        assert_eq!(ledger.lock().endpoints.len(), 1);
        assert!(ledger.is_empty());
    }
}
