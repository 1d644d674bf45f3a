//! Declares a webhook: creates it if it is missing, updates it if it differs, and stores its
//! secret.
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
//! # Which webhook
//!
//! The webhook is the one with the spec's name and URL that has the SDK's mark, or whose secret is
//! in the store (`discover.rs`). The mark is a few members of the webhook's metadata
//! (`ownership.rs`). Other webhooks with that name and URL are reported ([`Endpoint::others`]) and
//! not changed.
//!
//! # Many replicas at once
//!
//! All replicas that declare the same spec send `create` with the same idempotency key, derived
//! from the credential, the account and the spec. The first call creates the webhook; the others
//! get the same response, secret included. AuthPI replays a response for 24 hours, even if the
//! webhook was deleted since. So the webhook of a replayed response is checked, and if it no longer
//! exists, the next *generation* of the key is used. If replicas declare different specs at once,
//! there can be two webhooks for a moment: each replica that created one lists again, and all keep
//! the oldest and delete the others (`apply.rs`).
//!
//! # Replacing a webhook
//!
//! [`rotate`](crate::client::Webhooks::rotate), a change of authentication, and the renewal of a
//! lost secret all create a successor with the same name and URL, store its secret, and then delete
//! the old webhook (`rotate.rs`). The mark contains the id of the webhook that a successor
//! replaces. So the successor is not taken for a duplicate, and after a crash, any replica can
//! continue.

mod apply;
mod diff;
mod discover;
mod endpoint;
mod error;
mod ownership;
mod rotate;

pub use apply::{DEFAULT_SECRET_WAIT, Ensure};
pub use diff::Diff;
pub use endpoint::{Endpoint, Ensured};
pub use error::EndpointError;
pub use rotate::{LastMatches, Rotate, Rotation};
