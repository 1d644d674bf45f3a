//! The webhook that a service wants, declared: made where it is missing, changed where it differs,
//! and its secret kept.
//!
//! ```no_run
//! use authpi_sdk::{client::{Client, WebhookSpec}, endpoint::{Ensured, FileSecretStore, SecretStore as _}, event::EventType};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let secrets = FileSecretStore::new("/var/lib/billing/authpi-secrets.json");
//! let spec = WebhookSpec::new("users", "https://example.com/hooks/authpi").events([EventType::UserCreated]);
//! let ensured = Client::from_env()?.webhooks().ensure(&spec, &secrets).await?;
//! println!("{ensured}");
//! let keys = secrets.keys("users").await?;
//! # let _ = keys;
//! # Ok(())
//! # }
//! ```
//!
//! # Which webhook it is
//!
//! The one of the spec's name and URL that carries our mark, or whose secret the store has
//! (`discover.rs`). The mark is a few members of the webhook's metadata (`ownership.rs`). Others of
//! that name and URL are somebody else's: they are told of ([`Endpoint::others`]) and left alone.
//!
//! # Many replicas at once
//!
//! All that declare one spec send their `create` under one idempotency key, derived from the
//! credential, the account and the spec: the first makes the webhook, the others get the same
//! answer, secret included. AuthPI replays an answer for 24 hours, also of a webhook that has been
//! deleted since; so a replayed webhook is looked at, and where it is gone the next *generation* of
//! the key is taken. Where two specs are declared at once, there are two webhooks for a moment:
//! everyone who has made one looks again, and all keep the oldest and delete the others
//! (`apply.rs`).
//!
//! # Replacing a webhook
//!
//! [`rotate`](crate::client::Webhooks::rotate), a change of authentication, and the renewal of a
//! lost secret all make a successor of the same name and URL, keep its secret, and delete the first
//! then (`rotate.rs`). The mark tells whose successor a webhook is, so it is no twin, and whoever
//! comes after a crash goes on where it stopped.

mod apply;
mod diff;
mod discover;
mod endpoint;
mod error;
mod find;
mod ownership;
mod rotate;

pub use apply::{DEFAULT_SECRET_WAIT, Ensure};
pub use diff::Diff;
pub use endpoint::{Endpoint, Ensured};
pub use error::EndpointError;
pub use rotate::{LastMatches, Rotate, Rotation};
