//! Credentials: an API key, an access token, or a source that renews tokens.
//!
//! An API key is sent with the scheme `Basic`, a token with `Bearer`. Each is checked and turned
//! into a header once. A source is asked for a token when there is none yet, when the current one
//! is about to expire, and when AuthPI refuses it: see `refreshing.rs`.

mod refreshing;
mod source;

use std::fmt;

use base64::Engine as _;
use http::HeaderValue;
use tokio::time::{Instant, timeout_at};

pub use source::{AccessToken, TokenSource};

use self::{refreshing::Renewed, source::AnySource};
use super::{
    build_error::BuildError,
    error::{Error, Kind},
    ids,
};
use crate::signature::Secret;

/// The start of every API key's id.
const KEY_PREFIX: &str = "key_";

/// The credential that the caller gave.
#[derive(Clone)]
pub(super) enum Given {
    ApiKey(String, Secret),
    AccessToken(Secret),
    Source(AnySource),
}

impl Given {
    pub(super) fn source(source: impl TokenSource) -> Self {
        Self::Source(source::any(source))
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiKey(..) => "api key",
            Self::AccessToken(_) => "access token",
            Self::Source(_) => "token source",
        })
    }
}

/// The credentials of calls.
pub(crate) enum Credentials {
    Fixed {
        authorization: Authorization,
        kind: &'static str,
    },
    Renewed(Renewed),
}

/// The credential of one attempt.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(super) header: HeaderValue,
    /// The number of the token, from 1; 0 for a credential that does not change.
    number: u64,
}

impl Credentials {
    pub(super) fn new(given: &Given) -> Result<Self, BuildError> {
        let (header, kind) = match given {
            Given::ApiKey(key_id, secret) => (basic(key_id, secret)?, "api key"),
            Given::AccessToken(token) => (bearer(token).map_err(BuildError::new)?, "access token"),
            Given::Source(source) => return Ok(Self::Renewed(Renewed::new(source.clone()))),
        };
        Ok(Self::Fixed {
            authorization: Authorization { header, number: 0 },
            kind,
        })
    }

    /// A secret to derive keys from. It is the same for all callers with the same credential, and
    /// does not change. `None` for tokens from a source.
    pub(crate) fn lasting_secret(&self) -> Option<&[u8]> {
        match self {
            Self::Fixed { authorization, .. } => Some(authorization.header.as_bytes()),
            Self::Renewed(_) => None,
        }
    }

    /// The credential of the next attempt.
    pub(super) async fn authorization(&self, deadline: Instant) -> Result<Authorization, Error> {
        match self {
            Self::Fixed { authorization, .. } => Ok(authorization.clone()),
            Self::Renewed(tokens) => timeout_at(deadline, tokens.authorization())
                .await
                .unwrap_or_else(|_| Err(too_late())),
        }
    }

    /// Drops a token that AuthPI has refused, and gets another from the token source. Returns
    /// whether there is another; a fixed credential never has one.
    pub(super) async fn replace(
        &self,
        refused: &Authorization,
        deadline: Instant,
    ) -> Result<bool, Error> {
        match self {
            Self::Fixed { .. } => Ok(false),
            Self::Renewed(tokens) => timeout_at(deadline, tokens.replace(refused))
                .await
                .unwrap_or_else(|_| Err(too_late())),
        }
    }
}

fn too_late() -> Error {
    Error::new(
        Kind::Credential("did not get an access token in time".to_owned()),
        false,
    )
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed { kind, .. } => kind,
            Self::Renewed(_) => "token source",
        })
    }
}

fn basic(key_id: &str, secret: &Secret) -> Result<HeaderValue, BuildError> {
    let secret = secret.expose();
    if key_id.is_empty() || secret.is_empty() {
        return Err(BuildError::new(
            "an API key needs an id and a secret; one is empty",
        ));
    }
    if !key_id.starts_with(KEY_PREFIX) {
        // The id is not in the error: it may be the secret.
        return Err(BuildError::new(if secret.starts_with(KEY_PREFIX) {
            "the API key's id and secret are swapped: the id starts with key_"
        } else {
            "an API key's id must start with key_"
        }));
    }
    if let Some(problem) = ids::problem(key_id) {
        return Err(BuildError::new(format!("the API key's id {problem}")));
    }
    if key_id.contains(':') {
        return Err(BuildError::new("the API key's id must not contain a colon"));
    }
    if secret.chars().any(char::is_control) {
        return Err(BuildError::new(
            "the API key's secret must not contain control characters",
        ));
    }
    let pair = zeroize::Zeroizing::new(format!("{key_id}:{secret}"));
    let encoded =
        zeroize::Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()));
    authorization("Basic", &encoded).map_err(BuildError::new)
}

/// The header for a token, or why the token is invalid.
fn bearer(token: &Secret) -> Result<HeaderValue, &'static str> {
    let token = token.expose();
    if token.is_empty() {
        return Err("the access token is empty");
    }
    if token.starts_with(KEY_PREFIX) {
        return Err("the access token is an API key's id; an API key also needs its secret");
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the access token must be ASCII without white space");
    }
    authorization("Bearer", token)
}

fn authorization(scheme: &str, credential: &str) -> Result<HeaderValue, &'static str> {
    let text = zeroize::Zeroizing::new(format!("{scheme} {credential}"));
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| "the credential is not a valid header value")?;
    value.set_sensitive(true);
    Ok(value)
}
