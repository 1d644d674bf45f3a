use std::{env, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A secret that AuthPI shows once: a signing secret (`whs_…`), a bearer token, or the secret of an
/// API key.
///
/// Cheap to clone. When the last clone is dropped, the secret is wiped from memory. `Debug` prints
/// `Secret(…)`. Serializing writes plain text, because stores of secrets need that; serialize it
/// only to places that may contain secrets.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// The secret, unchanged. White space is not trimmed.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(secret.into())))
    }

    /// Reads the secret from the environment variable `name`.
    ///
    /// # Errors
    /// When the variable is not set, is empty, is not Unicode, or begins or ends with white space.
    /// (A line break copied from a file would make every signature wrong.)
    pub fn from_env(name: &str) -> Result<Self, SecretError> {
        let problem = match env::var(name) {
            Ok(value) if value.is_empty() => "is empty",
            Ok(value) if value.trim() != value => "begins or ends with white space",
            Ok(value) => return Ok(Self::new(value)),
            Err(env::VarError::NotPresent) => "is not set",
            Err(env::VarError::NotUnicode(_)) => "is not Unicode",
        };
        Err(SecretError {
            variable: name.to_owned(),
            problem,
        })
    }

    /// The secret in plain text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    /// In constant time for secrets of the same length.
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq as _;
        self.expose()
            .as_bytes()
            .ct_eq(other.expose().as_bytes())
            .into()
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::new(secret)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(feature = "client")]
impl crate::json::FromRaw for Secret {
    const STRICT: bool = true;

    fn from_raw(raw: crate::json::Raw<'_>) -> Result<Self, serde_json::Error> {
        String::from_raw(raw).map(Self::new)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

/// The environment variable does not contain a secret; see [`Secret::from_env`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretError {
    variable: String,
    problem: &'static str,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the environment variable {} {}",
            self.variable, self.problem
        )
    }
}

impl std::error::Error for SecretError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("whs_very_secret");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(format!("{:?}", Some(secret)), "Some(Secret(…))");
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = Secret::from_env("AUTHPI_TEST_NOT_SET").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable AUTHPI_TEST_NOT_SET is not set"
        );
    }
}
