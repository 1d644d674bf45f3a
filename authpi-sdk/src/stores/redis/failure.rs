//! Errors of the store, with the server's address.

use std::{error::Error, fmt, time::Duration};

use redis::{ErrorKind, RedisError};

use crate::ledger::{LedgerError, LedgerErrorKind};

pub(super) type StepError = Box<dyn Error + Send + Sync>;

/// Error codes of a server that cannot serve any request, while another server at the same address
/// may: a replica, a server that is loading its data or has lost its primary, has too few replicas
/// or too little memory, cannot write its file, runs a script for too long, no longer knows this
/// connection's user, or has become a node of a cluster.
const CANNOT_SERVE: [&str; 12] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "OOM",
    "BUSY",
    "NOAUTH",
    "MOVED",
    "ASK",
];

pub(super) fn cannot_serve(error: &RedisError) -> bool {
    error
        .code()
        .is_some_and(|code| CANNOT_SERVE.contains(&code))
}

fn asks_for_password(error: &RedisError) -> bool {
    error.code() == Some("NOAUTH")
}

/// Also within a script, where Redis 7.0 has no code for it.
pub(super) fn is_denied(error: &RedisError) -> bool {
    let within =
        |detail: &str| detail.contains("can't run this command") || detail.contains("ACL failure");
    error.code() == Some("NOPERM") || error.detail().is_some_and(within)
}

fn kind(error: &RedisError) -> LedgerErrorKind {
    let cannot = cannot_serve(error) && !asks_for_password(error);
    if cannot || is_denied(error) {
        LedgerErrorKind::CannotWrite
    } else {
        LedgerErrorKind::Unreachable
    }
}

/// The error of a step. `server` is the address of a connection that the ledger made.
pub(super) fn failed(step: &'static str, error: StepError, server: Option<&str>) -> LedgerError {
    match error.downcast::<RedisError>() {
        Ok(error) => {
            let kind = kind(&error);
            LedgerError::new(step, Failed::new(*error, server)).with_kind(kind)
        }
        Err(error) => LedgerError::new(step, error),
    }
}

/// A step took too long.
pub(super) fn too_slow(step: &'static str, limit: Duration, server: Option<&str>) -> LedgerError {
    LedgerError::new(
        step,
        TooSlow {
            limit,
            server: server.map(str::to_owned),
        },
    )
}

#[derive(Debug)]
struct TooSlow {
    limit: Duration,
    server: Option<String>,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, server } = self;
        match server {
            Some(server) => write!(f, "redis at {server} did not answer within {limit:?}"),
            None => write!(f, "redis did not answer within {limit:?}"),
        }
    }
}

impl Error for TooSlow {}

#[derive(Debug)]
struct Failed {
    error: RedisError,
    /// Of the ledger's own connection.
    server: Option<String>,
}

impl Failed {
    fn new(error: RedisError, server: Option<&str>) -> Self {
        Self {
            error,
            server: server.map(str::to_owned),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, server } = self;
        match server {
            Some(server) => write!(f, "redis at {server} ")?,
            None => f.write_str("redis ")?,
        }
        f.write_str(if asks_for_password(error) {
            "asks for a password"
        } else if is_denied(error) {
            "denies a command that the ledger needs: SET, DEL, EVAL and EVALSHA, and in scripts GET, GETRANGE, SETRANGE, SET and PTTL"
        } else if cannot_serve(error) {
            "cannot serve"
        } else if error.is_io_error() {
            "cannot be reached"
        } else {
            "refused the command"
        })?;
        if server.is_none() && (cannot_serve(error) || error.is_io_error()) {
            f.write_str(
                "; the connection was given to `Redis::open`: replacing it is up to its owner",
            )?;
        }
        Ok(())
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// Not connected.
#[derive(Debug)]
pub(super) struct Unconnected {
    pub(super) server: String,
    /// The error of the last attempt that has ended.
    pub(super) error: Option<RedisError>,
}

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, error } = self;
        let Some(error) = error else {
            return write!(f, "could not connect to redis at {server} in time");
        };
        match error.kind() {
            ErrorKind::AuthenticationFailed => {
                write!(
                    f,
                    "could not log in to redis at {server}; check the user name and the password"
                )
            }
            ErrorKind::Server(_) if error.to_string().contains("switch database") => {
                write!(f, "could not select the database on redis at {server}")
            }
            _ => write!(f, "could not connect to redis at {server}"),
        }
    }
}

impl Error for Unconnected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

/// Why the value of one of the ledger's keys cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// No known version of the ledger has written it.
    Unknown,
    /// Versions before the first release kept a SHA-256 in each record.
    Unreleased,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "a key of the ledger holds a foreign value: set a prefix that no other program uses",
            Self::Unreleased => {
                "a key of the ledger holds a record of an unreleased authpi-sdk, with a SHA-256 digest, which this version \
                 cannot use: delete the keys under this prefix, or set another prefix"
            }
        })
    }
}

impl Error for Foreign {}

/// Why a ledger cannot be opened although the server answers.
#[derive(Debug)]
pub(super) enum Unfit {
    TooOld(RedisError),
    Cluster,
    Replica,
    Sentinel,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooOld(_) => "the server does not know SET with both NX and GET: it must be Redis 7.0 or later",
            Self::Cluster => {
                "the server is a node of a cluster, which refuses most keys: give `Redis::open` a `ClusterConnection`"
            }
            Self::Replica => "the server is a replica, which cannot write: connect to its primary",
            Self::Sentinel => "the server is a Sentinel, which keeps no keys: connect to the primary that it watches",
        })
    }
}

impl Error for Unfit {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TooOld(error) => Some(error),
            Self::Cluster | Self::Replica | Self::Sentinel => None,
        }
    }
}
