//! The cases of [`Inspector`]: what a store shows of its records, and that reading changes nothing.
//!
//! Give it an [`InspectorHarness`], and [`run`] it in a test; for a store that is an
//! [`Inbox`], [`run_inbox`] too.

use std::{collections::BTreeSet, future::Future, time::Duration};

use bytes::Bytes;

use super::{
    DIGEST, Harness, LEASE, SLACK, claim, complete, dead, granted, hostile_names,
    inbox::{ENDPOINT, append, leased},
    key,
};
use crate::ledger::{
    Claim, Completion, Digest, EventKey, Inbox, LeaseStatus, Ledger as _, RecordState,
    inspect::{Filter, InspectErrorKind, Inspector, RecordView},
};

/// A [`Harness`] whose stores can be inspected.
pub trait InspectorHarness: Harness {
    /// The inspector under test.
    type Inspector: Inspector;

    /// Whether the store records times, which ages and an ordered list need. Default: it does.
    const KEEPS_TIMES: bool = true;

    /// An inspector of the store of `ledger`, which is the one created last. It is allowed to scan.
    fn inspector(&self, ledger: &Self::Ledger) -> impl Future<Output = Self::Inspector> + Send;
}

/// Runs every case for a ledger, one after another, each on its own store.
///
/// # Panics
/// When the inspector does not conform. The message says how.
pub async fn run<H: InspectorHarness>(harness: &H) {
    Box::pin(an_unknown_event_has_no_record(harness)).await;
    Box::pin(each_state_is_shown_with_what_belongs_to_it(harness)).await;
    Box::pin(a_dead_letter_is_shown_with_its_body(harness)).await;
    Box::pin(an_expired_lease_and_an_ended_pause_are_zero(harness)).await;
    Box::pin(an_event_of_another_source_is_not_compared(harness)).await;
    Box::pin(a_record_is_found_by_any_id(harness)).await;
    Box::pin(pages_list_every_record_of_the_endpoint_and_state(harness)).await;
    Box::pin(numbers_are_counted_by_endpoint(harness)).await;
    Box::pin(looking_changes_nothing(harness)).await;
}

/// Runs every case for an inbox, one after another, each on its own store.
///
/// # Panics
/// When the inspector does not conform. The message says how.
pub async fn run_inbox<H: InspectorHarness<Ledger: Inbox>>(harness: &H) {
    Box::pin(a_stored_event_is_pending_with_its_body(harness)).await;
    Box::pin(the_backlog_is_shown(harness)).await;
}

/// An event that is not known has no record, and its endpoint is idle.
///
/// # Panics
/// When this does not hold.
pub async fn an_unknown_event_has_no_record<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    assert_eq!(inspector.get(&key("unknown")).await.expect("get"), None);
    assert_eq!(
        inspector.endpoints().await.expect("endpoints"),
        [""; 0],
        "probes are not an endpoint"
    );
    assert_eq!(all(&inspector, &Filter::new(ENDPOINT)).await, []);
    let status = inspector.status(ENDPOINT).await.expect("status");
    assert_eq!(status.endpoint, ENDPOINT);
    let counts = status.counts.expect("counts");
    for state in STATES {
        assert_eq!(counts.of(state), 0, "{state:?}");
    }
    assert_eq!(status.oldest_pending, None);
    assert_eq!(status.leases_in_flight, Some(0));
}

