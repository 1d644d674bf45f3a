//! Only a verifier creates verified values.

use authpi_sdk::{event::Event, signature::Verified};

fn declare(body: Vec<u8>) -> Verified<Vec<u8>> {
    Verified::new(body, None) //~ E0624
}

fn convert(event: Event) -> Verified<Event> {
    event.into() //~ E0277
}

fn main() {
    let _ = (declare, convert);
}
