//! Shared by the examples, of which there is one for each framework, and by the tests. The tests
//! run the applications of the examples with the receivers of [`scenarios`].

pub mod scenarios;

use std::error::Error;

use authpi_sdk::{
    Context, Event, HandlerResult, Handlers, KeyRing, Receiver, Secret, Verifier,
    event::types::UserCreated, stores::Memory,
};

/// The path of the receiver in each example.
pub const PATH: &str = "/hooks/authpi";

/// The result of an example's `main`.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

async fn user_created(event: Event<UserCreated>, _: Context<()>) -> HandlerResult {
    println!("{:?} joined", event.data()?.username);
    Ok(())
}

/// The receiver of the examples. Its secret is in `AUTHPI_WEBHOOK_SECRET`.
///
/// # Errors
/// When the variable is not set.
pub fn receiver() -> Result<Receiver> {
    let keys = KeyRing::new().with("2026-11", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    let handlers = Handlers::new(()).on(user_created);
    Ok(Receiver::inline("users", Verifier::authpi(keys), Memory::new(), handlers).build()?)
}

/// Resolves on SIGTERM and on Ctrl-C.
///
/// # Panics
/// When the process cannot listen for signals.
pub async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("failed to listen for SIGTERM");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
