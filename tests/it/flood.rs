//! Bodies from senders without the secret: their memory use, and the effect on others.

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use authpi_sdk::{
    event::{
        Event,
        types::{UserCreated, UserUpdated},
    },
    receiver::Receiver,
    signature::{KeyRing, SignatureScheme, Verified, Verifier},
    testing::Fixture,
};
use authpi_tests::{allow_open_files, harness::SECRET};
use axum::Router;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

const KIB: usize = 1024;
/// The number of slow bodies within the budget, and beyond it.
const SLOW: usize = 1000;
const MORE: usize = 100;
/// The announced size of a slow body, and the parts that are sent first and later.
const ANNOUNCED: usize = 1 << 20;
const AT_FIRST: usize = 20 * KIB;
const LATER: usize = 236 * KIB;
/// The maximum growth of the service's memory: the budget (16 MiB), the first 16 KiB of 1,100
/// bodies (18 MiB), hyper's buffers for the connections, and the allocator's overhead.
const MOST_KIB: usize = 128 * KIB;
const ENOUGH: Duration = Duration::from_mins(2);
/// A body without progress for this long counts as stalled.
const STALLED: Duration = Duration::from_secs(2);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(ENOUGH, future)
        .await
        .expect("it did not happen within two minutes")
}

fn head(signature: &str, length: usize) -> Vec<u8> {
    format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nx-webhook-signature: {signature}\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// The status; `None` if the connection was closed without one.
async fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    while !answer.windows(2).any(|end| end == b"\r\n") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8_lossy(&answer)
        .split(' ')
        .nth(1)?
        .parse()
        .ok()
}

/// Delivers on its own connection, like AuthPI.
async fn deliver(address: SocketAddr, fixture: &Fixture) -> Option<u16> {
    let body = fixture.body();
    let headers = SignatureScheme::authpi()
        .sign(&SECRET.into(), "", jiff::Timestamp::now(), &body)
        .unwrap();
    let mut request = head(headers["x-webhook-signature"].to_str().unwrap(), body.len());
    request.extend_from_slice(&body);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&request).await.ok()?;
    within(status(&mut stream)).await
}

/// An event of about this number of bytes.
fn event_of(id: &str, bytes: usize) -> Fixture {
    let fixture = Fixture::of::<UserUpdated>().id(id.to_owned());
    fixture.data(serde_json::json!({ "username": "x".repeat(bytes) }))
}

/// Sends the start of an unsigned body only.
async fn begin_body(address: SocketAddr, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut request = head(&"ab".repeat(32), announced);
    request.resize(request.len() + sent, b'x');
    // It may be dropped while it is sent.
    let _ = stream.write_all(&request).await;
    stream
}

/// The test's service, with a receiver in memory.
struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    async fn start(max_unverified_bytes: usize) -> Self {
        let mut child = Command::new(Path::new(env!("CARGO_BIN_EXE_service")))
            .args(["in-memory", &max_unverified_bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the service starts");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let line = within(out.lines().next_line())
            .await
            .unwrap()
            .unwrap_or_default();
        let port = line
            .strip_prefix("ready ")
            .and_then(|port| port.parse::<u16>().ok());
        let port = port.unwrap_or_else(|| panic!("the service is not ready: {line:?}"));
        Self {
            child,
            address: ([127, 0, 0, 1], port).into(),
        }
    }

    /// Its peak memory use, in KiB.
    fn most_resident(&self) -> usize {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("Linux says so");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number")
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_bodies_use_bounded_memory_and_block_no_delivery() {
    allow_open_files(4 * (SLOW + MORE) as u64).unwrap();
    let service = Service::start(SLOW * 16 * KIB).await;
    let address = service.address;
    assert_eq!(
        deliver(address, &event_of("evt_before", 2 * KIB)).await,
        Some(200)
    );
    let before = service.most_resident();

    let gate = Arc::new(Semaphore::new(0));
    let (tell, mut dropped) = mpsc::unbounded_channel();
    let (tell_done, mut done) = mpsc::unbounded_channel();
    for _ in 0..SLOW + MORE {
        let (gate, tell, tell_done) = (gate.clone(), tell.clone(), tell_done.clone());
        tokio::spawn(async move {
            let mut stream = begin_body(address, ANNOUNCED, AT_FIRST).await;
            tokio::select! {
                status = status(&mut stream) => {
                    tell.send(status).unwrap();
                    tell_done.send(()).unwrap();
                    return;
                }
                open = gate.acquire() => open.unwrap().forget(),
            }
            // Sends continuously until it is dropped.
            let _ = stream.write_all(&vec![b'x'; LATER]).await;
            tell_done.send(()).unwrap();
            let _ = status(&mut stream).await;
        });
    }
    // Each buffer has grown from 16 to 32 KiB, so each body is charged 16 KiB. `SLOW` bodies fill
    // the budget; the `MORE` others are too many.
    for _ in 0..MORE {
        let status = within(dropped.recv()).await.unwrap();
        assert!(
            matches!(status, Some(503) | None),
            "a slow body was answered {status:?}"
        );
    }
    assert_eq!(
        deliver(address, &event_of("evt_small", 2 * KIB)).await,
        Some(200),
        "a full budget keeps others out"
    );
    sleep(STALLED).await;
    assert_eq!(
        deliver(address, &event_of("evt_large", 900 * KIB)).await,
        Some(200),
        "a large one is kept out"
    );
    let most = service.most_resident() - before;
    assert!(most < MOST_KIB, "{most} KiB more for {SLOW} slow bodies");

    gate.add_permits(SLOW + MORE);
    assert_eq!(
        deliver(address, &event_of("evt_meanwhile", 2 * KIB)).await,
        Some(200)
    );
    for _ in 0..SLOW + MORE {
        within(done.recv()).await.unwrap();
    }
    assert_eq!(
        deliver(address, &event_of("evt_after", 2 * KIB)).await,
        Some(200)
    );
    let most = service.most_resident() - before;
    println!("{most} KiB more at the most");
    assert!(
        most < MOST_KIB,
        "{most} KiB more for {SLOW} bodies that are pushed"
    );
}

#[tokio::test]
async fn an_extractor_drops_slow_bodies_where_its_budget_is_full() {
    async fn hook(event: Verified<Event>) -> String {
        event.id().to_owned()
    }
    let verifier = Verifier::authpi(KeyRing::new().with("test", SECRET)).max_body(64 * KIB);
    let authenticator = Receiver::verify_only("users", verifier)
        .max_unverified_bytes(64 * KIB)
        .build()
        .unwrap();
    let app = Router::new()
        .route("/", axum::routing::post(hook))
        .with_state(authenticator);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    // Each body has a buffer of 64 KiB. The first 16 KiB are not charged, so each is charged 48
    // KiB, and only one fits.
    let mut first = begin_body(address, 64 * KIB, 40 * KIB).await;
    let mut second = begin_body(address, 64 * KIB, 40 * KIB).await;
    let status = within(async {
        tokio::select! {
            status = status(&mut first) => status,
            status = status(&mut second) => status,
        }
    });
    assert!(
        matches!(status.await, Some(503) | None),
        "both are held where one may be"
    );
    assert_eq!(
        deliver(address, &Fixture::of::<UserCreated>()).await,
        Some(200)
    );
    sleep(STALLED).await;
    assert_eq!(
        deliver(address, &event_of("evt_large", 40 * KIB)).await,
        Some(200)
    );
}
