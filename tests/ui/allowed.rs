//! The correct versions of the other programs: this one compiles.

use authpi_sdk::{
    event::{Event, EventType, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::Receiver,
    signature::{KeyRing, Secret, Verified, Verifier},
    stores::Memory,
};

async fn welcome(event: Event<UserCreated>, context: Context<String>) -> authpi_sdk::HandlerResult {
    println!("{} {:?}", context.state(), event.data()?.id);
    Ok(())
}

fn event_of(body: Verified<Vec<u8>>) -> Vec<u8> {
    body.into_inner()
}

fn main() {
    let keys = KeyRing::new().with(
        "2026-11",
        Secret::new("whs_0123456789abcdef0123456789abcdef"),
    );
    let handlers = Handlers::new(String::new())
        .on(welcome)
        .on_prefix("organization.", async |_: Event, _| Ok(()));
    let receiver =
        Receiver::inline("users", Verifier::authpi(keys), Memory::new(), handlers).build();
    let unknown = EventType::from("moon.landed");
    println!(
        "{} {}",
        receiver.is_ok(),
        matches!(&unknown, EventType::Unknown(name) if name.as_str() == "moon.landed")
    );
    let _ = event_of;
}
