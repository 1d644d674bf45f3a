//! Scripted faults: deliveries and responses that go wrong on purpose.
//!
//! A [`FaultPlan`] is a list of rules. For each attempt of a delivery, and for each call, the first
//! rule that matches applies. Whether a rule with a rate matches is decided by the emulator's
//! [seed](crate::Builder::seed) and the number of the attempt or call, so a run can be repeated.

mod control;
mod dice;
mod hold;
mod plan;

#[cfg(feature = "inspector")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub(crate) use control::{PATH, answer};
pub use plan::{CallFault, CallRule, DeliveryFault, DeliveryRule, FaultPlan, InvalidPlan};

use tokio::sync::watch;

use dice::Dice;
pub(crate) use hold::Holds;

/// The faults of a running emulator: see [`Emulator::faults`](crate::Emulator::faults).
#[derive(Clone)]
pub struct Faults(Arc<FaultState>);

impl Faults {
    pub(crate) fn of(state: Arc<FaultState>) -> Self {
        Self(state)
    }

    /// The present plan.
    pub fn plan(&self) -> FaultPlan {
        self.0.plan()
    }

    /// Replaces the plan. Numbers of attempts and calls, and so draws, begin again.
    ///
    /// # Errors
    /// If a value of the plan is out of its range. The previous plan then stays.
    pub fn set(&self, plan: FaultPlan) -> Result<(), InvalidPlan> {
        self.0.set(plan)
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.0.clear();
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&self.plan()).finish()
    }
}

/// The plan in progress.
pub(crate) struct FaultState {
    seed: u64,
    inner: Mutex<Inner>,
    pub(crate) holds: Holds,
    /// Notified of each change of the plan.
    changed: watch::Sender<()>,
}

struct Inner {
    plan: FaultPlan,
    deliveries: Drawn,
    calls: Drawn,
}

/// The draws for deliveries, or for calls.
struct Drawn {
    dice: Dice,
    /// For each rule.
    rules: Vec<InUse>,
}

/// What is known of a rule beside the plan.
struct InUse {
    /// Different for each rule, also of earlier plans.
    #[cfg(feature = "inspector")]
    id: u64,
    /// How often it was applied.
    applied: u32,
}

impl InUse {
    fn new() -> Self {
        #[cfg(feature = "inspector")]
        static LATEST: AtomicU64 = AtomicU64::new(0);
        Self {
            #[cfg(feature = "inspector")]
            id: LATEST.fetch_add(1, Ordering::Relaxed),
            applied: 0,
        }
    }
}

impl Drawn {
    fn new(seed: u64, rules: usize) -> Self {
        Self {
            dice: Dice::new(seed),
            rules: (0..rules).map(|_| InUse::new()).collect(),
        }
    }

    /// The first of these rules that matches, has not been applied too often, and is drawn.
    fn draw<'r, R>(
        &mut self,
        rules: &'r [R],
        when: impl Fn(&R) -> (bool, f64, Option<u32>),
    ) -> Option<&'r R> {
        self.dice.next_number();
        for (at, rule) in rules.iter().enumerate() {
            let (matches, rate, times) = when(rule);
            let applied = &mut self.rules[at].applied;
            let is_left = times.is_none_or(|times| *applied < times);
            if matches && is_left && self.dice.is_drawn(at, rate) {
                *applied = applied.saturating_add(1);
                return Some(rule);
            }
        }
        None
    }
}

impl FaultState {
    pub(crate) fn new(
        seed: u64,
        plan: FaultPlan,
        changed: watch::Sender<()>,
    ) -> Result<Self, InvalidPlan> {
        plan.check()?;
        Ok(Self {
            seed,
            inner: Mutex::new(Inner::new(seed, plan)),
            holds: Holds::default(),
            changed,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn plan(&self) -> FaultPlan {
        self.inner().plan.clone()
    }

    pub(crate) fn set(&self, plan: FaultPlan) -> Result<(), InvalidPlan> {
        plan.check()?;
        *self.inner() = Inner::new(self.seed, plan);
        self.holds.release();
        self.changed.send_replace(());
        Ok(())
    }

    pub(crate) fn clear(&self) {
        *self.inner() = Inner::new(self.seed, FaultPlan::default());
        self.holds.release();
        self.changed.send_replace(());
    }

    /// Adds rules to the present ones, whose counts and draws go on.
    #[cfg(feature = "inspector")]
    pub(crate) fn add(&self, more: FaultPlan) -> Result<(), InvalidPlan> {
        more.check()?;
        let mut inner = self.inner();
        let Inner {
            plan,
            deliveries,
            calls,
        } = &mut *inner;
        for (drawn, rules) in [
            (deliveries, more.deliveries.len()),
            (calls, more.calls.len()),
        ] {
            drawn.rules.extend((0..rules).map(|_| InUse::new()));
        }
        plan.deliveries.extend(more.deliveries);
        plan.calls.extend(more.calls);
        drop(inner);
        self.changed.send_replace(());
        Ok(())
    }

    /// Removes a rule; false if it is not there.
    #[cfg(feature = "inspector")]
    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut inner = self.inner();
        let Inner {
            plan,
            deliveries,
            calls,
        } = &mut *inner;
        let place = |drawn: &Drawn| drawn.rules.iter().position(|rule| rule.id == id);
        if let Some(at) = place(deliveries) {
            deliveries.rules.remove(at);
            plan.deliveries.remove(at);
        } else if let Some(at) = place(calls) {
            calls.rules.remove(at);
            plan.calls.remove(at);
        } else {
            return false;
        }
        drop(inner);
        self.holds.release();
        self.changed.send_replace(());
        true
    }

    /// The plan, and for each rule of deliveries, and then of calls, its id and how often it was
    /// applied.
    #[cfg(feature = "inspector")]
    pub(crate) fn in_use(&self) -> (FaultPlan, [Vec<(u64, u32)>; 2]) {
        let inner = self.inner();
        let rules = [&inner.deliveries, &inner.calls].map(|drawn| {
            let rules = drawn.rules.iter();
            rules.map(|rule| (rule.id, rule.applied)).collect()
        });
        (inner.plan.clone(), rules)
    }

    /// The fault of the next attempt.
    pub(crate) fn of_attempt(&self, event_type: &str, webhook_id: &str) -> Option<DeliveryFault> {
        let Inner {
            plan, deliveries, ..
        } = &mut *self.inner();
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == value)
        };
        let rule = deliveries.draw(&plan.deliveries, |rule| {
            let matches = is(&rule.event_type, event_type) && is(&rule.webhook_id, webhook_id);
            (matches, rule.rate, rule.times)
        });
        rule.map(|rule| rule.fault.clone())
    }

