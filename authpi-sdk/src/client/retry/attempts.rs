//! The attempts at one call: what has been tried, and whether to try again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Budget, FailedAttempt, NoMore, Reason, RetryPolicy};
use crate::client::{error::Error, observe};

/// What a call brings along for the decision.
#[derive(Clone, Copy, Debug)]
pub(in crate::client) struct Terms<'a> {
    pub(in crate::client) operation: &'static str,
    /// Whether it can be done twice without doing its work twice.
    pub(in crate::client) safe: bool,
    pub(in crate::client) keyed: bool,
    pub(in crate::client) policy: &'a RetryPolicy,
    pub(in crate::client) budget: &'a dyn Budget,
    pub(in crate::client) deadline: Instant,
    /// How long one attempt may take.
    pub(in crate::client) attempt_timeout: Duration,
}

/// The attempts at one call.
#[derive(Debug)]
pub(in crate::client) struct Attempts<'a> {
    terms: Terms<'a>,
    made: u32,
    /// Those among them that the policy does not count.
    free: u32,
    /// Whether the server may have acted on one of them.
    may_have_run: bool,
    /// The price of the last repeat.
    paid: Option<u32>,
}

impl<'a> Attempts<'a> {
    pub(in crate::client) fn new(terms: Terms<'a>) -> Self {
        Self { terms, made: 0, free: 0, may_have_run: false, paid: None }
    }

    /// Begins the next attempt; the moment by which it must be over.
    pub(in crate::client) fn begin(&mut self) -> Instant {
        self.made += 1;
        let now = Instant::now();
        let left = self.terms.deadline.saturating_duration_since(now);
        now + self.terms.attempt_timeout.min(left)
    }

    pub(in crate::client) fn made(&self) -> u32 {
        self.made
    }

    /// Whether the server may have acted on an attempt before this one.
    pub(in crate::client) fn fate_unknown(&self) -> bool {
        self.may_have_run
    }

    /// The call has its answer.
    pub(in crate::client) fn succeeded(&self) {
        self.terms.budget.succeeded(self.paid);
    }

    /// There is a new access token instead of the one that was refused: one attempt more, at once, and free of charge.
    pub(in crate::client) fn renewed(&mut self, error: &Error) {
        self.may_have_run |= error.may_have_run();
        observe::repeated(self.terms.operation, self.made, Reason::TokenRenewed, error, Duration::ZERO);
        self.free += 1;
    }

    /// Waits until the next attempt may begin, or gives the error that the call ends with.
    pub(in crate::client) async fn again(&mut self, error: Error) -> Result<(), Error> {
        let (reason, wait) = match self.judge(&error) {
            Ok(next) => next,
            Err(why) => return Err(self.over(error, why)),
        };
        self.may_have_run |= error.may_have_run();
        observe::repeated(self.terms.operation, self.made, reason, &error, wait);
        sleep(wait).await;
        Ok(())
    }

    /// Why the call is made again and after what wait, or why not. The budget is asked last, so that nothing is paid in vain.
    fn judge(&mut self, error: &Error) -> Result<(Reason, Duration), NoMore> {
        let Terms { operation, safe, keyed, policy, budget, deadline, .. } = self.terms;
        let failed = FailedAttempt { operation, attempt: self.made, keyed, error };
        let reason = policy.what.passes(&failed).ok_or(NoMore::Permanent)?;
        if error.may_have_run() && !safe {
            return Err(NoMore::NotSafe);
        }
        let counted = self.made - self.free;
        if counted >= policy.attempts {
            return Err(NoMore::Attempts);
        }
        let wait = policy.wait(counted, error.retry_after());
        if wait >= deadline.saturating_duration_since(Instant::now()) {
            return Err(NoMore::Deadline);
        }
        self.paid = Some(budget.withdraw(reason).ok_or(NoMore::Budget)?);
        Ok((reason, wait))
    }

    /// The error that the call ends with: it speaks for all attempts.
    fn over(&self, error: Error, why: NoMore) -> Error {
        let earlier = self.may_have_run;
        error.after(self.made, why, earlier)
    }
}
