//! What the generated client carries from call to call.

use std::fmt;

use progenitor_client::{ClientHooks, Error, OperationInfo};
use reqwest::header::{AUTHORIZATION, HeaderValue};

use crate::generated::api;

/// The credential that each request is sent with.
#[derive(Clone)]
pub struct Connection {
    authorization: HeaderValue,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl ClientHooks<Connection> for api::Client {
    async fn pre<E>(&self, request: &mut reqwest::Request, _: &OperationInfo) -> Result<(), Error<E>> {
        request.headers_mut().insert(AUTHORIZATION, self.inner.authorization.clone());
        Ok(())
    }
}
