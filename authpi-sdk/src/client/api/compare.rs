//! Compares what AuthPI shows with what it was given, apart from how it is written.

use serde_json::Value;
use url::Url;

/// Also equal if AuthPI normalizes an address (`https://a` and `https://a/`).
pub(crate) fn url(a: &str, b: &str) -> bool {
    a == b || matches!((Url::parse(a), Url::parse(b)), (Ok(a), Ok(b)) if a == b)
}

/// Whether everything declared is there. An object may have more members, since AuthPI may add its
/// own.
pub(crate) fn covers(there: &Value, declared: &Value) -> bool {
    match (there, declared) {
        (Value::Object(there), Value::Object(declared)) => declared
            .iter()
            .all(|(name, value)| there.get(name).is_some_and(|there| covers(there, value))),
        (Value::Array(there), Value::Array(declared)) => {
            there.len() == declared.len()
                && there
                    .iter()
                    .zip(declared)
                    .all(|(there, value)| covers(there, value))
        }
        // In JSON, 1 and 1.0 are the same number.
        (Value::Number(there), Value::Number(declared)) => {
            there == declared || there.as_f64() == declared.as_f64()
        }
        _ => there == declared,
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
