use std::fmt;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::error::Category;

use crate::json::without_lone_surrogates;

/// The body is not a readable event. The error names the path and what was expected there, and
/// never contains the body's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    path: String,
    problem: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    NotUtf8,
    NotJson { line: usize, column: usize },
    Batch,
    Missing,
    Wrong { wanted: &'static str },
    Shape { line: usize, column: usize },
}

impl ParseError {
    /// The path of the invalid member, such as `data.type`; empty for the whole body.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn not_utf8() -> Self {
        Self {
            path: String::new(),
            problem: Cause::NotUtf8,
        }
    }

    pub(super) fn batch() -> Self {
        Self {
            path: String::new(),
            problem: Cause::Batch,
        }
    }

    pub(super) fn missing(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            problem: Cause::Missing,
        }
    }

    pub(super) fn wrong(path: impl Into<String>, wanted: &'static str) -> Self {
        Self {
            path: path.into(),
            problem: Cause::Wrong { wanted },
        }
    }

    /// Parses again to find the path of the error. serde's text is not used, since it quotes the
    /// content.
    pub(super) fn locate<'a, T: Deserialize<'a>>(
        text: &'a str,
        at: &str,
        error: &serde_json::Error,
    ) -> Self {
        let (line, column) = (error.line(), error.column());
        let here = at.trim_end_matches('.').to_owned();
        if error.classify() != Category::Data {
            return Self {
                path: here,
                problem: Cause::NotJson { line, column },
            };
        }
        // serde reports a missing member only in its text. The name in it is from this crate, not
        // from the sender.
        if let Some(name) = error
            .to_string()
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next())
        {
            return Self::missing(format!("{at}{name}"));
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let path = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Err(error) if error.path().iter().next().is_some() => format!("{at}{}", error.path()),
            _ => here,
        };
        Self {
            path,
            problem: Cause::Shape { line, column },
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() {
            "the body"
        } else {
            &self.path
        };
        match self.problem {
            Cause::NotUtf8 => f.write_str("the body is not UTF-8"),
            Cause::NotJson { line, column } => {
                write!(f, "{path} is not JSON (line {line}, column {column})")
            }
            Cause::Batch => f.write_str("the body is a batch; AuthPI is not known to send batches"),
            Cause::Missing => write!(f, "{path} is missing"),
            Cause::Wrong { wanted } => write!(f, "{path} must be {wanted}"),
            Cause::Shape { line, column } => {
                write!(
                    f,
                    "{path} is not an AuthPI event (line {line}, column {column})"
                )
            }
        }
    }
}

impl std::error::Error for ParseError {}

/// `data` does not have the requested shape. The error contains the path, never the content.
#[derive(Clone, PartialEq, Eq)]
pub struct DataError {
    path: String,
    cause: DataCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataCause {
    Shape { line: usize, column: usize },
    Mismatched { member: &'static str },
}

impl DataError {
    pub(super) fn new(error: &serde_json::Error) -> Self {
        Self {
            path: String::new(),
            cause: DataCause::Shape {
                line: error.line(),
                column: error.column(),
            },
        }
    }

    /// The member of a known payload does not have the deduced shape.
    pub(super) fn mismatched(member: &'static str) -> Self {
        Self {
            path: member.to_owned(),
            cause: DataCause::Mismatched { member },
        }
    }

    /// Parses again to find the path of the error.
    pub(super) fn locate<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Self {
        let repaired = without_lone_surrogates(text);
        let mut deserializer =
            serde_json::Deserializer::from_str(repaired.as_deref().unwrap_or(text));
        let path = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Err(error) if error.path().iter().next().is_some() => error.path().to_string(),
            _ => String::new(),
        };
        Self {
            path,
            ..Self::new(error)
        }
    }

    /// The path of the invalid member, such as `address.city`; empty for the whole of `data`, or if
    /// it is not known.
    ///
    /// If the requested type contains a map, the path may contain keys of the sender. So the
    /// error's text only names a member that the SDK knows.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Debug for DataError {
    /// Omits the path, which may contain keys of the sender.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataError")
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            DataCause::Shape { line, column } => write!(
                f,
                "the event's data does not have the requested shape (its line {line}, column {column})"
            ),
            DataCause::Mismatched { member } => write!(
                f,
                "the member `{member}` of the event's data does not have the deduced shape"
            ),
        }
    }
}

impl std::error::Error for DataError {}
