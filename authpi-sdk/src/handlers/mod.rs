//! Handlers: which function handles which event.
//!
//! [`Handlers`] is the registry. It selects one handler per event: by exact type, else by the
//! longest prefix, else the fallback. A handler is an async function of an
//! [`Event`](crate::event::Event) and a [`Context`]. The type of its first argument, such as
//! `Event<UserCreated>`, selects the event type. A handler returns a [`HandlerResult`]. After an
//! error, the event is retried, unless [`Terminal::terminal`] marks the error. A panic or a timeout
//! counts as an error.
//!
//! A handler must not block its thread. While it does, neither its timeout nor the renewal of its
//! lease works, and another worker may handle the event at the same time. Run blocking code in
//! `tokio::task::spawn_blocking`.
//!
//! ```
//! use authpi_sdk::event::{Event, types::UserCreated};
//! use authpi_sdk::handlers::{Context, Handlers};
//!
//! struct App;
//!
//! async fn greet(event: Event<UserCreated>, _cx: Context<App>) -> authpi_sdk::HandlerResult {
//!     println!("hello, {}", event.data()?.username.unwrap_or_default());
//!     Ok(())
//! }
//!
//! let handlers = Handlers::new(App)
//!     .on(greet)
//!     .on_prefix("organization.", async |event: Event, _cx| {
//!         println!("{} happened", event.event_type());
//!         Ok(())
//!     });
//! ```

mod claimed;
mod context;
mod dispatch;
mod error;
mod finish;
mod handler;
mod outcome;
mod registry;
mod run;
mod store;

pub use context::Context;
pub use error::{HandlerError, HandlerResult, Terminal};
pub use outcome::Outcome;
pub use registry::{Handlers, HandlersError};
pub use store::{AnyStore, SupportsHandlers};

pub(crate) use claimed::Claimed;
pub(crate) use context::AttemptState;
pub(crate) use finish::{Failure, Finished, Resolution};
pub(crate) use handler::{Route, Routes};
pub(crate) use run::{DEFAULT_HANDLER_TIMEOUT, run};
