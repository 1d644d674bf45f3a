//! The life of a webhook endpoint: what a service declares when it starts, instead of calling the
//! API step by step.
//!
//! [`Webhooks::ensure`] creates the webhook where it is missing and changes it where it differs,
//! from any number of replicas at once, and keeps the one-time secret in a [`SecretStore`].
//! [`Webhooks::rotate`] gives it another secret without a gap, and [`Webhooks::update_with`]
//! changes it depending on its current state. [`Call::track`] and [`Webhooks::outcome`] follow
//! deliveries that are sent again: see [`redelivery`].
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