/// Each state is shown, with the attempts, and with the values of that state only.
///
/// # Panics
/// When this does not hold.
pub async fn each_state_is_shown_with_what_belongs_to_it<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    for id in ["claimed", "paused", "handled", "dead"] {
        granted(&ledger, &key(id)).await;
        harness.advance(&ledger, LEASE).await;
    }
    let (claimed, _) = granted(&ledger, &key("claimed")).await;
    assert_eq!(claimed.attempt, 2);
    let (paused, _) = granted(&ledger, &key("paused")).await;
    let pause = LEASE * 10;
    let released = ledger.release(&key("paused"), paused, pause).await;
    assert_eq!(released.expect("release"), LeaseStatus::Held);
    let (handled, _) = granted(&ledger, &key("handled")).await;
    let done = complete(&ledger, &key("handled"), handled).await;
    assert_eq!(done, LeaseStatus::Held);
    let (given_up, _) = granted(&ledger, &key("dead")).await;
    let done = ledger.complete(&key("dead"), given_up, dead()).await;
    assert_eq!(done.expect("complete"), LeaseStatus::Held);

    let view = shown::<H>(&inspector, "claimed", RecordState::Claimed).await;
    assert_about(view.lease_left, LEASE);
    assert_eq!((view.pause_left, view.finished_at), (None, None));
    let view = shown::<H>(&inspector, "paused", RecordState::Pending).await;
    assert_about(view.pause_left, pause);
    assert_eq!((view.lease_left, view.finished_at), (None, None));
    let view = shown::<H>(&inspector, "handled", RecordState::Handled).await;
    assert_eq!((view.pause_left, view.lease_left), (None, None));
    assert_eq!(view.finished_at.is_some(), H::KEEPS_TIMES);
    assert_eq!((view.reason, view.body_kept), (None, Some(false)));
    let view = shown::<H>(&inspector, "dead", RecordState::Dead).await;
    assert_eq!((view.pause_left, view.lease_left), (None, None));
    assert_eq!(view.body_kept, Some(ledger.keeps_dead_letters()));
    assert_eq!(view.reason.is_some(), ledger.keeps_dead_letters());
    if ledger.keeps_dead_letters() {
        let Completion::Dead { reason, .. } = dead() else {
            unreachable!("it is dead");
        };
        assert_eq!(view.reason, Some(reason));
        assert!(view.finished_at.is_some(), "when it died is known");
    }
}

/// The dead letter of a dead event is shown with its reason and body, whatever its id. Events in
/// other states have none. A store without dead letters says so.
///
/// # Panics
/// When this does not hold.
pub async fn a_dead_letter_is_shown_with_its_body<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    let long = "x".repeat(1_000);
    for id in ["dead", &long] {
        let (token, _) = granted(&ledger, &key(id)).await;
        let done = ledger.complete(&key(id), token, dead()).await;
        assert_eq!(done.expect("complete"), LeaseStatus::Held);
    }
    if !ledger.keeps_dead_letters() {
        let error = inspector.dead_letter(&key("dead")).await.expect_err("none");
        assert_eq!(error.kind(), InspectErrorKind::NotKept);
        return;
    }
    granted(&ledger, &key("claimed")).await;
    let (token, _) = granted(&ledger, &key("handled")).await;
    let done = complete(&ledger, &key("handled"), token).await;
    assert_eq!(done, LeaseStatus::Held);
    for id in ["unknown", "claimed", "handled"] {
        let letter = inspector.dead_letter(&key(id)).await.expect("get");
        assert_eq!(letter, None, "{id}");
    }
    let Completion::Dead { reason, body } = dead() else {
        unreachable!("it is dead");
    };
    for id in ["dead", &long] {
        let letter = inspector.dead_letter(&key(id)).await.expect("get");
        let letter = letter.expect("there is a dead letter");
        assert_eq!(letter.key, key(id));
        assert_eq!((&letter.reason, &letter.body), (&reason, &body));
        assert_eq!(letter.attempts, 1);
    }
    ledger.forget(&key("dead")).await.expect("forget");
    let letter = inspector.dead_letter(&key("dead")).await.expect("get");
    assert_eq!(letter, None, "it was forgotten");
}

/// A lease that has expired, and a pause that has ended, have nothing left.
///
/// # Panics
/// When this does not hold.
pub async fn an_expired_lease_and_an_ended_pause_are_zero<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    granted(&ledger, &key("expired")).await;
    let (token, _) = granted(&ledger, &key("free")).await;
    let released = ledger.release(&key("free"), token, LEASE).await;
    assert_eq!(released.expect("release"), LeaseStatus::Held);
    harness.advance(&ledger, LEASE * 2).await;
    let get = async |id: &str| {
        let view = inspector.get(&key(id)).await.expect("get");
        view.expect("there is a record")
    };
    let view = get("expired").await;
    assert_eq!(
        (view.state, view.lease_left),
        (RecordState::Claimed, Some(Duration::ZERO))
    );
    let view = get("free").await;
    assert_eq!(
        (view.state, view.pause_left),
        (RecordState::Pending, Some(Duration::ZERO))
    );
    let status = inspector.status(ENDPOINT).await.expect("status");
    assert_eq!(status.leases_in_flight, Some(0));
    assert_eq!(status.counts.expect("counts").claimed, 1);
    if H::KEEPS_TIMES {
        assert_about_age(status.oldest_pending, LEASE * 2);
    }
}

