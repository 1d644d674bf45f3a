//! Checks ids that become part of a path.
//!
//! An id that is empty, `.`, `..` or contains a slash would send the call to another path.

use super::error::Error;

/// Why `id` cannot be part of a path, if so.
pub(crate) fn problem(id: &str) -> Option<&'static str> {
    if id.is_empty() {
        Some("is empty")
    } else if id == "." || id == ".." {
        Some("must not be a path segment such as `..`")
    } else if id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    {
        None // AuthPI's ids have only these
    } else if id.contains(['/', '\\', '?', '#', '%']) {
        Some("must not contain / \\ ? # %")
    } else if id.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Some("must not contain white space or control characters")
    } else {
        None
    }
}

/// # Errors
/// When the id is not valid in a path. The message does not contain the id.
pub(crate) fn check(what: &str, id: &str) -> Result<(), Error> {
    problem(id).map_or(Ok(()), |problem| {
        Err(Error::invalid_argument(format!("the {what} id {problem}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_would_retarget_the_call_is_refused() {
        for id in [
            "", ".", "..", "a/b", "../x", "a\\b", "a?b", "a#b", "%2e%2e", "a b", "a\n", "a\u{0}",
            "\u{a0}",
        ] {
            assert!(problem(id).is_some(), "{id:?} may go into a path");
        }
        for id in [
            "wh_01h9",
            "acc_0123456789abcdefghijklmno",
            "evt-1",
            "...",
            "é",
        ] {
            assert_eq!(problem(id), None, "{id:?} may not go into a path");
        }
    }
}
