//! Idempotency keys, which make a POST safe to repeat.

use super::error::Error;

/// The maximum length of a key at AuthPI, in characters.
const MAX_KEY_CHARS: usize = 256;

/// A key of 128 random bits, in hex.
///
/// # Errors
/// When the system has no random numbers.
pub(crate) fn fresh() -> Result<String, Error> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::invalid_argument("the system returned no random numbers for an idempotency key")
            .caused_by(error)
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(bits)))
}

/// # Errors
/// When the key does not have the 1 to 256 characters that AuthPI requires, or when a character is
/// not visible ASCII, which this client requires for the header.
pub(crate) fn check(key: &str) -> Result<(), Error> {
    if key.is_empty() || key.len() > MAX_KEY_CHARS {
        Err(Error::invalid_argument(
            "an idempotency key must have 1 to 256 characters",
        ))
    } else if !key.bytes().all(|b| b.is_ascii_graphic()) {
        Err(Error::invalid_argument(
            "an idempotency key must be visible ASCII without spaces",
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_keys_are_32_hex_digits_and_differ() {
        let keys = [fresh().unwrap(), fresh().unwrap()];
        assert_ne!(keys[0], keys[1]);
        for key in keys {
            assert!(
                key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()),
                "{key}"
            );
            check(&key).unwrap();
        }
    }

    #[test]
    fn a_key_that_authpi_would_not_take_is_refused() {
        for bad in ["", &"k".repeat(257), "a b", "a\nb", "ключ"] {
            assert!(check(bad).is_err(), "{bad:?} is taken");
        }
        check(&"k".repeat(256)).unwrap();
    }
}