/// For an event that did not come as a delivery, [`RecordView::compared`] is `false`.
///
/// # Panics
/// When this does not hold.
pub async fn an_event_of_another_source_is_not_compared<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    let claimed = ledger.claim(&key("log"), Digest::UNCOMPARED, LEASE).await;
    assert!(matches!(claimed.expect("claim"), Claim::Granted { .. }));
    let view = inspector.get(&key("log")).await.expect("get");
    assert_eq!(view.expect("there is a record").compared, Some(false));
}

/// A record is found by its event's original id and by the one that is shown, whatever they
/// contain.
///
/// # Panics
/// When this does not hold.
pub async fn a_record_is_found_by_any_id<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    let plain = ["evt_1", "a:b", "a*?[b]\\", "é:事", "%_'\""].map(str::to_owned);
    for id in hostile_names().into_iter().chain(plain) {
        let key = key(&id);
        granted(&ledger, &key).await;
        let view = inspector.get(&key).await.expect("get");
        let view = view.expect("there is a record");
        assert_eq!(view.key, key);
        let shown = EventKey::from_stored(key.endpoint(), view.key.event_id());
        assert_eq!(
            inspector.get(&shown).await.expect("get").map(|it| it.key),
            Some(key)
        );
    }
}

/// The pages of a list contain all records of the endpoint that are in the requested state, and no
/// others. A list that says that it is ordered is ordered.
///
/// # Panics
/// When this does not hold.
pub async fn pages_list_every_record_of_the_endpoint_and_state<H: InspectorHarness>(harness: &H) {
    const RECORDS: usize = 23;
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    for n in 0..RECORDS {
        let key = key(&format!("evt:{n:02}"));
        let (token, _) = granted(&ledger, &key).await;
        if n % 2 == 0 {
            assert_eq!(complete(&ledger, &key, token).await, LeaseStatus::Held);
        }
        // Time advances only after every fourth record, so several records have the same time.
        if n % 4 == 3 {
            harness.advance(&ledger, Duration::from_secs(1)).await;
        }
    }
    let others = ["another*", "users2", "u"];
    for other in others {
        granted(&ledger, &EventKey::new(other, "evt:00")).await;
    }
    let ids = |step: usize, first: usize| {
        let ids = (first..RECORDS).step_by(step);
        ids.map(|n| format!("evt:{n:02}")).collect::<BTreeSet<_>>()
    };
    for (state, expected) in [
        (None, ids(1, 0)),
        (Some(RecordState::Handled), ids(2, 0)),
        (Some(RecordState::Claimed), ids(2, 1)),
        (Some(RecordState::Dead), BTreeSet::new()),
    ] {
        for limit in [1, 4, 100] {
            let mut filter = Filter::new(ENDPOINT).limit(limit);
            filter.state = state;
            let records = all(&inspector, &filter).await;
            let listed: BTreeSet<_> = records
                .iter()
                .map(|view| view.key.event_id().to_owned())
                .collect();
            assert_eq!(listed, expected, "{state:?}, {limit} at a time");
            for view in records {
                assert_eq!(view.key.endpoint(), ENDPOINT);
                assert!(state.is_none_or(|state| view.state == state), "{view:?}");
            }
        }
    }
    for other in others {
        assert_eq!(all(&inspector, &Filter::new(other)).await.len(), 1);
    }
    let endpoints = inspector.endpoints().await.expect("endpoints");
    let mut expected = [&others[..], &[ENDPOINT]].concat();
    expected.sort_unstable();
    assert_eq!(endpoints, expected);
}

