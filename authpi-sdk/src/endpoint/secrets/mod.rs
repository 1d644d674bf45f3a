//! Stores for the secrets that AuthPI shows once.
//!
//! A [`SecretStore`] usually has one [`StoredSecret`] per endpoint name, or two during a rotation
//! and for some time after it. [`ensure`](crate::client::Webhooks::ensure) and
//! [`rotate`](crate::client::Webhooks::rotate) write them, and the receiver's [`EndpointKeys`] are
//! loaded from them. Each secret is a separate record under its webhook's id, so that concurrent
//! writers do not undo each other's changes.
//!
//! [`FileSecretStore`] is for one machine, `PostgresSecretStore` (feature `postgres`) for any
//! number of machines, [`MemorySecretStore`] for tests. Implement the trait for your own vault.

mod file;
mod keys;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod stored;

use std::{error::Error as StdError, fmt, future::Future};

pub use file::{DEFAULT_LOCK_TIMEOUT, FileSecretStore};
pub use keys::EndpointKeys;
pub use memory::MemorySecretStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresSecretStore;
pub use stored::StoredSecret;

/// Stores the one-time secrets of webhooks.
///
/// An endpoint is identified by the name of its webhook. A store has a set of [`StoredSecret`]s per
/// endpoint, identified by account and webhook id. Use a store, or at least an endpoint name, for
/// one account only: [`EndpointKeys`] trusts all secrets under the name.
///
/// All replicas of a service must share the store. Otherwise a replica that starts more than 24
/// hours after the webhook was created does not know its secret.
pub trait SecretStore: Send + Sync {
    /// The secrets of an endpoint, in any order; empty for an unknown endpoint.
    ///
    /// # Errors
    /// When the store fails, or its content is not readable.
    fn load(
        &self,
        endpoint: &str,
    ) -> impl Future<Output = Result<Vec<StoredSecret>, SecretStoreError>> + Send;

    /// Saves a secret. It replaces the one with the same account and webhook id, if any, and
    /// changes no other. When this returns, the secret must survive a crash: AuthPI does not show
    /// it again.
    ///
    /// # Errors
    /// When the store fails.
    fn save(
        &self,
        endpoint: &str,
        kept: &StoredSecret,
    ) -> impl Future<Output = Result<(), SecretStoreError>> + Send;

    /// Removes a secret. It is not an error if there is none.
    ///
    /// # Errors
    /// When the store fails.
    fn forget(
        &self,
        endpoint: &str,
        account_id: &str,
        webhook_id: &str,
    ) -> impl Future<Output = Result<(), SecretStoreError>> + Send;

    /// The current keys for the endpoint's receiver.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn keys(
        &self,
        endpoint: &str,
    ) -> impl Future<Output = Result<EndpointKeys, SecretStoreError>> + Send {
        async { Ok(EndpointKeys::of(&self.load(endpoint).await?)) }
    }
}

impl<S: SecretStore + ?Sized> SecretStore for &S {
    fn load(
        &self,
        endpoint: &str,
    ) -> impl Future<Output = Result<Vec<StoredSecret>, SecretStoreError>> + Send {
        S::load(self, endpoint)
    }

    fn save(
        &self,
        endpoint: &str,
        kept: &StoredSecret,
    ) -> impl Future<Output = Result<(), SecretStoreError>> + Send {
        S::save(self, endpoint, kept)
    }

    fn forget(
        &self,
        endpoint: &str,
        account_id: &str,
        webhook_id: &str,
    ) -> impl Future<Output = Result<(), SecretStoreError>> + Send {
        S::forget(self, endpoint, account_id, webhook_id)
    }
}

/// A secret store failed. The message contains no secret; the cause is its `source`.
#[derive(Debug)]
pub struct SecretStoreError {
    step: &'static str,
    source: Box<dyn StdError + Send + Sync>,
}

impl SecretStoreError {
    /// `step` names the failed step, such as "load secrets". The cause must not contain a secret.
    pub fn new(step: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            step,
            source: source.into(),
        }
    }
}

impl fmt::Display for SecretStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret store failed to {}", self.step)
    }
}

impl StdError for SecretStoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
