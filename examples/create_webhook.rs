//! Creates a webhook and prints its secret, which AuthPI returns only once.
//!
//! ```text
//! AUTHPI_KEY_ID=key_… AUTHPI_KEY_SECRET=… cargo run --example create_webhook https://example.com/hooks/authpi
//! ```
//!
//! Set `AUTHPI_BASE_URL` to use an emulator (`cargo run -p authpi-cli -- emulate`) instead of
//! AuthPI.

use std::{env, error::Error};

use authpi_sdk::{
    client::{Client, WebhookSpec},
    event::EventType,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::args().nth(1).ok_or("usage: create_webhook URL")?;
    let spec = WebhookSpec::new("users", url).events([
        EventType::UserCreated,
        EventType::UserUpdated,
        EventType::UserDeleted,
    ]);
    let made = Client::from_env()?.webhooks().create(&spec).await?;
    println!("created {}", made.webhook.id);
    match made.secret {
        Some(secret) => println!("AUTHPI_WEBHOOK_SECRET={}", secret.expose()),
        None => println!("AuthPI sent no secret"),
    }
    Ok(())
}
