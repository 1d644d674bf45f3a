//! The receiver in warp: `AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example warp`.

use authpi_sdk::Receiver;
use frameworks::{Result, receiver, stopped};
use warp::{Filter, Rejection, Reply};

#[tokio::main]
async fn main() -> Result {
    let hook = receiver()?;
    let server = warp::serve(app(hook.clone()))
        .bind(([127, 0, 0, 1], 8080))
        .await;
    server.graceful(stopped()).run().await;
    hook.drain().await;
    Ok(())
}

pub(crate) fn app(
    hook: Receiver,
) -> impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone + Send + Sync + 'static {
    warp::path!("hooks" / "authpi").and(authpi_warp::hook(hook))
}