/// The status has the numbers of its endpoint only.
///
/// # Panics
/// When this does not hold.
pub async fn numbers_are_counted_by_endpoint<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    granted(&ledger, &EventKey::new("another", "1")).await;
    granted(&ledger, &key("expired")).await;
    harness.advance(&ledger, LEASE).await;
    for id in ["p1", "h1", "p2", "d1", "h2", "c1", "c2", "h3"] {
        let key = key(id);
        let (token, _) = granted(&ledger, &key).await;
        let done = match &id[..1] {
            "p" => ledger.release(&key, token, LEASE).await,
            "h" => Ok(complete(&ledger, &key, token).await),
            "d" => ledger.complete(&key, token, dead()).await,
            _ => Ok(LeaseStatus::Held),
        };
        assert_eq!(done.expect("a step"), LeaseStatus::Held);
    }
    let status = inspector.status(ENDPOINT).await.expect("status");
    let counts = status.counts.expect("counts");
    assert_eq!(STATES.map(|state| counts.of(state)), [2, 3, 3, 1]);
    assert_eq!(status.leases_in_flight, Some(2));
    assert_eq!(
        status.dead_letters,
        ledger.keeps_dead_letters().then_some(1)
    );
    if H::KEEPS_TIMES {
        assert_about_age(status.oldest_pending, Duration::ZERO);
    } else {
        assert_eq!(status.oldest_pending, None);
    }
    let status = inspector.status("another").await.expect("status");
    let counts = status.counts.expect("counts");
    assert_eq!(STATES.map(|state| counts.of(state)), [0, 1, 0, 0]);
}

/// Reading a record does not change it, for the ledger and for its holder.
///
/// # Panics
/// When this does not hold.
pub async fn looking_changes_nothing<H: InspectorHarness>(harness: &H) {
    let ledger = harness.fresh().await;
    let inspector = harness.inspector(&ledger).await;
    let (token, _) = granted(&ledger, &key("held")).await;
    for _ in 0..2 {
        inspector.get(&key("held")).await.expect("get");
        inspector.get(&key("unknown")).await.expect("get");
        // The result is ignored: it is an error if the store keeps no dead letters.
        let _ = inspector.dead_letter(&key("held")).await;
        inspector.endpoints().await.expect("endpoints");
        all(&inspector, &Filter::new(ENDPOINT)).await;
        inspector.status(ENDPOINT).await.expect("status");
    }
    assert!(matches!(
        claim(&ledger, &key("held")).await,
        Claim::InFlight { .. }
    ));
    let done = complete(&ledger, &key("held"), token).await;
    assert_eq!(done, LeaseStatus::Held);
    granted(&ledger, &key("unknown")).await;
}

/// A stored event is shown as pending, without attempts, and its body is known to be kept.
///
/// # Panics
/// When this does not hold.
pub async fn a_stored_event_is_pending_with_its_body<H>(harness: &H)
where
    H: InspectorHarness<Ledger: Inbox>,
{
    let inbox = harness.fresh().await;
    let inspector = harness.inspector(&inbox).await;
    append(&inbox, "stored", None).await;
    let shown = inspector.get(&key("stored")).await.expect("get");
    let view = shown.expect("there is a record");
    assert_eq!(
        (view.state, view.attempts, view.pause_left),
        (RecordState::Pending, Some(0), Some(Duration::ZERO))
    );
    assert_eq!(
        (view.compared, view.body_kept, &view.reason),
        (Some(true), Some(true), &None)
    );
    assert_eq!(view.first_claimed_at.is_some(), H::KEEPS_TIMES);
    let filter = Filter::new(ENDPOINT).state(RecordState::Pending);
    assert_eq!(all(&inspector, &filter).await, [view]);
    assert_eq!(inspector.endpoints().await.expect("endpoints"), [ENDPOINT]);
    let event = leased(&inbox).await;
    assert_eq!(all(&inspector, &filter).await, []);
    let view = inspector.get(&key("stored")).await.expect("get");
    let view = view.expect("there is a record");
    assert_eq!((view.state, view.attempts), (RecordState::Claimed, Some(1)));
    let done = complete(&inbox, &event.key, event.token).await;
    assert_eq!(done, LeaseStatus::Held);
    let view = inspector.get(&key("stored")).await.expect("get");
    let view = view.expect("there is a record");
    assert_eq!(
        (view.state, view.body_kept),
        (RecordState::Handled, Some(false))
    );
}

