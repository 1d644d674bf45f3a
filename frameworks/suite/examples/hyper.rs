//! The receiver in hyper, without a framework:
//! `AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example hyper`.

use authpi_sdk::Receiver;
use frameworks::{Result, receiver, stopped};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result {
    let hook = receiver()?;
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    serve(listener, hook.clone(), stopped()).await?;
    hook.drain().await;
    Ok(())
}

pub(crate) async fn serve(
    listener: TcpListener,
    hook: Receiver,
    stopped: impl Future<Output = ()>,
) -> Result {
    let connections = GracefulShutdown::new();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let (stream, _) = tokio::select! {
            stream = listener.accept() => stream?,
            () = &mut stopped => break,
        };
        let service = TowerToHyperService::new(hook.clone());
        let mut server = http1::Builder::new();
        let connection = server
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connections.watch(connection));
    }
    connections.shutdown().await;
    Ok(())
}
