//! Reads the journal of a trial and reports violations.
//!
//! In every mode, an acknowledged event takes effect, or is exactly one dead letter if its handlers
//! fail terminally; never both. How often an effect may happen depends on the mode:
//!
//! - If the effect is a row in the transaction that completes the claim: once.
//! - Otherwise an effect may repeat only if its process was killed before the ledger recorded it:
//!   never after the completion, never after an inline response, never while the process that
//!   caused it lives. Exceptions: that process was stopped for longer than its lease and reports it
//!   (which also happens on a slow machine), or its ledger failed to record the outcome. Attempts
//!   of a process that was stopped on purpose (`freezing`), if they started before, are excused.
//! - Within an ordering key, nothing takes effect after a later event has, if the store keeps
//!   ordering keys, or inline.
//!
//! A terminal failure is recorded like an effect that is not a row, and may repeat under the same
//! conditions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use authpi_tests::harness::{Entry, EventId, Mode, Store};

/// The result of a trial.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) events: usize,
    pub(super) tried: usize,
    pub(super) effects: usize,
    pub(super) repeats: usize,
    pub(super) dead_letters: usize,
    pub(super) leases_lost: usize,
    pub(super) not_told: usize,
    pub(super) deaths: BTreeMap<String, usize>,
    /// The violations.
    pub(super) wrong: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            events,
            tried,
            effects,
            repeats,
            dead_letters,
            leases_lost,
            not_told,
            deaths,
            wrong,
        } = self;
        let killed: usize = deaths.values().sum();
        write!(
            f,
            "{events} events, {tried} attempts, {effects} effects, {dead_letters} dead letters, {repeats} repeats; "
        )?;
        write!(
            f,
            "{leases_lost} leases lost, {not_told} completions failed; {killed} killed ("
        )?;
        for (n, (when, times)) in deaths.iter().enumerate() {
            write!(f, "{}{when} {times}", if n > 0 { ", " } else { "" })?;
        }
        write!(f, ")")?;
        wrong
            .iter()
            .take(20)
            .try_for_each(|wrong| write!(f, "\n  {wrong}"))?;
        if wrong.len() > 20 {
            write!(f, "\n  and {} more", wrong.len() - 20)
        } else {
            Ok(())
        }
    }
}

/// What is known of an event at a point of the journal.
#[derive(Default)]
struct Known {
    acknowledged: bool,
    completed: bool,
    took_effect: bool,
    /// The processes that caused its effect or failed it terminally, and whether they could not
    /// record it.
    by: Vec<(u32, bool)>,
}

/// The rules of a trial.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) mode: Mode,
    pub(super) store: &'a Store,
}

/// The content of the store afterwards.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    /// The effects that are rows, in order; empty if there are none.
    pub(super) rows: Vec<EventId>,
    pub(super) dead_letters: Vec<EventId>,
}

