//! The receiver in axum: `AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example axum`.

use authpi_sdk::Receiver;
use axum::Router;
use frameworks::{Result, receiver, stopped};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result {
    let hook = receiver()?;
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, app(hook.clone()))
        .with_graceful_shutdown(stopped())
        .await?;
    hook.drain().await;
    Ok(())
}

pub(crate) fn app(hook: Receiver) -> Router {
    Router::new().route_service("/hooks/authpi", hook)
}
