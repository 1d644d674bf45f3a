//! Bytes as hexadecimal digits.

/// Lower case.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push(&mut text, bytes);
    text
}

/// Appends the digits to a string, in lower case. Does not use `format!`: a ledger may do this
/// several times per event.
pub(crate) fn push(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
}

/// Decodes exactly two digits per byte, in either case.
pub(crate) fn decode_into(bytes: &mut [u8], digits: &[u8]) -> Option<()> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    // No early exit: a signature takes the same time wherever a digit is wrong.
    let mut all = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    (all <= 0xf).then_some(())
}

/// Decodes an array of bytes, from digits in either case.
#[cfg(any(feature = "redis", feature = "nats"))]
pub(crate) fn decode<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    decode_into(&mut bytes, digits.as_bytes()).map(|()| bytes)
}

/// The value of each hexadecimal digit; 0xff for any other byte.
const VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut n = 0;
    while n < 16 {
        values[b"0123456789abcdef"[n as usize] as usize] = n;
        values[b"0123456789ABCDEF"[n as usize] as usize] = n;
        n += 1;
    }
    values
};

/// The SHA-256 of the bytes, in lower case.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    encode(&sha2::Sha256::digest(bytes))
}
