//! Handlers do not accept an unverified event.

use authpi_sdk::{event::Event, handlers::Handlers};

fn main() {
    let handlers = Handlers::new(()).fallback(async |_: Event, _| Ok(()));
    let forged = Event::from_json("{}").unwrap();
    let _outcome = handlers.dispatch(forged); //~ E0308
}