pub(super) fn check(
    Rules { mode, store }: Rules<'_>,
    journal: &[Entry],
    stored: &Stored,
) -> Verdict {
    let in_order = store.keeps_ordering_keys();
    let mut verdict = Verdict {
        dead_letters: stored.dead_letters.len(),
        ..Verdict::default()
    };
    let lost = journal.iter().filter_map(|entry| match entry {
        Entry::LeaseLost(process, event) => Some((*process, *event)),
        _ => None,
    });
    let lost: BTreeSet<(u32, EventId)> = lost.collect();
    let was_lost = |by: u32, event| lost.contains(&(by, event));
    verdict.leases_lost = lost.len();

    let mut events = BTreeMap::<EventId, Known>::new();
    let mut dead = BTreeSet::new();
    let mut frozen = BTreeSet::new();
    // A process that was stopped continues the attempts that it had started before, whatever has
    // happened meanwhile.
    let mut begun = BTreeSet::new();
    let mut furthest = BTreeMap::<u32, u32>::new();
    let void = void(journal);
    for (at, entry) in journal.iter().enumerate() {
        match entry {
            Entry::Tried(process, event, _) => {
                verdict.tried += 1;
                if !frozen.contains(process) {
                    begun.insert((*process, *event));
                }
            }
            Entry::Effect(process, event) | Entry::GaveUp(process, event) => {
                let gave_up = matches!(entry, Entry::GaveUp(..));
                verdict.effects += usize::from(!gave_up);
                let known = events.entry(*event).or_default();
                let furthest = furthest.entry(event.ordering_key).or_default();
                known.took_effect |= !gave_up;
                let goes_on = frozen.contains(process) && begun.contains(&(*process, *event));
                let wrong = if goes_on || was_lost(*process, *event) {
                    None
                } else if known.completed {
                    Some("although the ledger knew of its effect".to_owned())
                } else if known.acknowledged && mode.is_inline() {
                    Some("after it had been answered 200".to_owned())
                } else if in_order && *furthest > event.place {
                    Some(format!("after number {furthest} of its ordering_key"))
                } else {
                    let living = known.by.last().filter(|(by, not_told)| {
                        !not_told
                            && !dead.contains(by)
                            && !frozen.contains(by)
                            && !was_lost(*by, *event)
                    });
                    living.map(|(by, _)| {
                        format!("although process {by}, which had handled it, was alive")
                    })
                };
                *furthest = (*furthest).max(event.place);
                verdict.repeats += usize::from(!known.by.is_empty());
                known.by.push((*process, false));
                let what = if gave_up {
                    "was given up"
                } else {
                    "took effect"
                };
                verdict
                    .wrong
                    .extend(wrong.map(|why| format!("{event} {what} {}x, {why}", known.by.len())));
            }
            Entry::Completed(_, event) => {
                events.entry(*event).or_default().completed |= !void.contains(&at);
            }
            Entry::NotCompleted(process, event) => {
                let known = events.entry(*event).or_default();
                known.completed = false;
                verdict.not_told += 1;
                if let Some((_, not_told)) = known.by.iter_mut().rfind(|(by, _)| by == process) {
                    *not_told = true;
                }
            }
            Entry::Acknowledged(event) => events.entry(*event).or_default().acknowledged = true,
            Entry::LeaseLost(..) => {}
            Entry::Freezing(process) => {
                frozen.insert(*process);
                *verdict
                    .deaths
                    .entry("after it was frozen".to_owned())
                    .or_default() += 1;
            }
            Entry::Dying(process, point) => {
                // Two threads of a process may get there at the same time.
                if dead.insert(*process) {
                    *verdict.deaths.entry(point.clone()).or_default() += 1;
                }
            }
            Entry::Killing(process) => {
                if dead.insert(*process) && !frozen.contains(process) {
                    *verdict.deaths.entry("at random".to_owned()).or_default() += 1;
                }
            }
        }
    }

    compare(Rules { mode, store }, &events, stored, &mut verdict);
    verdict
}

/// The positions of completions that failed. The process reports this after the completion, because
/// it reads the ledger's response after the crash point.
fn void(journal: &[Entry]) -> BTreeSet<usize> {
    let (mut void, mut taken_back) = (BTreeSet::new(), BTreeSet::new());
    for (at, entry) in journal.iter().enumerate().rev() {
        match entry {
            Entry::LeaseLost(process, event) | Entry::NotCompleted(process, event) => {
                taken_back.insert((*process, *event));
            }
            Entry::Tried(process, event, _) => {
                taken_back.remove(&(*process, *event));
            }
            Entry::Completed(process, event) if taken_back.contains(&(*process, *event)) => {
                void.insert(at);
            }
            _ => {}
        }
    }
    void
}