    /// The fault of the next call of an operation, by its id in the description.
    pub(crate) fn of_call(&self, operation: &str) -> Option<CallFault> {
        let Inner { plan, calls, .. } = &mut *self.inner();
        let rule = calls.draw(&plan.calls, |rule| {
            let wanted = rule.operation.as_deref();
            let matches = wanted.is_none_or(|wanted| wanted == operation);
            (matches, rule.rate, rule.times)
        });
        rule.map(|rule| rule.fault.clone())
    }
}

impl Inner {
    fn new(seed: u64, plan: FaultPlan) -> Self {
        Self {
            deliveries: Drawn::new(seed, plan.deliveries.len()),
            // Another sequence than that of the deliveries.
            calls: Drawn::new(!seed, plan.calls.len()),
            plan,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(seed: u64, plan: FaultPlan) -> FaultState {
        FaultState::new(seed, plan, watch::Sender::new(())).unwrap()
    }

    fn drawn(state: &FaultState, n: usize) -> Vec<bool> {
        (0..n)
            .map(|_| state.of_attempt("user.created", "wh_1").is_some())
            .collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let rule = DeliveryRule::new(DeliveryFault::HangUp).rate(0.3);
        let state = |seed| state(seed, FaultPlan::new().delivery(rule.clone()));
        let first = drawn(&state(7), 1_000);
        assert_eq!(first, drawn(&state(7), 1_000));
        assert_ne!(first, drawn(&state(8), 1_000));
        let faults = first.iter().filter(|drawn| **drawn).count();
        assert!(
            (250..350).contains(&faults),
            "{faults} of 1000 at a rate of 0.3"
        );
        // A plan that is set again begins again.
        let state = state(7);
        drawn(&state, 3);
        state.set(FaultPlan::new().delivery(rule.clone())).unwrap();
        assert_eq!(first, drawn(&state, 1_000));
    }

    #[test]
    fn a_rule_applies_to_what_it_names_and_as_often_as_it_says() {
        let plan = FaultPlan::new()
            .delivery(
                DeliveryRule::new(DeliveryFault::HangUp)
                    .event_type("user.created")
                    .times(2),
            )
            .delivery(DeliveryRule::new(DeliveryFault::CutBody).webhook("wh_2"))
            .call(CallRule::new(CallFault::Stall).operation("webhooks.create"));
        let state = state(0, plan);
        assert_eq!(state.of_attempt("user.deleted", "wh_1"), None);
        for _ in 0..2 {
            let fault = state.of_attempt("user.created", "wh_1");
            assert_eq!(fault, Some(DeliveryFault::HangUp));
        }
        assert_eq!(state.of_attempt("user.created", "wh_1"), None);
        let fault = state.of_attempt("user.created", "wh_2");
        assert_eq!(fault, Some(DeliveryFault::CutBody));
        assert_eq!(state.of_call("webhooks.list"), None);
        assert_eq!(state.of_call("webhooks.create"), Some(CallFault::Stall));
        state.clear();
        assert_eq!(state.of_call("webhooks.create"), None);
    }

    #[cfg(feature = "inspector")]
    #[test]
    fn rules_are_added_and_removed_while_the_others_go_on() {
        let once = |fault| DeliveryRule::new(fault).times(1);
        let plan = FaultPlan::new().delivery(once(DeliveryFault::HangUp));
        let state = state(0, plan);
        let next = || state.of_attempt("user.created", "wh_1");
        assert_eq!(next(), Some(DeliveryFault::HangUp));
        let more = FaultPlan::new()
            .delivery(once(DeliveryFault::CutBody))
            .call(CallRule::new(CallFault::Stall));
        state.add(more).unwrap();
        assert_eq!(next(), Some(DeliveryFault::CutBody));
        let (_, [deliveries, calls]) = state.in_use();
        let applied: Vec<_> = deliveries.iter().map(|(_, applied)| *applied).collect();
        assert_eq!((applied, calls[0].1), (vec![1, 1], 0));
        let invalid = FaultPlan::new().call(CallRule::new(CallFault::Stall).rate(2.0));
        assert!(state.add(invalid).is_err());

        assert!(state.remove(deliveries[0].0) && state.remove(calls[0].0));
        assert!(!state.remove(deliveries[0].0), "it was removed twice");
        assert_eq!((next(), state.of_call("webhooks.list")), (None, None));
        assert_eq!(state.in_use().1, [vec![deliveries[1]], vec![]]);
        assert_eq!(state.plan().deliveries.len(), 1);
    }
}
