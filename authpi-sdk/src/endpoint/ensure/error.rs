use std::{error::Error as StdError, fmt};

use super::Endpoint;
use crate::{client::Error, endpoint::secrets::SecretStoreError};

/// Why an endpoint could not be ensured or rotated. Completed steps stay completed, and repeating
/// the call continues from there.
#[derive(Debug)]
#[non_exhaustive]
pub enum EndpointError {
    /// A call to AuthPI failed.
    Call(Error),
    /// The secret store failed. A webhook may have been created whose secret is not saved.
    /// Repeating the call within 24 hours, with the same credential and spec, recovers it.
    Secrets(SecretStoreError),
    /// The webhook did not converge, and the message says why: other replicas keep changing it,
    /// replayed responses keep referring to a deleted webhook, AuthPI returned no secret, or the
    /// webhook that a rotation created no longer exists.
    Unsettled(&'static str),
    /// The webhook exists, but its secret is not in the store: nothing that it delivers can be
    /// verified. **Nothing was changed.**
    ///
    /// Either the store is not the one that the secret was saved in (each replica has its own file,
    /// or the volume was lost), or the webhook was created elsewhere. If you still know the secret,
    /// save it in the store. Otherwise, call `ensure` with
    /// [`renew_lost_secret`](super::Ensure::renew_lost_secret), which replaces the webhook;
    /// replicas that still know the old secret must then read the store again.
    SecretLost(Box<Endpoint>),
}

impl EndpointError {
    /// Whether the secret of an existing webhook is not in the store.
    pub fn is_secret_lost(&self) -> bool {
        matches!(self, Self::SecretLost(_))
    }

    /// Whether the same call will fail again until something is changed: the credential, its
    /// permissions, the spec, the client's settings, or the store of secrets
    /// ([`SecretLost`](Self::SecretLost)).
    ///
    /// Otherwise, AuthPI or the store may only be unavailable for now.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Call(error) => {
                error.is_unauthorized()
                    || error.is_forbidden()
                    || error.is_invalid_argument()
                    || error.is_validation()
                    || error.is_configuration()
            }
            Self::SecretLost(_) => true,
            Self::Secrets(_) | Self::Unsettled(_) => false,
        }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(_) => f.write_str("a call to AuthPI failed"),
            Self::Secrets(_) => f.write_str("the secret store failed"),
            Self::Unsettled(why) => f.write_str(why),
            Self::SecretLost(endpoint) => write!(
                f,
                "webhook {} exists, but its secret is not in the store: save the secret there, or \
                 call ensure with renew_lost_secret()",
                endpoint.webhook.id
            ),
        }
    }
}

impl StdError for EndpointError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Call(error) => Some(error),
            Self::Secrets(error) => Some(error),
            Self::Unsettled(_) | Self::SecretLost(_) => None,
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
