//! The attempts at one call, and the decision to retry.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Budget, FailedAttempt, RetryPolicy, RetryReason, RetryStop};
use crate::client::transport::{error::Error, telemetry};

/// The resolution of tokio's timer, which rounds up.
const TIMER_TICK: Duration = Duration::from_millis(1);

/// The properties of a call that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) operation: &'static str,
    /// Whether the call may be sent again although the server may have acted.
    pub(crate) safe: bool,
    pub(crate) keyed: bool,
    pub(crate) policy: &'a RetryPolicy,
    pub(crate) budget: &'a dyn Budget,
    pub(crate) deadline: Instant,
    /// The time limit of one attempt.
    pub(crate) attempt_timeout: Duration,
}

/// The attempts at one call.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    terms: Terms<'a>,
    made: u32,
    /// Attempts that the policy does not count.
    free: u32,
    /// Whether the server may have acted on an attempt before the last one.
    may_have_run: bool,
    /// The price of the last retry.
    paid: Option<u32>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(terms: Terms<'a>) -> Self {
        Self {
            terms,
            made: 0,
            free: 0,
            may_have_run: false,
            paid: None,
        }
    }

    /// Begins the next attempt. Returns its deadline.
    pub(crate) fn begin(&mut self) -> Instant {
        self.made += 1;
        let now = Instant::now();
        let left = self.terms.deadline.saturating_duration_since(now);
        now + self.terms.attempt_timeout.min(left)
    }

    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    /// Whether the server may have acted on an earlier attempt.
    pub(crate) fn fate_unknown(&self) -> bool {
        self.may_have_run
    }

    /// The call has succeeded.
    pub(crate) fn succeeded(&self) {
        self.terms.budget.succeeded(self.paid);
    }

    /// A new access token has replaced the refused one. Permits one more attempt, at once, which
    /// neither the policy nor the budget counts.
    pub(crate) fn renewed(&mut self, error: &Error) {
        self.may_have_run |= error.may_have_run();
        telemetry::repeated(
            self.terms.operation,
            self.made,
            RetryReason::TokenRenewed,
            error,
            Duration::ZERO,
        );
        self.free += 1;
    }

    /// Waits until the next attempt, or returns the error of the call.
    pub(crate) async fn again(&mut self, error: Error) -> Result<(), Error> {
        let (reason, wait) = match self.judge(&error) {
            Ok(next) => next,
            Err(why) => return Err(self.over(error, why)),
        };
        self.may_have_run |= error.may_have_run();
        telemetry::repeated(self.terms.operation, self.made, reason, &error, wait);
        sleep(wait).await;
        Ok(())
    }

    /// Decides whether the call is retried: the reason and the pause, or why not. The budget is
    /// asked last, so that it only pays for retries that are made.
    fn judge(&mut self, error: &Error) -> Result<(RetryReason, Duration), RetryStop> {
        let Terms {
            operation,
            safe,
            keyed,
            policy,
            budget,
            deadline,
            ..
        } = self.terms;
        let failed = FailedAttempt {
            operation,
            attempt: self.made,
            keyed,
            error,
        };
        let reason = policy
            .classifier
            .passes(&failed)
            .ok_or(RetryStop::Permanent)?;
        if error.may_have_run() && !safe {
            return Err(RetryStop::NotSafe);
        }
        let counted = self.made - self.free;
        if counted >= policy.attempts {
            return Err(RetryStop::Attempts);
        }
        let wait = policy.wait(counted, error.retry_after());
        // The timer rounds up, so a pause that ends just before the deadline would leave no time
        // for an attempt.
        if wait.saturating_add(TIMER_TICK) > deadline.saturating_duration_since(Instant::now()) {
            return Err(RetryStop::Deadline);
        }
        self.paid = Some(budget.withdraw(reason).ok_or(RetryStop::Budget)?);
        Ok((reason, wait))
    }

    /// The error of the call, which covers all attempts.
    pub(crate) fn over(&self, error: Error, why: RetryStop) -> Error {
        let earlier = self.may_have_run;
        error.after(self.made, why, earlier)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;
    use crate::client::transport::retry::{Backoff, ExponentialBackoff, TokenBucket, Unlimited};
    use crate::client::transport::{error::Kind, response::Response};

    /// Always pauses for the maximum.
    #[derive(Debug)]
    struct Longest(ExponentialBackoff);

    impl Backoff for Longest {
        fn pause(&self, repeat: u32) -> Duration {
            self.0.ceiling(repeat)
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn policy() -> RetryPolicy {
        RetryPolicy::default().backoff(Longest(ExponentialBackoff::default()))
    }

    fn terms<'a>(policy: &'a RetryPolicy, budget: &'a dyn Budget) -> Terms<'a> {
        let deadline = Instant::now() + seconds(30);
        let (operation, attempt_timeout) = ("webhooks.create", seconds(10));
        Terms {
            operation,
            safe: true,
            keyed: true,
            policy,
            budget,
            deadline,
            attempt_timeout,
        }
    }

    fn refused(status: u16, retry_after: Option<u64>) -> Error {
        let mut answer = Response {
            status: StatusCode::from_u16(status).unwrap(),
            ..Response::default()
        };
        if let Some(after) = retry_after {
            answer
                .headers
                .insert(http::header::RETRY_AFTER, after.into());
        }
        Error::refused(answer)
    }

    fn timed_out() -> Error {
        Error::new(Kind::Timeout { connecting: false }, true)
    }

    /// Fails at once, again and again, until the call ends.
    async fn failing(terms: Terms<'_>, fail: impl Fn(u32) -> Error) -> (Error, Vec<Duration>) {
        let (mut attempts, mut waits) = (Attempts::new(terms), Vec::new());
        loop {
            attempts.begin();
            let before = Instant::now();
            match attempts.again(fail(attempts.made())).await {
                Ok(()) => waits.push(before.elapsed()),
                Err(error) => return (error, waits),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_five_attempts_with_pauses_that_double_from_200_ms() {
        let (error, waits) = failing(terms(&policy(), &Unlimited), |_| refused(503, None)).await;
        assert_eq!(waits, [200, 400, 800, 1600].map(Duration::from_millis));
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (5, Some(RetryStop::Attempts))
        );
        assert!(error.may_have_run());
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_after_is_waited_for_up_to_its_cap_and_the_pause_comes_on_top() {
        let policy = policy().max_retry_after(seconds(5));
        let asked = [Some(3), Some(60), None, Some(0)];
        let (_, waits) = failing(terms(&policy, &Unlimited), |attempt| {
            refused(429, asked.get(attempt as usize - 1).copied().flatten())
        })
        .await;
        assert_eq!(waits, [3200, 5400, 800, 1600].map(Duration::from_millis));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_would_outlast_the_deadline_is_not_begun() {
        let begin = Instant::now();
        let (error, waits) =
            failing(terms(&policy(), &Unlimited), |_| refused(429, Some(31))).await;
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (1, Some(RetryStop::Deadline))
        );
        assert!(
            waits.is_empty() && begin.elapsed().is_zero(),
            "the call ends at once"
        );
        assert!(
            error.is_rate_limited() && !error.may_have_run(),
            "it ends with the last error: {error:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_leaves_less_than_the_timer_can_tell_is_not_begun() {
        let (policy, begin) = (policy(), Instant::now());
        let terms = Terms {
            deadline: begin + Duration::from_micros(30_000_500),
            ..terms(&policy, &Unlimited)
        };
        let (error, waits) = failing(terms, |_| refused(429, Some(30))).await;
        assert_eq!(
            (error.retry_stop(), waits),
            (Some(RetryStop::Deadline), Vec::new())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_has_its_own_time_cut_to_what_is_left() {
        let (policy, begin) = (policy(), Instant::now());
        let mut attempts = Attempts::new(terms(&policy, &Unlimited));
        let mut ends = Vec::new();
        loop {
            let until = attempts.begin();
            ends.push(until.duration_since(begin).as_millis());
            tokio::time::sleep_until(until).await;
            if let Err(error) = attempts.again(timed_out()).await {
                assert_eq!(
                    (error.attempts(), error.retry_stop()),
                    (3, Some(RetryStop::Deadline))
                );
                break;
            }
        }
        assert_eq!(ends, [10_000, 20_200, 30_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unsafe_call_is_repeated_only_if_the_server_has_not_acted() {
        let policy = policy();
        let not_safe = Terms {
            safe: false,
            keyed: false,
            ..terms(&policy, &Unlimited)
        };
        for (fail, attempts, why) in [
            (timed_out as fn() -> Error, 1, RetryStop::NotSafe),
            (|| Error::new(Kind::Transport, true), 1, RetryStop::NotSafe),
            (|| refused(503, None), 1, RetryStop::NotSafe),
            (|| refused(429, None), 5, RetryStop::Attempts),
            (
                || Error::new(Kind::Connect { transient: true }, false),
                5,
                RetryStop::Attempts,
            ),
            (
                || Error::new(Kind::Connect { transient: false }, false),
                1,
                RetryStop::Permanent,
            ),
            (|| refused(412, None), 1, RetryStop::Permanent),
        ] {
            let (error, _) = failing(not_safe, |_| fail()).await;
            assert_eq!(
                (error.attempts(), error.retry_stop()),
                (attempts, Some(why)),
                "{error:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_policy_can_make_a_call_safe_that_is_not() {
        #[derive(Debug)]
        struct Everything;
        impl crate::client::transport::retry::RetryClassifier for Everything {
            fn passes(&self, _: &FailedAttempt<'_>) -> Option<RetryReason> {
                Some(RetryReason::Other)
            }
        }
        let policy = policy().classifier(Everything);
        let not_safe = Terms {
            safe: false,
            keyed: false,
            ..terms(&policy, &Unlimited)
        };
        let (error, _) = failing(not_safe, |_| timed_out()).await;
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (1, Some(RetryStop::NotSafe))
        );
        let (error, _) = failing(terms(&policy, &Unlimited), |_| refused(418, None)).await;
        assert_eq!(
            error.attempts(),
            5,
            "but it can find more failures worth repeating"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_speaks_for_all_attempts() {
        let (error, _) = failing(terms(&policy(), &Unlimited), |attempt| match attempt {
            1 => timed_out(),
            _ => refused(422, None),
        })
        .await;
        assert!(
            error.is_validation() && error.may_have_run(),
            "the first attempt may have done it: {error:?}"
        );
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (2, Some(RetryStop::Permanent))
        );
        assert_eq!(
            error.to_string(),
            "refused [422]; the server may have acted; attempt 2, a retry would fail again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_budget_stops_all_retries_and_successes_refill_it() {
        let (policy, budget) = (policy(), Arc::new(TokenBucket::new(10)));
        let (error, _) = failing(terms(&policy, &budget), |_| refused(503, None)).await;
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (3, Some(RetryStop::Budget))
        );
        for _ in 0..2 {
            let (error, waits) = failing(terms(&policy, &budget), |_| refused(503, None)).await;
            assert_eq!(
                (error.attempts(), error.retry_stop()),
                (1, Some(RetryStop::Budget)),
                "all calls share it"
            );
            assert!(waits.is_empty());
        }
        for _ in 0..5 {
            let mut attempts = Attempts::new(terms(&policy, &budget));
            attempts.begin();
            attempts.succeeded();
        }
        let (error, _) = failing(terms(&policy, &budget), |_| refused(503, None)).await;
        assert_eq!(error.attempts(), 2, "five successes pay for one repeat");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_paid_for_a_repeat_that_is_not_made() {
        let budget = TokenBucket::new(10);
        failing(terms(&policy(), &budget), |_| refused(404, None)).await;
        failing(terms(&policy(), &budget), |_| refused(429, Some(60))).await;
        failing(terms(&RetryPolicy::never(), &budget), |_| {
            refused(503, None)
        })
        .await;
        assert_eq!(budget.tokens(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_that_succeeds_gives_back_what_it_cost() {
        let (policy, budget) = (policy(), TokenBucket::new(100));
        let mut attempts = Attempts::new(terms(&policy, &budget));
        attempts.begin();
        attempts.again(timed_out()).await.unwrap();
        assert_eq!(budget.tokens(), 90, "a timeout costs twice as much");
        attempts.begin();
        attempts.succeeded();
        assert_eq!(budget.tokens(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_token_costs_neither_attempt_nor_budget_nor_time() {
        let (policy, budget, begin) = (RetryPolicy::never(), TokenBucket::new(10), Instant::now());
        let mut attempts = Attempts::new(terms(&policy, &budget));
        attempts.begin();
        attempts.renewed(&refused(401, None));
        attempts.begin();
        let error = attempts.again(refused(503, None)).await.unwrap_err();
        assert_eq!(
            (error.attempts(), error.retry_stop()),
            (2, Some(RetryStop::Attempts))
        );
        assert_eq!((budget.tokens(), begin.elapsed()), (10, Duration::ZERO));
    }

    /// For each attempt: how many milliseconds it takes to fail, the kind of failure, and the
    /// seconds of its `Retry-After`.
    fn failures() -> impl Strategy<Value = Vec<(u64, u8, Option<u64>)>> {
        prop::collection::vec(
            (0..20_000_u64, 0..5_u8, prop::option::of(0..120_u64)),
            1..12,
        )
    }

    proptest! {
        #[test]
        fn whatever_happens_the_deadline_the_cap_the_attempts_and_the_budget_hold(
            attempts in 1..9_u32,
            (first, longest) in (0..5_000_u64, 0..60_000_u64),
            cap in 0..90_u64,
            (deadline, attempt_timeout) in (1..120_000_u64, 1..30_000_u64),
            capacity in 0..60_u32,
            safe: bool,
            jitter: bool,
            failures in failures(),
        ) {
            let backoff = ExponentialBackoff::new(Duration::from_millis(first), Duration::from_millis(longest));
            let policy = RetryPolicy::default().max_attempts(attempts).max_retry_after(seconds(cap));
            let policy = if jitter { policy.backoff(backoff) } else { policy.backoff(Longest(backoff)) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (begin, budget) = (Instant::now(), TokenBucket::new(capacity));
                let allowed = Duration::from_millis(deadline);
                let attempt_timeout = Duration::from_millis(attempt_timeout);
                let terms = Terms { safe, deadline: begin + allowed, attempt_timeout, ..terms(&policy, &budget) };
                let mut made = Attempts::new(terms);
                let (mut may_have_run, mut count) = (false, 0);
                for (takes, kind, retry_after) in failures.iter().cycle() {
                    count += 1;
                    let (now, until) = (Instant::now(), made.begin());
                    prop_assert!(until <= begin + allowed && until <= now + attempt_timeout);
                    let ends = (now + Duration::from_millis(*takes)).min(until);
                    tokio::time::sleep_until(ends).await;
                    let error = match kind {
                        _ if ends == until => timed_out(),
                        0 => refused(429, *retry_after),
                        1 => refused(503, *retry_after),
                        2 => refused(409, *retry_after),
                        3 => Error::new(Kind::Connect { transient: true }, false),
                        _ => refused(404, *retry_after),
                    };
                    may_have_run |= error.may_have_run();
                    let asked = error.retry_after().unwrap_or_default().min(seconds(cap));
                    let failed = Instant::now();
                    let again = made.again(error).await;
                    prop_assert!(budget.tokens() <= capacity);
                    match again {
                        Ok(()) => {
                            prop_assert!(failed.elapsed() >= asked, "it waited less than it was asked to");
                            prop_assert!(failed.elapsed() <= asked + Duration::from_millis(longest) + Duration::from_millis(1));
                            prop_assert!(begin.elapsed() < allowed, "nothing is left to try again in");
                            prop_assert!(safe || !may_have_run, "it was not safe to repeat");
                        }
                        Err(error) => {
                            prop_assert!(failed.elapsed().is_zero(), "it waited for nothing");
                            prop_assert_eq!(error.attempts(), count);
                            prop_assert!(count <= attempts);
                            prop_assert_eq!(error.may_have_run(), may_have_run);
                            prop_assert!(error.retry_stop().is_some());
                            break;
                        }
                    }
                }
                prop_assert!(begin.elapsed() <= allowed, "the deadline was not kept");
                Ok(())
            })?;
        }
    }
}
