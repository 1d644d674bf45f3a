//! An event of one type is not accepted as another, and has typed data only if its type is known.

use authpi_sdk::event::{
    Event,
    types::{UserCreated, UserUpdated},
};

fn sync(_: &Event<UserUpdated>) {}

fn created(event: &Event<UserCreated>) {
    sync(event); //~ E0308
}

fn any(event: &Event) {
    sync(event); //~ E0308
    let _ = event.data(); //~ E0599
}

fn main() {
    let _ = (created, any);
}
