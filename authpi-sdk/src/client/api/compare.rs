//! Compares values that AuthPI returns with those that it was given, regardless of their notation.

use serde_json::Value;
use url::Url;

/// Whether two addresses are equal, also if AuthPI has normalized one of them (`https://a` and
/// `https://a/`).
pub(crate) fn url(a: &str, b: &str) -> bool {
    a == b || matches!((Url::parse(a), Url::parse(b)), (Ok(a), Ok(b)) if a == b)
}

/// Whether `actual` has everything that is declared. An object may have more members, since AuthPI
/// may add its own.
pub(crate) fn covers(actual: &Value, declared: &Value) -> bool {
    match (actual, declared) {
        (Value::Object(actual), Value::Object(declared)) => declared
            .iter()
            .all(|(name, value)| actual.get(name).is_some_and(|actual| covers(actual, value))),
        (Value::Array(actual), Value::Array(declared)) => {
            actual.len() == declared.len()
                && actual
                    .iter()
                    .zip(declared)
                    .all(|(actual, value)| covers(actual, value))
        }
        // In JSON, 1 and 1.0 are the same number.
        (Value::Number(actual), Value::Number(declared)) => {
            actual == declared || actual.as_f64() == declared.as_f64()
        }
        _ => actual == declared,
    }
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        assert!(url("https://Example.com", "https://example.com/"));
        assert!(!url("https://example.com/a", "https://example.com/b"));
        assert!(url("not a url", "not a url"));
    }
}
