//! Stores for the secrets that AuthPI shows once.
//!
//! A [`SecretStore`] has a few [`StoredSecret`]s per endpoint name: usually one, and two during a
//! rotation. [`ensure`](crate::client::Webhooks::ensure) and
//! [`rotate`](crate::client::Webhooks::rotate) write them, and the receiver's [`EndpointKeys`] are
//! loaded from them. Each secret is a record of its own under its webhook's id, so that concurrent
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

/// Keeps the one-time secrets of webhooks.
///
/// An endpoint is named by what the service calls it: the webhook's name. What is kept there is a
/// set of [`StoredSecret`]s, identified by account and webhook id. Use a store, or at least an
/// endpoint name, for one account alone: [`EndpointKeys`] trusts all that is kept under the name.
///
/// A store must be shared by all replicas of a service, or a replica that starts more than 24 hours
/// after the webhook was made does not know its secret.
pub trait SecretStore: Send + Sync {
    /// The secrets that are kept for an endpoint, in any order; none for one that is not known.
    ///
    /// # Errors
    /// When the store fails, or what it keeps cannot be read.
    fn load(
        &self,
        endpoint: &str,
    ) -> impl Future<Output = Result<Vec<StoredSecret>, SecretStoreError>> + Send;

    /// Keeps a secret, in the place of the one of the same account and webhook id if there is one,
    /// and touches no other. When it returns, the secret must survive a crash: AuthPI does not show
    /// it again.
    ///
    /// # Errors
    /// When the store fails.
    fn save(
        &self,
        endpoint: &str,
        kept: &StoredSecret,
    ) -> impl Future<Output = Result<(), SecretStoreError>> + Send;

    /// Removes a secret; one that is not there is not an error.
    ///
    /// # Errors
    /// When the store fails.
    fn forget(
        &self,
        endpoint: &str,
        account_id: &str,
        webhook_id: &str,
    ) -> impl Future<Output = Result<(), SecretStoreError>> + Send;

    /// The keys for the endpoint's receiver, as the store has them now.
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

/// A store of secrets failed. Its message holds no secret; the cause is its `source`.
#[derive(Debug)]
pub struct SecretStoreError {
    step: &'static str,
    source: Box<dyn StdError + Send + Sync>,
}

impl SecretStoreError {
    /// `step` says what was being done, as in "load secrets"; the cause must not hold a secret.
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
