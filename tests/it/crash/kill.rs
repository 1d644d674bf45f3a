//! Deliveries continue while processes are killed and replaced, up to a given number.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use authpi_sdk::unstable::CRASH_POINTS;
use authpi_tests::harness::{EventId, Mode, Role, Store};
use tokio::task::JoinSet;

use super::{Trial, kills, processes::Death};

/// The number of events in flight, each of another user.
pub(super) const ORDERING_KEYS: u32 = 12;
/// The number of events that are sent again at the end.
const SENT_AGAIN: usize = 200;

/// The crash points that a process in this role passes.
fn points(store: &Store, mode: Mode, role: Role) -> Vec<&'static str> {
    let receives: &[_] = match mode {
        Mode::Inline => &["verified", "claimed", "handled", "completed", "answering"],
        Mode::InlineTx => &[
            "verified",
            "claimed",
            "in_transaction",
            "committed",
            "answering",
        ],
        Mode::Inbox | Mode::InboxTx => &["verified", "appended", "answering"],
    };
    let works: &[_] = match mode {
        Mode::Inline | Mode::InlineTx => &[],
        Mode::Inbox => &["leased", "handled", "completed"],
        Mode::InboxTx => &["leased", "in_transaction", "committed"],
    };
    // Only with NATS: the ledger is updated first, then the queue, and dead letters are in a
    // separate stream.
    let follows: &[_] = match store {
        Store::Nats(..) => &["given_up", "letter_kept", "unacknowledged"],
        _ => &[],
    };
    match role {
        Role::Receiver => receives.to_vec(),
        Role::Worker => [works, follows].concat(),
        Role::Both => [receives, works, follows].concat(),
    }
}

/// The pass of the point at which a process dies. It passes the point at most `most` times: dead
/// letters are few.
fn pass(dice: &mut fastrand::Rng, point: &'static str, most: u32) -> Death {
    let most = if ["given_up", "letter_kept"].contains(&point) {
        most.div_ceil(25)
    } else {
        most
    };
    Death::At(point, dice.u32(1..=most))
}

#[test]
fn processes_die_at_every_crash_point() {
    let modes = [Mode::Inline, Mode::InlineTx, Mode::Inbox, Mode::InboxTx];
    let nats = Store::Nats(
        String::new(),
        String::new(),
        Box::new(Store::Sqlite("hooks.db".into())),
    );
    let points: BTreeSet<_> = modes
        .into_iter()
        .flat_map(|mode| points(&nats, mode, Role::Both))
        .collect();
    assert_eq!(points, CRASH_POINTS.iter().copied().collect());
}

/// Which processes die, and how.
struct Fate {
    dice: fastrand::Rng,
    /// The number of kills left, besides the planned ones.
    left: u32,
    dealt: u32,
    died: u32,
    /// First each crash point, so that none is left out; then random ones.
    laid_out: Vec<(Role, VecDeque<&'static str>)>,
    store: Store,
    mode: Mode,
    lease: Duration,
}

impl Fate {
    fn new(trial: &Trial, roles: &[Role], kills: u32) -> Self {
        let (store, mode, mut dice) = (trial.store.clone(), trial.mode, trial.dice("fate"));
        let mut laid_out = Vec::<(Role, VecDeque<_>)>::new();
        for &role in roles {
            if laid_out.iter().all(|(other, _)| *other != role) {
                let mut points = points(&store, mode, role);
                dice.shuffle(&mut points);
                laid_out.push((role, points.into()));
            }
        }
        let at_points: usize = laid_out.iter().map(|(_, points)| points.len()).sum();
        let left = kills.saturating_sub(u32::try_from(at_points).expect("they are few"));
        Self {
            dice,
            left,
            dealt: 0,
            died: 0,
            laid_out,
            store,
            mode,
            lease: trial.lease,
        }
    }

    fn deal(&mut self, role: Role) -> Option<Death> {
        let dice = &mut self.dice;
        let laid_out = self.laid_out.iter_mut().find(|(other, _)| *other == role);
        let death = if let Some(point) = laid_out.and_then(|(_, points)| points.pop_front()) {
            pass(dice, point, 20)
        } else {
            self.left = self.left.checked_sub(1)?;
            match dice.u8(0..10) {
                0..3 => Death::Starting(Duration::from_micros(dice.u64(0..60_000))),
                3..6 => {
                    let points = points(&self.store, self.mode, role);
                    let point = dice.choice(points).expect("each role has some");
                    pass(dice, point, 100)
                }
                6 => {
                    let [after, longer] = [0; 2].map(|_| Duration::from_millis(dice.u64(0..600)));
                    Death::Frozen(after, self.lease + longer)
                }
                _ => Death::Working(Duration::from_millis(dice.u64(0..600))),
            }
        };
        self.dealt += 1;
        Some(death)
    }