/// Compares the content of the store with the journal.
fn compare(
    Rules { mode, store }: Rules<'_>,
    events: &BTreeMap<EventId, Known>,
    stored: &Stored,
    verdict: &mut Verdict,
) {
    let mut furthest = BTreeMap::<u32, u32>::new();
    let mut in_rows = BTreeMap::<EventId, usize>::new();
    for event in &stored.rows {
        verdict.effects += 1;
        let times = in_rows.entry(*event).or_default();
        *times += 1;
        let furthest = furthest.entry(event.ordering_key).or_default();
        if *times > 1 {
            verdict.repeats += 1;
            verdict
                .wrong
                .push(format!("{event} was committed {times}x"));
        } else if store.keeps_ordering_keys() && *furthest > event.place {
            verdict.wrong.push(format!(
                "{event} was committed after number {furthest} of its ordering_key"
            ));
        }
        *furthest = (*furthest).max(event.place);
    }
    let mut letters = BTreeMap::<EventId, usize>::new();
    for event in &stored.dead_letters {
        *letters.entry(*event).or_default() += 1;
    }
    for (event, known) in events {
        verdict.events += 1;
        let took_effect = if mode.in_transaction() {
            in_rows.contains_key(event)
        } else {
            known.took_effect
        };
        let letters = letters.remove(event).unwrap_or_default();
        let is_settled = known.acknowledged || known.completed;
        verdict
            .wrong
            .extend(match (store.gives_up(*event), took_effect, letters) {
                (false, true, 0) | (true, false, 1) => None,
                (_, false, 0) => {
                    is_settled.then(|| format!("{event} was acknowledged and is lost"))
                }
                (true, true, _) => Some(format!("{event} was given up and took effect")),
                (false, ..) => Some(format!(
                    "{event} is a dead letter, although no handler failed terminally"
                )),
                (true, ..) => Some(format!("{event} is {letters} dead letters")),
            });
    }
    verdict.wrong.extend(
        letters
            .into_keys()
            .map(|event| format!("{event} is an unknown dead letter")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EventId = EventId {
        ordering_key: 0,
        place: 0,
    };
    const B: EventId = EventId {
        ordering_key: 0,
        place: 1,
    };
    /// Its handlers fail terminally.
    const C: EventId = EventId {
        ordering_key: 0,
        place: 7,
    };

    fn verdict(
        mode: Mode,
        journal: &[Entry],
        rows: &[EventId],
        dead_letters: &[EventId],
    ) -> Verdict {
        let stored = Stored {
            rows: rows.to_vec(),
            dead_letters: dead_letters.to_vec(),
        };
        check(
            Rules {
                mode,
                store: &Store::Sqlite("hooks.db".into()),
            },
            journal,
            &stored,
        )
    }

    fn wrong(mode: Mode, journal: &[Entry], rows: &[EventId]) -> String {
        verdict(mode, journal, rows, &[]).wrong.join("; ")
    }

    #[test]
    fn a_repeat_after_a_kill_is_let_pass_and_counted() {
        use Entry::{Acknowledged, Completed, Dying, Effect, Killing, LeaseLost};
        let killed = [
            Effect(0, A),
            Killing(0),
            Effect(1, A),
            Dying(1, "handled".into()),
            Effect(2, A),
            Completed(2, A),
        ];
        let verdict = verdict(
            Mode::Inline,
            &[&killed[..], &[Acknowledged(A)]].concat(),
            &[],
            &[],
        );
        assert_eq!(
            (verdict.effects, verdict.repeats, verdict.wrong),
            (3, 2, vec![])
        );
        assert_eq!(verdict.deaths.into_values().sum::<usize>(), 2);
        // Process 1 took over process 0's event and was killed. Process 0 then reports that it lost
        // its lease: before or after process 2 handles the event.
        let overtaken = [Effect(0, A), Dying(1, "leased".into()), Completed(0, A)];
        let (reported, taken) = ([LeaseLost(0, A)], [Effect(2, A), Completed(2, A)]);
        assert_eq!(
            wrong(
                Mode::Inbox,
                &[&overtaken[..], &reported, &taken].concat(),
                &[]
            ),
            ""
        );
        assert_eq!(
            wrong(
                Mode::Inbox,
                &[&overtaken[..], &taken, &reported].concat(),
                &[]
            ),
            ""
        );
        // Process 0 was stopped for longer than its lease. It reports the lost lease only after
        // process 1 has handled the event.
        assert_eq!(
            wrong(
                Mode::Inbox,
                &[Acknowledged(A), Effect(0, A), Effect(1, A), LeaseLost(0, A)],
                &[]
            ),
            ""
        );
    }

    #[test]
    fn what_must_not_happen_is_told() {
        use Entry::{Acknowledged, Completed, Effect, Killing, LeaseLost};
        let reported = |mode, journal: &[Entry], rows: &[EventId], expected| {
            let wrong = wrong(mode, journal, rows);
            assert!(
                wrong.contains(expected),
                "{wrong:?} does not tell {expected:?}"
            );
        };
        reported(Mode::Inbox, &[Acknowledged(A)], &[], "is lost");
        reported(
            Mode::InlineTx,
            &[Effect(0, A), Acknowledged(A)],
            &[],
            "is lost",
        );
        reported(
            Mode::Inline,
            &[Effect(0, A), Effect(1, A)],
            &[],
            "process 0, which had handled it, was alive",
        );
        reported(
            Mode::Inline,
            &[Effect(0, A), Effect(0, A)],
            &[],
            "was alive",
        );
        reported(
            Mode::Inbox,
            &[Effect(0, A), Completed(0, A), Killing(0), Effect(1, A)],
            &[],
            "the ledger knew",
        );
        // Process 1 repeats a completed event. That process 2 lost its lease does not excuse this.
        let completed = [
            Acknowledged(A),
            Effect(0, A),
            Completed(0, A),
            Effect(1, A),
            LeaseLost(2, A),
        ];
        reported(Mode::Inbox, &completed, &[], "the ledger knew");
        reported(
            Mode::Inline,
            &[Effect(0, A), Acknowledged(A), Killing(0), Effect(1, A)],
            &[],
            "answered 200",
        );
        reported(
            Mode::Inbox,
            &[Effect(0, A), Killing(0), Effect(1, B), Effect(1, A)],
            &[],
            "after number 1 of its ordering_key",
        );
        reported(Mode::InlineTx, &[], &[A, A], "committed 2x");
        reported(Mode::InboxTx, &[], &[B, A], "committed after number 1");
    }

    #[test]
    fn what_is_given_up_has_to_be_one_dead_letter_and_nothing_else() {
        use Entry::{Acknowledged, Completed, Effect, GaveUp, Killing};
        let buried = |mode, journal: &[Entry], rows: &[EventId], letters: &[EventId]| {
            verdict(mode, journal, rows, letters).wrong.join("; ")
        };
        let given_up = [
            GaveUp(0, C),
            Killing(0),
            GaveUp(1, C),
            Completed(1, C),
            Acknowledged(C),
        ];
        for mode in [Mode::Inline, Mode::InlineTx, Mode::Inbox, Mode::InboxTx] {
            assert_eq!(buried(mode, &given_up, &[], &[C]), "");
            assert!(buried(mode, &given_up, &[], &[]).contains("is lost"));
            assert!(buried(mode, &given_up, &[], &[C, C]).contains("is 2 dead letters"));
            assert!(
                buried(mode, &given_up, &[], &[C, A]).contains("evt_0_0 is an unknown dead letter")
            );
            let twice = [GaveUp(0, C), GaveUp(1, C)];
            assert!(
                buried(mode, &twice, &[], &[C]).contains("given up 2x, although process 0"),
                "{mode:?}"
            );
        }
        let both = "evt_0_7 was given up and took effect";
        assert!(
            buried(
                Mode::Inline,
                &[GaveUp(0, C), Killing(0), Effect(1, C)],
                &[],
                &[C]
            )
            .contains(both)
        );
        assert!(buried(Mode::InboxTx, &given_up, &[C], &[C]).contains(both));
        assert!(
            buried(Mode::Inbox, &[Effect(0, A), Acknowledged(A)], &[], &[A])
                .contains("no handler failed terminally")
        );
    }
}
