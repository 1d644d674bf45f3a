//! Where a store is, as a user writes it.

use std::{fmt, path::PathBuf};

use url::Url;

use crate::failure::{Failure, Result};

/// The address of a store. It may hold a password, so it is shown by [`Location::shown`] only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Location {
    Sqlite(PathBuf),
    Postgres(String),
    Redis(String),
    Nats(String),
}

impl Location {
    /// From an option, which must not have a password: other users can see a program's arguments.
    pub(crate) fn from_option(text: &str) -> Result<Self> {
        let has_password = Url::parse(text).is_ok_and(|url| {
            url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password")
        });
        if has_password {
            return Err(Failure::usage("an option must not have a password")
                .hint("set AUTHPI_STORE, use a profile, or for Postgres PGPASSFILE"));
        }
        Self::parse(text)
    }

    /// From the environment or a profile.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once(':').unwrap_or_default();
        match scheme {
            "sqlite" if !rest.is_empty() => {
                Ok(Self::Sqlite(rest.strip_prefix("//").unwrap_or(rest).into()))
            }
            "postgres" | "postgresql" => Ok(Self::Postgres(text.to_owned())),
            "redis" | "rediss" => Ok(Self::Redis(text.to_owned())),
            "nats" | "tls" => Ok(Self::Nats(text.to_owned())),
            // Not the text: it may hold a password.
            _ => Err(Failure::usage("the store is not of a known form")
                .hint("such as sqlite:hooks.db, postgres://…, redis://… or nats://…")),
        }
    }

    /// The address without user, password and query.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Sqlite(file) => format!("sqlite:{}", file.display()),
            Self::Postgres(url) | Self::Redis(url) | Self::Nats(url) => Url::parse(url)
                .map_or_else(
                    |_| "the store".to_owned(),
                    |mut url| {
                        let _ = url.set_username("");
                        let _ = url.set_password(None);
                        url.set_query(None);
                        url.to_string()
                    },
                ),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_file_or_a_url_and_its_password_is_never_shown() {
        let sqlite = Location::parse("sqlite:hooks.db").unwrap();
        assert_eq!(sqlite, Location::Sqlite("hooks.db".into()));
        assert_eq!(
            Location::parse("sqlite:///var/hooks.db").unwrap(),
            Location::Sqlite("/var/hooks.db".into())
        );
        let postgres = "postgres://app:sesame@db:5432/hooks?sslmode=require";
        let parsed = Location::parse(postgres).unwrap();
        assert_eq!(format!("{parsed:?}"), "postgres://db:5432/hooks");
        for option in [postgres, "postgres://db/hooks?password=sesame"] {
            let failure = Location::from_option(option).unwrap_err().to_string();
            assert!(
                failure.contains("password") && !failure.contains("sesame"),
                "{failure}"
            );
        }
        for wrong in ["", "hooks.db", "mysql://x", "sqlite:"] {
            assert!(Location::parse(wrong).is_err(), "{wrong} was read");
        }
    }
}