/// For each endpoint, the backlog is the one that the inbox reports.
///
/// # Panics
/// When this does not hold.
pub async fn the_backlog_is_shown<H: InspectorHarness<Ledger: Inbox>>(harness: &H) {
    let inbox = harness.fresh().await;
    let inspector = harness.inspector(&inbox).await;
    for id in ["1", "2", "3"] {
        append(&inbox, id, None).await;
    }
    let other = EventKey::new("another", "1");
    let stored = inbox.append(&other, DIGEST, None, Bytes::new()).await;
    stored.expect("append");
    let event = leased(&inbox).await;
    let status = inspector.status(ENDPOINT).await.expect("status");
    let backlog = status.inbox.expect("it is an inbox");
    assert_eq!(backlog.depth, 3);
    assert_about_age(backlog.oldest, Duration::ZERO);
    let done = complete(&inbox, &event.key, event.token).await;
    assert_eq!(done, LeaseStatus::Held);
    for (endpoint, depth) in [(ENDPOINT, 2), ("another", 1), ("idle", 0)] {
        let status = inspector.status(endpoint).await.expect("status");
        let backlog = status.inbox.expect("it is an inbox");
        assert_eq!(backlog.depth, depth, "{endpoint}");
        assert_eq!(backlog.oldest.is_some(), depth > 0, "{endpoint}");
    }
}

const STATES: [RecordState; 4] = [
    RecordState::Pending,
    RecordState::Claimed,
    RecordState::Handled,
    RecordState::Dead,
];

/// All pages of a list, without the duplicates that an unordered list may have.
async fn all(inspector: &impl Inspector, filter: &Filter) -> Vec<RecordView> {
    let (mut filter, mut records) = (filter.clone(), Vec::<RecordView>::new());
    loop {
        let page = inspector.list(&filter).await.expect("list");
        if page.newest_first {
            assert!(page.records.len() <= filter.limit as usize, "{page:?}");
            let last = records.last().map(|view| view.first_claimed_at);
            let times = page.records.iter().map(|view| view.first_claimed_at);
            let times: Vec<_> = last.into_iter().chain(times).collect();
            assert!(
                times.iter().all(Option::is_some) && times.is_sorted_by(|a, b| a >= b),
                "{times:?}"
            );
        }
        for view in page.records {
            let known = records.iter().any(|known| known.key == view.key);
            assert!(!(known && page.newest_first), "{view:?} twice");
            if !known {
                records.push(view);
            }
        }
        match page.next {
            Some(next) => filter = filter.before(next),
            None => return records,
        }
    }
}

/// The record of an event that was attempted twice.
async fn shown<H: InspectorHarness>(
    inspector: &H::Inspector,
    id: &str,
    state: RecordState,
) -> RecordView {
    let view = inspector.get(&key(id)).await.expect("get");
    let view = view.expect("there is a record");
    assert_eq!((&view.key, view.state), (&key(id), state));
    assert_eq!(view.attempts, Some(2), "{id}");
    assert_eq!(view.compared, Some(true), "{id}");
    assert!(view.first_claimed_at.is_some() || !H::KEEPS_TIMES, "{id}");
    view
}

#[track_caller]
fn assert_about(found: Option<Duration>, expected: Duration) {
    let found = found.expect("it is known");
    assert!(
        found <= expected && found + SLACK > expected,
        "{found:?} instead of {expected:?}"
    );
}

#[track_caller]
fn assert_about_age(found: Option<Duration>, expected: Duration) {
    let found = found.expect("it is known");
    assert!(
        found + Duration::from_secs(1) >= expected && found < expected + SLACK,
        "{found:?} instead of {expected:?}"
    );
}
