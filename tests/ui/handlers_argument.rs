//! A handler's argument is an event of one of AuthPI's types, and it returns the SDK's
//! `HandlerResult`.

use authpi_sdk::{
    event::{Event, payload::User},
    handlers::{Context, Handlers},
};

struct MoonLanded;

fn of_my_own(_: Event<MoonLanded>) {} //~ E0277

async fn of_a_payload(_: User, _: Context<()>) -> authpi_sdk::HandlerResult {
    Ok(())
}

async fn of_any(_: Event, _: Context<()>) -> authpi_sdk::HandlerResult {
    Ok(())
}

async fn of_another_state(_: Event, _: Context<String>) -> authpi_sdk::HandlerResult {
    Ok(())
}

fn main() {
    let _ = of_my_own;
    let _ = Handlers::new(()).on(of_a_payload); //~ E0631
    let _ = Handlers::new(()).on(of_any); //~ E0277
    let _ = Handlers::new(()).fallback(of_another_state); //~ E0631
    let _ = Handlers::new(()).fallback(async |_: Event, _| 42); //~ E0308
}
