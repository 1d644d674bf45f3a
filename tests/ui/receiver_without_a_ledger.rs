//! An inline receiver needs a ledger and a verifier.

use std::collections::HashSet;

use authpi_sdk::{
    handlers::Handlers,
    receiver::Receiver,
    signature::{KeyRing, Verifier},
    stores::Memory,
};

fn main() {
    let _ = Receiver::inline(
        "users",
        Verifier::authpi(KeyRing::new()),
        HashSet::<String>::new(), //~ E0277
        Handlers::new(()),
    );
    let _ = Receiver::inline("users", KeyRing::new(), Memory::new(), Handlers::new(())); //~ E0308
}
