//! Only a verifier creates verified values; their fields are private.

use authpi_sdk::signature::Verified;

fn promote(body: Vec<u8>) -> Verified<Vec<u8>> {
    Verified {
        value: body, //~ E0451
        key: None,
    }
}

fn main() {
    let _ = promote;
}
