//! The typed client for AuthPI's webhook endpoints, deliveries and event log.
//!
//! ```no_run
//! use authpi_sdk::{client::{Client, WebhookSpec}, event::EventType};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let authpi = Client::from_env()?;
//! let spec = WebhookSpec::new("users", "https://example.com/hooks/authpi").events([EventType::UserCreated]);
//! let made = authpi.webhooks().create(&spec).await?;
//! // The secret is shown this once: keep it where the receiver finds it.
//! let secret = made.secret.ok_or("a signed webhook comes with a secret")?;
//! # let _ = secret;
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::builder`] takes the credential and says at once what is wrong with the settings;
//! nothing here panics. A client is cheap to clone, and its clones share connections.
//! [`Client::webhooks`], [`Client::events`] and [`Client::whoami`] lead to the operations. Each of
//! them gives a [`Call`]: it can be given options (a deadline, a retry policy, an idempotency key,
//! an ETag) and runs when it is awaited. All calls take one way, in `transport/call.rs`: check the
//! arguments, find the account, send under one deadline, again where that is safe and may help
//! ([`retry`]), and turn whatever comes back into a value or an [`Error`] that says whether the
//! server may have acted, how often it was tried, and why not again.
//!
//! # Errors
//!
//! ```no_run
//! # use authpi_sdk::client::{Client, WebhookPatch};
//! # async fn example(authpi: Client) -> Result<(), authpi_sdk::client::Error> {
//! let webhooks = authpi.webhooks();
//! let got = webhooks.get("wh_1").await?;
//! let mut call = webhooks.update("wh_1", &WebhookPatch::new().name("users-eu"));
//! if let Some(etag) = &got.etag {
//!     call = call.if_match(etag);
//! }
//! match call.await {
//!     Ok(updated) => println!("now {}", updated.webhook.name),
//!     Err(error) if error.is_precondition_failed() => println!("another caller changed it: read it again"),
//!     Err(error) if error.is_validation() => error.fields().iter().for_each(|wrong| println!("{}: {}", wrong.field, wrong.message)),
//!     Err(error) if !error.may_have_run() => println!("not done: {error}"),
//!     Err(error) => println!("done or not, look before doing it again: {error}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Odd answers
//!
//! One odd member of an answer does not make the rest of it unreadable. Half of a surrogate pair
//! (`"\ud83d"`) is read as U+FFFD, `1.0` as an integer, and an optional member with an unexpected
//! type as absent, except for a secret that is shown once. An item of a page that
//! lacks a required member, or has one with an unexpected type, is in [`Page::unreadable`] as it
//! came. `ensure` and `find` fail if such an item may be the webhook that they look for. What is
//! kept raw ([`RawJson`](crate::RawJson)) is always kept as it was written.
//!
//! # Pages
//!
//! ```no_run
//! # use authpi_sdk::client::{Client, DeliveryStatus};
//! # async fn example(authpi: Client) -> Result<(), authpi_sdk::client::Error> {
//! let mut failed = authpi.webhooks().deliveries("wh_1").status(DeliveryStatus::Failed).items();
//! while let Some(delivery) = failed.next().await {
//!     let delivery = delivery?;
//!     println!("{} {}: {:?}", delivery.id, delivery.event_type, delivery.last_error);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Awaiting the call itself gives one [`Page`]; [`Items`] and [`Pages`] are streams
//! (`futures_core::Stream`) over all of them.
//!
//! # Declared instead of called
//!
//! What a service does when it starts is declared: see [`endpoint`](crate::endpoint), which is
//! built on this client.
//!
//! # What it does not do
//!
//! It follows no redirect, since a credential must not travel to an address that is not configured.
//! It repeats no call that could do its work twice: see [`retry`].

pub(crate) mod api;
pub(crate) mod transport;

pub use api::*;
pub use transport::{
    AccessToken, BuildError, Call, Client, ClientBuilder, Conditional, DEFAULT_ATTEMPT_TIMEOUT,
    DEFAULT_BASE_URL, DEFAULT_TIMEOUT, ETag, Error, InvalidETag, Items, Keyed, Operation, Page,
    Paged, Pages, RetryPolicy, RetryStop, TokenSource, WhoAmI, WithETag, WithReplay, retry,
};
pub(crate) use transport::{NotBuilt, Request};
