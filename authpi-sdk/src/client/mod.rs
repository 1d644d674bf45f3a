//! The typed client for AuthPI's webhook endpoints, deliveries and event log.
//!
//! ```no_run
//! use authpi_sdk::{client::{Client, WebhookSpec}, event::EventType};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let authpi = Client::from_env()?;
//! let spec = WebhookSpec::new("users", "https://example.com/hooks/authpi").events([EventType::UserCreated]);
//! let made = authpi.webhooks().create(&spec).await?;
//! // AuthPI shows the secret only once: store it where the receiver finds it.
//! let secret = made.secret.ok_or("AuthPI returned no secret")?;
//! # let _ = secret;
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::builder`] takes the credential. [`ClientBuilder::build`] checks all settings, and
//! returns an error, never a panic, if one is invalid. A client is cheap to clone, and its clones
//! share connections.
//!
//! The operations are [`Client::whoami`] and the methods of [`Client::webhooks`] and
//! [`Client::events`]. Each returns a [`Call`], which takes options: a timeout, a retry policy, an
//! idempotency key, an ETag and others. Nothing happens until the call is awaited. Then:
//!
//! 1. The client checks the arguments.
//! 2. It looks up the account, if the account is not known yet.
//! 3. It sends the request. After a failure, it retries if that is safe and may help ([`retry`]).
//!    One deadline covers all attempts.
//! 4. It returns a value or an [`Error`]. The error says whether the server may have acted, how
//!    many attempts were made, and why there was no further one.
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
//!     Err(error) => println!("perhaps done, check before you repeat it: {error}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Unexpected members in responses
//!
//! One unexpected member does not make the rest of a response unreadable:
//!
//! - Half of a surrogate pair (`"\ud83d"`) is read as U+FFFD, and `1.0` as an integer.
//! - An optional member with an unexpected type is read as absent. The exception is a secret that
//!   is shown only once: the response is then malformed.
//! - An item of a page that lacks a required member, or has one with an unexpected type, is kept
//!   raw in [`Page::unreadable`]. `ensure` and `find` fail if such an item may be the webhook that
//!   they look for.
//! - Raw JSON ([`RawJson`](crate::RawJson)) is always kept as it was written.
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
//! Awaiting the call itself gives one [`Page`]. [`Pages`] is a stream (`futures_core::Stream`) of
//! all pages, and [`Items`] one of the items of all pages.
//!
//! # Declaring a webhook
//!
//! A service can declare the webhook that it needs when it starts: see
//! [`endpoint`](crate::endpoint), which is built on this client.
//!
//! # What it does not do
//!
//! The client does not follow redirects, since a credential must not be sent to an address that is
//! not configured. Unless you permit it, the client does not retry a call that could then be
//! performed twice: see [`retry`].

pub(crate) mod api;
pub(crate) mod transport;

pub use api::*;
pub use transport::{
    AccessToken, BuildError, Call, Client, ClientBuilder, Conditional, DEFAULT_ATTEMPT_TIMEOUT,
    DEFAULT_BASE_URL, DEFAULT_TIMEOUT, ETag, Error, InvalidETag, Items, Keyed, Operation, Page,
    Paged, Pages, RetryPolicy, RetryStop, TokenSource, WhoAmI, WithETag, WithReplay, retry,
};
pub(crate) use transport::{NotBuilt, Request};
