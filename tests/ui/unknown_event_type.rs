//! A type that this version does not know cannot be created or matched by name, so adding its name
//! later breaks no code.

use authpi_sdk::event::{EventType, UnknownEventType};

fn make() -> EventType {
    EventType::Unknown(UnknownEventType("moon.landed".into())) //~ E0423
}

fn matches(event_type: &EventType) -> bool {
    match event_type {
        EventType::Unknown("moon.landed") => true, //~ E0308
        _ => false,
    }
}

fn every_one(event_type: &EventType) {
    let (EventType::UserCreated | EventType::Unknown(_)) = event_type; //~ E0005
}

fn main() {
    let _ = (make, matches, every_one);
}
