//! The receiver in salvo: `AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example salvo`.

use authpi_sdk::Receiver;
use frameworks::{Result, receiver, stopped};
use salvo::{
    Listener as _, Router, Server, conn::TcpListener, http::ReqBody, prelude::TowerServiceCompat,
};

#[tokio::main]
async fn main() -> Result {
    let hook = receiver()?;
    let server = Server::new(TcpListener::new("127.0.0.1:8080").bind().await);
    let handle = server.handle();
    tokio::spawn(async move {
        stopped().await;
        handle.stop_graceful(None);
    });
    server.serve(app(hook.clone())).await;
    hook.drain().await;
    Ok(())
}

pub(crate) fn app(hook: Receiver) -> Router {
    Router::with_path("hooks/authpi").goal(TowerServiceCompat::<ReqBody, _, _, _>::compat(hook))
}
