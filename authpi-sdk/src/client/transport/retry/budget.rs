//! The budget for retries.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::RetryReason;

/// A budget for retries, shared by the clones of a client, so that retries do not make an outage
/// worse.
pub trait Budget: fmt::Debug + Send + Sync + 'static {
    /// Pays for one retry and returns the price. Returns `None` and takes nothing if not enough is
    /// left.
    fn withdraw(&self, reason: RetryReason) -> Option<u32>;

    /// A call has succeeded. `paid` is the price of its last retry, if any.
    fn succeeded(&self, paid: Option<u32>);
}

impl<B: Budget + ?Sized> Budget for Arc<B> {
    fn withdraw(&self, reason: RetryReason) -> Option<u32> {
        (**self).withdraw(reason)
    }

    fn succeeded(&self, paid: Option<u32>) {
        (**self).succeeded(paid);
    }
}

/// A token bucket. A retry costs 5 tokens, or 10 after a timeout, which occupies a connection for
/// longer than any other failure.
///
/// A success returns the price of its last retry, or 1 if it had none. One token is added per
/// second, so that a client with few calls can retry again after an outage. The default capacity of
/// 500 tokens permits 100 retries without a success, then one every 5 s. After timeouts, it permits
/// 50 retries, then one every 10 s. The bucket is full at first and never goes below zero.
pub struct TokenBucket {
    capacity: u32,
    state: Mutex<State>,
}

struct State {
    tokens: u32,
    /// The time up to which tokens have been added.
    refilled: Option<Instant>,
}

const PRICE: u32 = 5;
const PRICE_OF_A_TIMEOUT: u32 = 10;

impl TokenBucket {
    /// A full bucket of this capacity. With a capacity below 5, nothing is ever retried.
    pub fn new(capacity: u32) -> Self {
        Self {
            capacity,
            state: Mutex::new(State {
                tokens: capacity,
                refilled: None,
            }),
        }
    }

    /// The current number of tokens.
    pub fn tokens(&self) -> u32 {
        self.state().tokens
    }

    /// The state, after adding the tokens for the time that has passed.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = *state.refilled.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        if seconds > 0 {
            self.put(&mut state, u32::try_from(seconds).unwrap_or(u32::MAX));
            // The rest of a second counts towards the next token.
            state.refilled = since.checked_add(Duration::from_secs(seconds));
        }
        state
    }

    fn put(&self, state: &mut State, tokens: u32) {
        state.tokens = state.tokens.saturating_add(tokens).min(self.capacity);
    }
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self::new(500)
    }
}

impl Budget for TokenBucket {
    fn withdraw(&self, reason: RetryReason) -> Option<u32> {
        let price = if reason == RetryReason::Timeout {
            PRICE_OF_A_TIMEOUT
        } else {
            PRICE
        };
        let mut state = self.state();
        state.tokens = state.tokens.checked_sub(price)?;
        Some(price)
    }

    fn succeeded(&self, paid: Option<u32>) {
        let mut state = self.state();
        self.put(&mut state, paid.unwrap_or(1));
    }
}

impl fmt::Debug for TokenBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBucket")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// No limit: every retry that the policy allows is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlimited;

impl Budget for Unlimited {
    fn withdraw(&self, _: RetryReason) -> Option<u32> {
        Some(0)
    }

    fn succeeded(&self, _: Option<u32>) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_token_comes_back_each_second_and_never_more_than_there_is_room_for() {
        let budget = TokenBucket::new(10);
        assert!(budget.withdraw(RetryReason::Timeout).is_some());
        assert_eq!(budget.withdraw(RetryReason::Broken), None);
        for (millis, tokens) in [(999, 0), (1, 1), (2_500, 3), (500, 4), (60_000, 10)] {
            tokio::time::advance(Duration::from_millis(millis)).await;
            assert_eq!(budget.tokens(), tokens);
        }
    }

    #[test]
    fn many_at_once_get_no_more_than_there_is() {
        let budget = TokenBucket::new(500);
        let granted = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100)
                            .filter(|_| budget.withdraw(RetryReason::Broken).is_some())
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<usize>()
        });
        // One more for each five seconds that this has taken.
        assert!(
            (100..=104).contains(&granted),
            "{granted} repeats were granted"
        );
    }

    proptest! {
        #[test]
        fn a_budget_stays_within_its_capacity_and_conserves_tokens(
            capacity in 0..1_000_u32,
            steps in prop::collection::vec((0..4_u8, 0..10_000_u64), 0..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (budget, mut paid) = (TokenBucket::new(capacity), None);
                for (step, millis) in steps {
                    let before = budget.tokens();
                    match step {
                        0 | 1 => {
                            let reason = if step == 0 { RetryReason::Timeout } else { RetryReason::Unavailable };
                            let price = if step == 0 { 10 } else { 5 };
                            let got = budget.withdraw(reason);
                            prop_assert_eq!(got, (before >= price).then_some(price));
                            prop_assert_eq!(budget.tokens(), before - got.unwrap_or(0));
                            paid = got;
                        }
                        2 => {
                            budget.succeeded(paid);
                            prop_assert_eq!(budget.tokens(), (before + paid.unwrap_or(1)).min(capacity));
                        }
                        _ => tokio::time::advance(Duration::from_millis(millis)).await,
                    }
                    prop_assert!(budget.tokens() <= capacity);
                }
                Ok(())
            })?;
        }
    }
}
