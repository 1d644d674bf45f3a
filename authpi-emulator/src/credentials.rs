//! The callers' credentials: one API key and one access token, both of the only account.

use base64::{Engine as _, engine::general_purpose};
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use crate::{error::ApiError, ids::Random};

/// The emulated account and its credentials, created again for each emulator without a state file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) key_id: String,
    pub(crate) key_secret: String,
    pub(crate) access_token: String,
    org_id: String,
    issuer_id: String,
    user_id: String,
}

/// How a caller was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    ApiKey,
    User,
}

impl Caller {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::User => "user",
        }
    }
}

impl Account {
    /// With a seed, always the same.
    pub(crate) fn new(now_millis: i64, seed: Option<u64>) -> Self {
        let mut random = Random::of(seed);
        let [id, org_id, issuer_id, user_id] =
            ["acc_", "org_", "i_", "usr_"].map(|prefix| random.id(prefix));
        let issued_at = if random.is_seeded() { 0 } else { now_millis };
        Self {
            access_token: access_token(&issuer_id, &user_id, issued_at, random.bytes()),
            id,
            key_id: random.hex::<16>("key_"),
            key_secret: random.secret("sk_"),
            org_id,
            issuer_id,
            user_id,
        }
    }

    /// Basic with key id and secret, or bearer with the access token; otherwise 401.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (given, None) = (given.next(), given.next()) else {
            return Err(ApiError::unauthenticated(
                "there is more than one Authorization header",
            ));
        };
        let Some(given) = given else {
            return Err(ApiError::unauthenticated("credentials are missing"));
        };
        let refused = || ApiError::unauthenticated("the credentials are not valid");
        let (scheme, rest) = given
            .to_str()
            .ok()
            .and_then(|given| given.split_once(' '))
            .ok_or_else(refused)?;
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = general_purpose::STANDARD
                .decode(rest.trim())
                .map_err(|_| refused())?;
            if same(
                &pair,
                format!("{}:{}", self.key_id, self.key_secret).as_bytes(),
            ) {
                return Ok(Caller::ApiKey);
            }
        } else if scheme.eq_ignore_ascii_case("bearer")
            && same(rest.trim().as_bytes(), self.access_token.as_bytes())
        {
            return Ok(Caller::User);
        }
        Err(refused())
    }

    /// 403 for any other account, whether or not it exists.
    pub(crate) fn check_account(&self, account_id: &str) -> Result<(), ApiError> {
        if account_id == self.id {
            Ok(())
        } else {
            Err(ApiError::forbidden(
                "the credentials do not reach this account",
            ))
        }
    }

    /// The body of `GET /v1/me`.
    pub(crate) fn shown(&self, caller: Caller) -> Value {
        let scopes = ["*:**"];
        let accounts = json!([{"account_id": self.id, "org_id": self.org_id, "scopes": scopes}]);
        let organizations = json!([{"org_id": self.org_id, "scopes": scopes}]);
        match caller {
            Caller::ApiKey => {
                json!({"type": "api_key", "key_id": self.key_id, "accounts": accounts, "organizations": organizations})
            }
            Caller::User => json!({
                "type": "user",
                "user_id": self.user_id,
                "issuer_id": self.issuer_id,
                "accounts": accounts,
                "organizations": organizations,
            }),
        }
    }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Has the format of a JWT, like AuthPI's access tokens; its signature is random.
fn access_token(issuer_id: &str, user_id: &str, now_millis: i64, signature: [u8; 32]) -> String {
    let encode = |bytes: &[u8]| general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
    let claims = json!({"iss": issuer_id, "sub": user_id, "iat": now_millis / 1000}).to_string();
    format!(
        "{}.{}.{}",
        encode(header.as_bytes()),
        encode(claims.as_bytes()),
        encode(&signature)
    )
}
