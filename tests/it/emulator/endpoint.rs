//! The target of webhooks: an endpoint with scripted responses that records deliveries.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, response::Response};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify};

/// A receiver of deliveries on its own port.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    state: Arc<Script>,
}

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Reply>>,
    received: Mutex<Vec<Received>>,
    arrived: Notify,
}

/// How an endpoint responds to a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Status(u16),
    /// 302 to this address.
    Redirect(String),
    /// Responds when notified.
    HoldUntil(Arc<Notify>),
    Never,
}

#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn envelope(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn event_type(&self) -> String {
        self.envelope()["data"]["type"].as_str().unwrap().to_owned()
    }
}

impl Endpoint {
    /// Answers 200 to each delivery.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let state = Arc::new(Script::default());
        let app = Router::new()
            .fallback(receive)
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, state }
    }

    /// The responses to the next deliveries, followed by 200.
    pub(crate) fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(replies);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state
            .received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until `count` deliveries have arrived.
    pub(crate) async fn until(&self, count: usize) {
        loop {
            let arrived = self.state.arrived.notified();
            if self.received().len() >= count {
                return;
            }
            arrived.await;
        }
    }
}

async fn receive(State(script): State<Arc<Script>>, headers: HeaderMap, body: Bytes) -> Response {
    script
        .received
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Received { headers, body });
    let reply = script
        .answers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front();
    script.arrived.notify_waiters();
    let answer = |status: u16| Response::builder().status(status);
    let answer = match reply.unwrap_or(Reply::Status(200)) {
        Reply::Status(status) => answer(status),
        Reply::Redirect(to) => answer(302).header("location", to),
        Reply::HoldUntil(reported) => {
            reported.notified().await;
            answer(200)
        }
        Reply::Never => std::future::pending().await,
    };
    answer.body("said by the endpoint".into()).unwrap()
}
