//! Deliveries go on, and processes are killed and replaced, until so many have been.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use authpi_tests::trial::{EventId, Journal, Mode, Role};
use tokio::task::JoinSet;

use super::{KILLS, Trial, judge::judge, number, processes::Death};

/// How many events are on their way at once, each of another user.
const LANES: u32 = 12;
/// How many events are sent once more at the end.
const SENT_AGAIN: usize = 200;

/// The crash points that a process in such a role passes.
fn points(_mode: Mode, _role: Role) -> Vec<&'static str> {
    Vec::new()
}

/// The deaths that are left for processes of one role.
struct Deck {
    cards: VecDeque<Death>,
    dice: fastrand::Rng,
    points: Vec<&'static str>,
}

impl Deck {
    /// First each crash point, so that none is left out, then whatever comes.
    fn new(mode: Mode, role: Role, mut dice: fastrand::Rng) -> Self {
        let mut points = points(mode, role);
        dice.shuffle(&mut points);
        let cards = points.iter().map(|&point| Death::At(point, dice.u32(1..20))).collect();
        Self { cards, dice, points }
    }

    fn deal(&mut self) -> Death {
        if let Some(death) = self.cards.pop_front() {
            return death;
        }
        let dice = &mut self.dice;
        match dice.u8(0..10) {
            0..3 => Death::Starting(Duration::from_micros(dice.u64(0..60_000))),
            3..6 => match dice.choice(&self.points).copied() {
                Some(point) => Death::At(point, dice.u32(1..100)),
                None => Death::Working(Duration::from_millis(dice.u64(0..300))),
            },
            _ => Death::Working(Duration::from_millis(dice.u64(0..600))),
        }
    }
}

impl Trial {
    /// Kills `share` of the store's kills, and judges.
    pub(super) async fn kill(self, roles: &[Role], share: f64) {
        let all = u32::try_from(number("AUTHPI_CRASH_KILLS").unwrap_or(KILLS.into())).expect("it is small");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small, and not negative")]
        let kills = (f64::from(all) * share).ceil() as u32;
        let started = Instant::now();
        self.ports.lock().unwrap().resize(roles.len(), None);
        let trial = Arc::new(self);

        let left = Arc::new(AtomicU32::new(kills));
        let killed = Arc::new(AtomicU32::new(0));
        let mut keepers = JoinSet::new();
        let decks: Vec<_> = [Role::Receiver, Role::Worker, Role::Both]
            .map(|role| (role, Arc::new(Mutex::new(Deck::new(trial.mode, role, trial.dice(&format!("{role:?}")))))))
            .into();
        for (slot, &role) in roles.iter().enumerate() {
            let deck = decks.iter().find(|(of, _)| *of == role).expect("all are there").1.clone();
            let (trial, left, killed) = (trial.clone(), left.clone(), killed.clone());
            keepers.spawn(async move {
                loop {
                    let one = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                    let death = one.ok().map(|_| deck.lock().unwrap().deal());
                    trial.live(slot, role, death).await;
                    killed.fetch_add(1, Ordering::Release);
                }
            });
        }

        let sending = {
            let trial = trial.clone();
            async move {
                let mut lanes = JoinSet::new();
                for lane in 0..LANES {
                    let (trial, killed) = (trial.clone(), killed.clone());
                    lanes.spawn(async move { trial.lane(lane, || killed.load(Ordering::Acquire) < kills).await });
                }
                let events: Vec<EventId> = lanes.join_all().await.concat();
                trial.until_done().await;
                let (before, rows) = (Journal::read(&trial.journal_file()), trial.rows().await);
                let verdict = judge(trial.mode, &before, &rows);

                // Whatever was done is done: it can be sent again, and nothing happens.
                let mut dice = trial.dice("once more");
                let mut again = JoinSet::new();
                for event in dice.choose_multiple(events, SENT_AGAIN) {
                    let (trial, dice) = (trial.clone(), dice.fork());
                    again.spawn(async move { trial.deliver(event, dice).await });
                }
                again.join_all().await;
                trial.until_done().await;
                let (after, rows) = (Journal::read(&trial.journal_file()), trial.rows().await);
                let after = judge(trial.mode, &after, &rows);
                assert_eq!(
                    (after.tried, after.effects),
                    (verdict.tried, verdict.effects),
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
        let verdict = verdict.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        keepers.shutdown().await;

        let sent = trial.sent.load(Ordering::Relaxed);
        let took = started.elapsed().as_secs_f64();
        println!("{} (seed {}): {took:.1} s, {sent} deliveries acknowledged, {verdict}", trial.name, trial.seed);
        assert!(verdict.wrong.is_empty(), "{}: what must not happen has happened (above)", trial.name);
        assert!(verdict.effects > 0, "{}: nothing took place", trial.name);
        assert_eq!(verdict.deaths.values().sum::<usize>(), kills as usize, "{}: not all were killed", trial.name);
    }

    /// Sends the lane's events, one after the other, each several times at once or later, and says which they were.
    async fn lane(self: Arc<Self>, lane: u32, goes_on: impl Fn() -> bool) -> Vec<EventId> {
        let mut dice = self.dice(&format!("lane {lane}"));
        let mut late = JoinSet::new();
        let mut events = Vec::new();
        while goes_on() {
            let event = EventId { lane, place: u32::try_from(events.len()).expect("they are fewer") };
            events.push(event);
            let mut at_once = JoinSet::new();
            for _ in 0..dice.u32(1..=3) {
                let (trial, dice) = (self.clone(), dice.fork());
                at_once.spawn(async move { trial.deliver(event, dice).await });
            }
            if dice.u8(0..5) == 0 {
                let (trial, mut dice) = (self.clone(), dice.fork());
                late.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(dice.u64(0..3_000))).await;
                    trial.deliver(event, dice).await;
                });
            }
            at_once.join_all().await;
            tokio::time::sleep(Duration::from_millis(dice.u64(0..20))).await;
        }
        late.join_all().await;
        events
    }
}
