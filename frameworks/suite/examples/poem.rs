//! The receiver in poem: `AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example poem`.

use authpi_sdk::Receiver;
use frameworks::{Result, receiver, stopped};
use poem::{Route, Server, endpoint::TowerCompatExt as _, listener::TcpListener};

#[tokio::main]
async fn main() -> Result {
    let hook = receiver()?;
    let server = Server::new(TcpListener::bind("127.0.0.1:8080"));
    server
        .run_with_graceful_shutdown(app(hook.clone()), stopped(), None)
        .await?;
    hook.drain().await;
    Ok(())
}

pub(crate) fn app(hook: Receiver) -> Route {
    Route::new().at("/hooks/authpi", hook.compat())
}
