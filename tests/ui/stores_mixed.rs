//! A handler that writes in one store's transaction cannot run with another store, nor without
//! transactions.

use authpi_sdk::{
    event::{
        Event,
        types::{UserCreated, UserDeleted},
    },
    handlers::Handlers,
    ledger::{OrderedInbox, Transactional, Tx},
    receiver::Receiver,
    signature::{KeyRing, Verifier},
    stores::Memory,
    worker::Worker,
};

fn mixed<A: Transactional + OrderedInbox, B: Transactional + OrderedInbox>(one: A, another: B) {
    let verifier = || Verifier::authpi(KeyRing::new());
    let handlers = || Handlers::new(()).on_tx(async |_: Event<UserCreated>, _, _tx: Tx<A>| Ok(()));
    let _ = Receiver::inline("users", verifier(), one.clone(), handlers());
    let _ = Receiver::inline("users", verifier(), another.clone(), handlers()); //~ E0277
    let _ = Receiver::inline("users", verifier(), Memory::new(), handlers()); //~ E0308
    let _ = Worker::builder("users", one, handlers());
    let _ = Worker::builder("users", another, handlers()); //~ E0277
    let _ = handlers().on_tx(async |_: Event<UserDeleted>, _, _tx: Tx<B>| Ok(())); //~ E0277
}

fn main() {}
