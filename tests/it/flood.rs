//! Bodies from senders without the secret: what memory they can take, and what others get
//! meanwhile.

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use authpi_sdk::{
    event::{
        Event,
        types::{UserCreated, UserUpdated},
    },
    receiver::BodyBudget,
    signature::{KeyRing, SignatureScheme, Verified, Verifier},
    testing::Fixture,
};
use authpi_tests::{allow_open_files, harness::SECRET};
use axum::{Extension, Router};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

const KIB: usize = 1024;
/// How many slow bodies the budget has room for, and how many more there are.
const SLOW: usize = 1000;
const MORE: usize = 100;
/// What each slow body is said to be, and what of it comes at first, and later.
const ANNOUNCED: usize = 1 << 20;
const AT_FIRST: usize = 20 * KIB;
const LATER: usize = 236 * KIB;
/// How much more memory the service may have needed at its worst: the budget (16 MiB), the first 16
/// KiB of 1,100 bodies (18 MiB), what hyper holds for as many connections, and what the allocator
/// makes of it.
const MOST_KIB: usize = 128 * KIB;
const ENOUGH: Duration = Duration::from_mins(2);
/// A body of which nothing came for so long stalls.
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

/// The status, or nothing where the connection was closed without one.
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

/// Delivers on a connection of its own, as AuthPI would.
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

/// An event of about this many bytes.
fn event_of(id: &str, bytes: usize) -> Fixture {
    let fixture = Fixture::of::<UserUpdated>().id(id.to_owned());
    fixture.data(serde_json::json!({ "username": "x".repeat(bytes) }))
}

/// Begins a body that nobody has signed, and goes no further.
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

    /// The most memory that it had at any time, in KiB.
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
async fn a_thousand_slow_bodies_take_bounded_memory_and_keep_no_genuine_delivery_out() {
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
            // As much as it can, until it is dropped.
            let _ = stream.write_all(&vec![b'x'; LATER]).await;
            tell_done.send(()).unwrap();
            let _ = status(&mut stream).await;
        });
    }
    // Each holds one step beyond its first 16 KiB, so those that are too many show that the budget
    // is full.
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
    let budget = BodyBudget::new(64 * KIB);
    let app = Router::new()
        .route("/", axum::routing::post(hook))
        .layer(Extension(budget))
        .with_state(verifier);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    // 48 KiB each beyond what is free.
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
