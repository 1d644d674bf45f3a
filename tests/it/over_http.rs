//! The receiver behind a real server, with senders that misbehave.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{SECRET, verifier};
use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::{Inline, Receiver, ReceiverBuilder},
    signature::SignatureScheme,
    stores::Memory,
    testing::Fixture,
};
use axum::Router;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    time::timeout,
};

/// A receiver behind axum. Its handler signals its start, waits for a permit, and counts.
struct Service {
    address: SocketAddr,
    receiver: Receiver,
    started: Arc<Notify>,
    go: Arc<Semaphore>,
    handled: Arc<AtomicUsize>,
}

impl Service {
    async fn start() -> Self {
        Self::with(|receiver| receiver).await
    }

    async fn with(
        settings: impl FnOnce(ReceiverBuilder<Inline>) -> ReceiverBuilder<Inline>,
    ) -> Self {
        let (started, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let handled = Arc::new(AtomicUsize::new(0));
        let handlers = Handlers::new((Arc::clone(&started), Arc::clone(&go), Arc::clone(&handled))).on(
            async |_: Event<UserCreated>, cx: Context<(Arc<Notify>, Arc<Semaphore>, Arc<AtomicUsize>)>| {
                let (started, go, handled) = cx.state();
                started.notify_one();
                go.acquire().await?.forget();
                handled.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        );
        let verifier = verifier().max_body(4096);
        let receiver = settings(Receiver::inline("users", verifier, Memory::new(), handlers))
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route_service("/hooks/authpi", receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            receiver,
            started,
            go,
            handled,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }

    /// Sends `request` and reads the response's first line.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        status_line(&mut stream).await
    }
}

pub(crate) async fn status_line(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(2).any(|end| end == b"\r\n") {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
    };
    timeout(Duration::from_mins(1), read)
        .await
        .expect("no answer within a minute");
    String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn body() -> Vec<u8> {
    Fixture::of::<UserCreated>().body().to_vec()
}

fn signature(body: &[u8]) -> String {
    let headers = SignatureScheme::authpi()
        .sign(&SECRET.into(), "", jiff::Timestamp::now(), body)
        .unwrap();
    headers["x-webhook-signature"].to_str().unwrap().to_owned()
}

/// Sends the request on its own connection; returns the response's first line.
pub(crate) async fn answer_to(address: SocketAddr, request: Vec<u8>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&request).await.unwrap();
    status_line(&mut stream).await
}

/// A complete request, with these headers besides `Host` and `Content-Length`.
fn post(headers: &[(&str, &[u8])], body: &[u8]) -> Vec<u8> {
    let mut request = b"POST /hooks/authpi HTTP/1.1\r\nhost: localhost\r\n".to_vec();
    for (name, value) in headers {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    request
}

pub(crate) fn signed_post(body: &[u8]) -> Vec<u8> {
    post(&[("x-webhook-signature", signature(body).as_bytes())], body)
}

#[tokio::test]
async fn a_delivery_is_handled_over_http() {
    let service = Service::start().await;
    service.go.add_permits(1);
    assert_eq!(
        service.exchange(&signed_post(&body())).await,
        "HTTP/1.1 200 OK"
    );
    assert_eq!(service.handled(), 1);
}

#[tokio::test]
async fn a_sender_that_hangs_up_half_way_is_not_handled() {
    let service = Service::start().await;
    service.go.add_permits(2);
    let request = signed_post(&body());
    let mut stream = service.connect().await;
    stream
        .write_all(&request[..request.len() - 10])
        .await
        .unwrap();
    drop(stream);
    assert_eq!(service.exchange(&request).await, "HTTP/1.1 200 OK");
    service.receiver.drain().await;
    assert_eq!(service.handled(), 1);
}

#[tokio::test]
async fn a_sender_that_hangs_up_while_a_handler_runs_does_not_cancel_it() {
    let service = Service::start().await;
    let mut stream = service.connect().await;
    stream.write_all(&signed_post(&body())).await.unwrap();
    service.started.notified().await;
    // An abortive close: the server sees the reset immediately and drops the request.
    stream.set_zero_linger().unwrap();
    drop(stream);
    service.go.add_permits(1);
    service.receiver.drain().await;
    assert_eq!(service.handled(), 1);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_408() {
    let service = Service::with(|receiver| receiver.body_timeout(Duration::from_millis(200))).await;
    let request = signed_post(&body());
    let mut stream = service.connect().await;
    stream
        .write_all(&request[..request.len() - 10])
        .await
        .unwrap();
    assert_eq!(
        status_line(&mut stream).await,
        "HTTP/1.1 408 Request Timeout"
    );
    assert_eq!(service.handled(), 0);
}

#[tokio::test]
async fn a_body_over_the_cap_is_413_whether_it_says_its_length_or_not() {
    let service = Service::start().await;
    let large = vec![b' '; 5000];
    assert_eq!(
        service.exchange(&signed_post(&large)).await,
        "HTTP/1.1 413 Payload Too Large"
    );
    let mut chunked = format!(
        "POST /hooks/authpi HTTP/1.1\r\nhost: localhost\r\nx-webhook-signature: {}\r\ntransfer-encoding: chunked\r\n\r\n1388\r\n",
        signature(&large)
    )
    .into_bytes();
    chunked.extend_from_slice(&large);
    assert_eq!(
        service.exchange(&chunked).await,
        "HTTP/1.1 413 Payload Too Large"
    );
}

#[tokio::test]
async fn a_body_in_chunks_is_handled_like_any_other() {
    let service = Service::start().await;
    service.go.add_permits(1);
    let body = body();
    let mut request = format!(
        "POST /hooks/authpi HTTP/1.1\r\nhost: localhost\r\nx-webhook-signature: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        signature(&body)
    )
    .into_bytes();
    for chunk in body.chunks(9) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(service.exchange(&request).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn non_ascii_and_repeated_headers_are_checked_and_never_fatal() {
    let service = Service::start().await;
    service.go.add_permits(1);
    let body = body();
    let right = signature(&body);
    let not_ascii = post(&[("x-webhook-signature", b"v1=\xc3\xa9\xff")], &body);
    assert_eq!(
        service.exchange(&not_ascii).await,
        "HTTP/1.1 401 Unauthorized"
    );
    let wrong = "0".repeat(64);
    let twice = post(
        &[
            ("x-webhook-signature", wrong.as_bytes()),
            ("x-webhook-signature", right.as_bytes()),
        ],
        &body,
    );
    assert_eq!(service.exchange(&twice).await, "HTTP/1.1 200 OK");
    let stray = post(
        &[
            ("x-webhook-signature", right.as_bytes()),
            ("traceparent", b"\xff\xfe"),
        ],
        &body,
    );
    assert_eq!(service.exchange(&stray).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_reader_of_the_answer_need_not_send_more_requests() {
    let service = Service::start().await;
    let get = b"GET /hooks/authpi HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert_eq!(
        service.exchange(get).await,
        "HTTP/1.1 405 Method Not Allowed"
    );
}

#[tokio::test]
async fn an_extractor_hands_out_authentic_events_only() {
    async fn hook(event: authpi_sdk::signature::Verified<Event>) -> String {
        format!("{} by {:?}", event.id(), event.key_name())
    }
    let app = Router::new()
        .route("/hooks/authpi", axum::routing::post(hook))
        .with_state(Receiver::verify_only("users", verifier()).build().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let body = body();
    let forged = post(&[("x-webhook-signature", "0".repeat(64).as_bytes())], &body);
    for (request, status) in [
        (signed_post(&body), "HTTP/1.1 200 OK"),
        (forged, "HTTP/1.1 401 Unauthorized"),
        (signed_post(b"{}"), "HTTP/1.1 400 Bad Request"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&request).await.unwrap();
        assert_eq!(status_line(&mut stream).await, status);
    }
}
