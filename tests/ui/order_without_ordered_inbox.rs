//! An inbox without ordering does not offer `ordered_by`.

use authpi_sdk::{
    event::Subject,
    ledger::Inbox,
    receiver::Receiver,
    signature::{KeyRing, Verifier},
};

fn queue<Q: Inbox>(queue: Q) {
    let _ = Receiver::inbox("users", Verifier::authpi(KeyRing::new()), queue)
        .ordered_by(Subject::user_id); //~ E0277
}

fn main() {}
