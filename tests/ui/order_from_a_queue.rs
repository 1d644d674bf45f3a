//! JetStream delivers the next message, whatever its subject, so order per user is not available.

use authpi_sdk::{
    event::Subject,
    receiver::Receiver,
    signature::{KeyRing, Verifier},
    stores::{Memory, Nats},
};

fn in_any_order(inbox: Nats<Memory>) {
    let _ = Receiver::inbox("users", Verifier::authpi(KeyRing::new()), inbox).build();
}

fn in_order(inbox: Nats<Memory>) {
    let _ = Receiver::inbox("users", Verifier::authpi(KeyRing::new()), inbox)
        .ordered_by(Subject::user_id); //~ E0277
}

fn main() {
    let _ = (in_any_order, in_order);
}
