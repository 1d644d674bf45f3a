//! How a call is made. `call.rs` connects the steps: the arguments are checked (`ids.rs`), the
//! account is looked up (`account.rs`), the request is built and sent (`exchange.rs`) with a
//! credential (`credentials/`), and retried if that is safe (`retry/`). The answer becomes a value
//! or an [`Error`] (`response.rs`, `error.rs`). `builder.rs` and `tls.rs` contain the client's
//! settings. `pages.rs` makes one call per page.

mod account;
mod build_error;
mod builder;
pub(crate) mod call;
mod credentials;
pub(crate) mod error;
pub(crate) mod etag;
mod exchange;
pub(crate) mod idempotency;
pub(crate) mod ids;
pub(crate) mod page;
mod pages;
mod response;
pub mod retry;
mod retry_reason;
mod telemetry;
mod tls;

pub use account::WhoAmI;
pub use build_error::BuildError;
pub use builder::{
    Client, ClientBuilder, DEFAULT_ATTEMPT_TIMEOUT, DEFAULT_BASE_URL, DEFAULT_TIMEOUT,
};
pub(crate) use call::{Attempt, Recheck, Reply, check_ids, deadline};
pub use call::{Call, Conditional, Keyed, Operation, Paged, WithETag, WithReplay};
pub use credentials::{AccessToken, TokenSource};
pub use error::Error;
pub use etag::{ETag, InvalidETag};
pub(crate) use exchange::{Built, NotBuilt, Request};
pub use page::Page;
pub use pages::{Items, Pages};
pub(crate) use response::Response;
pub use retry::{RetryPolicy, RetryStop};
