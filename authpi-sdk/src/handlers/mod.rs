//! Which code handles which event, and how it went.
//!
//! [`Handlers`] is the registry: one handler per event, chosen by exact type, else by the longest
//! prefix, else the fallback. A handler is an async function of an [`Event`](crate::event::Event)
//! and a [`Context`]; the event's type is taken from its argument. It answers with [`HandlerResult`]: any
//! error is worth another try, [`Terminal::terminal`] marks the other kind, a panic counts as an
//! error.
//!
//! A handler must not block its thread: its deadline could not stop it then, nor could its lease be
//! renewed, and another worker would take the event over. Put what blocks into
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

mod context;
mod error;
mod leased;
mod registry;
mod run;

pub use context::Context;
pub use error::{HandlerError, HandlerResult, Terminal};
pub use registry::{AnyStore, Handlers, HandlersError, Serves};
pub use run::Outcome;

pub(crate) use context::AttemptState;
pub(crate) use leased::{Claimed, run_leased};
pub(crate) use registry::{AnyHandlers, Route};
pub(crate) use run::{DEFAULT_HANDLER_TIMEOUT, run};
