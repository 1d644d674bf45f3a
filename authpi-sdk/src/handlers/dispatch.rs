//! Runs handlers without a receiver, for tests of handlers.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    AnyStore, AttemptState, DEFAULT_HANDLER_TIMEOUT, HandlerError, Handlers, Outcome, run,
};
use crate::{
    event::Event,
    ledger::{Claim, Completion, Digest, EventKey, LeaseStatus, LedgerError, Token, Transactional},
    signature::Verified,
};

/// The endpoint name of dispatched events.
const ENDPOINT: &str = "dispatch";

/// Longer than the handler's timeout, since dispatching does not renew the lease.
const LEASE: Duration = Duration::from_mins(1);

impl<S: Send + Sync + 'static> Handlers<S> {
    /// Handles one event, without HTTP and without a ledger, as attempt 1 with a timeout of 10 s.
    /// For tests of handlers.
    ///
    /// Handlers that take a [`Tx`](crate::ledger::Tx) need a store:
    /// [`dispatch_in`](Self::dispatch_in).
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled. (A handler that panics is an
    /// [`Outcome`].)
    ///
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use authpi_sdk::event::{Event, types::UserCreated};
    /// use authpi_sdk::handlers::{Handlers, Outcome};
    ///
    /// let handlers = Handlers::new(()).on(async |_event: Event<UserCreated>, _cx| Ok(()));
    /// let event = authpi_sdk::testing::fixture::<UserCreated>();
    /// assert!(matches!(handlers.dispatch(event).await, Outcome::Handled));
    /// # }) }
    /// ```
    pub async fn dispatch(&self, event: Verified<Event>) -> Outcome {
        let token = Token {
            attempt: 1,
            nonce: 0,
        };
        let key = EventKey::new(ENDPOINT, event.shared_id());
        self.attempt(&AnyStore, &event, key, token).await
    }
}

impl<S: Send + Sync + 'static, L: Transactional> Handlers<S, L> {
    /// Handles one event, without HTTP, with transactions in `store`, as attempt 1 with a timeout
    /// of 10 s. For tests of handlers, against a test database.
    ///
    /// The event is claimed under the endpoint name `dispatch`. An earlier record of this event
    /// under that name is deleted first. A handler's transaction commits together with the
    /// completion of the claim, as in a receiver.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled. (A handler that panics is an
    /// [`Outcome`].)
    ///
    /// # Errors
    /// When the store fails. (A transaction that cannot begin or commit is an
    /// [`Outcome::Failed`].)
    ///
    /// ```
    /// # #[cfg(all(feature = "testing", feature = "sqlite"))] {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use authpi_sdk::event::{Event, types::UserCreated};
    /// use authpi_sdk::handlers::{Handlers, Outcome};
    /// use authpi_sdk::{ledger::Tx, stores::Sqlite};
    ///
    /// let store = Sqlite::in_memory().await.unwrap();
    /// let handlers = Handlers::new(()).on_tx(
    ///     async |_event: Event<UserCreated>, _cx, mut tx: Tx<Sqlite>| {
    ///         sqlx::query("CREATE TABLE users (id)").execute(&mut *tx).await?;
    ///         Ok(())
    ///     },
    /// );
    /// let event = authpi_sdk::testing::fixture::<UserCreated>();
    /// let outcome = handlers.dispatch_in(&store, event).await.unwrap();
    /// assert!(matches!(outcome, Outcome::Committed));
    /// # }) }
    /// ```
    pub async fn dispatch_in(
        &self,
        store: &L,
        event: Verified<Event>,
    ) -> Result<Outcome, LedgerError> {
        let key = EventKey::new(ENDPOINT, event.shared_id());
        store.forget(&key).await?;
        let Claim::Granted { token, .. } = store.claim(&key, Digest::UNCOMPARED, LEASE).await?
        else {
            let error = HandlerError::retryable("the event is being dispatched elsewhere");
            return Ok(Outcome::Failed(error));
        };
        let outcome = self.attempt(store, &event, key.clone(), token).await;
        match outcome {
            Outcome::Committed => {}
            Outcome::Handled => {
                let completed = store.complete(&key, token, Completion::Handled).await?;
                if completed == LeaseStatus::Lost {
                    return Ok(Outcome::LeaseLost);
                }
            }
            _ => drop(store.forget(&key).await?),
        }
        Ok(outcome)
    }
}

impl<S: Send + Sync + 'static, L: Clone + Send + Sync + 'static> Handlers<S, L> {
    async fn attempt(&self, store: &L, event: &Event, key: EventKey, token: Token) -> Outcome {
        let Some(route) = self.route(event.event_type(), store) else {
            return Outcome::Unhandled;
        };
        let attempt = AttemptState::new(
            event,
            key,
            Some(token),
            Timestamp::now(),
            DEFAULT_HANDLER_TIMEOUT,
            None,
            &Arc::default(),
        );
        run(&route, attempt, None).await
    }
}