    fn is_fulfilled(&self) -> bool {
        self.left == 0
            && self.died == self.dealt
            && self.laid_out.iter().all(|(_, points)| points.is_empty())
    }
}

impl Trial {
    /// Kills `share` of the store's kills, then checks the journal.
    pub(super) async fn kill(self, roles: &[Role], share: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is small, and not negative"
        )]
        let kills = (f64::from(kills()) * share).ceil() as u32;
        let started = Instant::now();
        self.ports.lock().unwrap().resize(roles.len(), None);
        self.prepare().await;
        let trial = Arc::new(self);

        let fate = Arc::new(Mutex::new(Fate::new(&trial, roles, kills)));
        let mut keepers = JoinSet::new();
        for (slot, &role) in roles.iter().enumerate() {
            let (trial, fate) = (trial.clone(), fate.clone());
            keepers.spawn(async move {
                loop {
                    let death = fate.lock().unwrap().deal(role);
                    trial.live(slot, role, death).await;
                    fate.lock().unwrap().died += 1;
                }
            });
        }

        let sending = {
            let (trial, fate) = (trial.clone(), fate.clone());
            async move {
                let mut ordering_keys = JoinSet::new();
                for ordering_key in 0..ORDERING_KEYS {
                    let (trial, fate) = (trial.clone(), fate.clone());
                    ordering_keys.spawn(async move {
                        trial
                            .ordering_key(ordering_key, || !fate.lock().unwrap().is_fulfilled())
                            .await
                    });
                }
                let events: Vec<EventId> = ordering_keys.join_all().await.concat();
                trial.until_done().await;
                let verdict = trial.verdict().await;
                if !verdict.wrong.is_empty() {
                    return verdict;
                }

                // Finished events are finished: they can be sent again without effect.
                let mut dice = trial.dice("once more");
                let mut again = JoinSet::new();
                for event in dice.choose_multiple(events, SENT_AGAIN) {
                    let (trial, dice) = (trial.clone(), dice.fork());
                    again.spawn(async move { trial.deliver(event, dice).await });
                }
                again.join_all().await;
                trial.until_done().await;
                let after = trial.verdict().await;
                assert_eq!(
                    (after.tried, after.effects, after.dead_letters),
                    (verdict.tried, verdict.effects, verdict.dead_letters),
                    "{}: sent once more, some took effect once more",
                    trial.name
                );
                verdict
            }
        };
        let verdict = tokio::select! {
            verdict = tokio::spawn(sending) => verdict,
            Some(failed) = keepers.join_next() => failed.map(|()| unreachable!("processes are kept for ever")),
        };
        let verdict =
            verdict.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        keepers.shutdown().await;

        let sent = trial.sent.load(Ordering::Relaxed);
        let took = started.elapsed().as_secs_f64();
        println!(
            "{} (seed {}): {took:.1} s, {sent} deliveries acknowledged, {verdict}",
            trial.name, trial.seed
        );
        assert!(
            verdict.wrong.is_empty(),
            "{}: what must not happen has happened (above)",
            trial.name
        );
        assert!(verdict.effects > 0, "{}: nothing took place", trial.name);
        let died = verdict.deaths.values().sum::<usize>();
        assert_eq!(
            died,
            fate.lock().unwrap().dealt as usize,
            "{}: not all died who were to",
            trial.name
        );
        assert!(
            died >= kills as usize,
            "{}: only {died} were killed",
            trial.name
        );
        for point in roles
            .iter()
            .flat_map(|role| points(&trial.store, trial.mode, *role))
        {
            assert!(
                verdict.deaths.contains_key(point),
                "{}: no process died at {point}",
                trial.name
            );
        }
        trial.passed.store(true, Ordering::Relaxed);
    }

    /// Sends the ordering key's events one after the other, each several times, and returns them.
    pub(super) async fn ordering_key(
        self: Arc<Self>,
        ordering_key: u32,
        goes_on: impl Fn() -> bool,
    ) -> Vec<EventId> {
        let mut dice = self.dice(&format!("ordering_key {ordering_key}"));
        let mut later = JoinSet::new();
        let mut events = Vec::new();
        while goes_on() {
            let event = EventId {
                ordering_key,
                place: u32::try_from(events.len()).expect("they are fewer"),
            };
            events.push(event);
            let mut at_once = JoinSet::new();
            for _ in 0..dice.u32(1..=3) {
                let (trial, dice) = (self.clone(), dice.fork());
                at_once.spawn(async move { trial.deliver(event, dice).await });
            }
            if dice.u8(0..5) == 0 {
                let (trial, mut dice) = (self.clone(), dice.fork());
                later.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(dice.u64(0..3_000))).await;
                    trial.deliver(event, dice).await;
                });
            }
            at_once.join_all().await;
            tokio::time::sleep(Duration::from_millis(dice.u64(0..20))).await;
        }
        later.join_all().await;
        events
    }
}
