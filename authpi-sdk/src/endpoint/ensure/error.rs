use std::{error::Error as StdError, fmt};

use crate::{client::Error, endpoint::secrets::SecretStoreError};

/// Why an endpoint could not be ensured or rotated. What was done until then stays done, and doing
/// it again goes on from there.
#[derive(Debug)]
#[non_exhaustive]
pub enum EndpointError {
    /// A call to AuthPI failed.
    Call(Error),
    /// The store of secrets failed. A webhook may have been made whose secret is not kept: the same
    /// again within 24 hours gets it back, with the same credential and spec.
    Secrets(SecretStoreError),
    /// It did not come to rest: other replicas keep changing the same webhook, or a replayed answer
    /// is of a webhook that is gone, again and again. Or the webhook that a rotation made is gone,
    /// so that the old one must stay. The message tells which.
    Unsettled(&'static str),
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(_) => f.write_str("a call to AuthPI failed"),
            Self::Secrets(_) => f.write_str("the store of secrets failed"),
            Self::Unsettled(why) => f.write_str(why),
        }
    }
}

impl StdError for EndpointError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Call(error) => Some(error),
            Self::Secrets(error) => Some(error),
            Self::Unsettled(_) => None,
        }
    }
}

impl From<Error> for EndpointError {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<SecretStoreError> for EndpointError {
    fn from(error: SecretStoreError) -> Self {
        Self::Secrets(error)
    }
}
