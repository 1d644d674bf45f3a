//! Manages a webhook endpoint: when a service starts, it declares the webhook that it needs,
//! instead of calling the API step by step.
//!
//! [`Webhooks::ensure`] creates the webhook if it is missing and updates it if it differs, from any
//! number of replicas at once. It stores the one-time secret in a [`SecretStore`].
//! [`Webhooks::rotate`] replaces the secret without a gap, and [`Webhooks::update_with`] changes
//! the webhook depending on its current state. [`Call::track`] and [`Webhooks::outcome`] wait for
//! the outcome of deliveries that are sent again: see [`redelivery`].
//!
//! [`Call::track`]: crate::client::Call::track
//! [`Webhooks::ensure`]: crate::client::Webhooks::ensure
//! [`Webhooks::outcome`]: crate::client::Webhooks::outcome
//! [`Webhooks::rotate`]: crate::client::Webhooks::rotate
//! [`Webhooks::update_with`]: crate::client::Webhooks::update_with

mod ensure;
pub mod redelivery;
mod secrets;
mod update_with;

pub use ensure::{
    DEFAULT_SECRET_WAIT, Diff, Endpoint, EndpointError, Ensure, Ensured, LastMatches, Rotate,
    Rotation,
};
#[cfg(feature = "postgres")]
pub use secrets::PostgresSecretStore;
pub use secrets::{
    DEFAULT_LOCK_TIMEOUT, EndpointKeys, FileSecretStore, MemorySecretStore, SecretStore,
    SecretStoreError, StoredSecret,
};
pub use update_with::{DEFAULT_ROUNDS, UpdateOutcome, UpdateWith};
