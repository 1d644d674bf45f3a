//! The cost of a delivery to a service, over HTTP on the loopback interface: a bare axum route
//! that reads the body and returns 200, a hand-written route as services have today (HMAC, serde, a
//! `HashMap` of seen ids), and our receiver with the memory ledger.
//!
//! Each server is a separate process with one thread. The load comes from this process over
//! keep-alive connections, and is the same for each: deliveries of 1 KiB, each with a new id.
//! Servers take turns, round after round.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    hint::black_box,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Instant,
};

use authpi_sdk::{
    event::{Event, types::UserUpdated},
    handlers::{Context, Handlers},
    receiver::Receiver,
    signature::{KeyRing, SignatureScheme, Verifier},
    stores::Memory,
    testing::Fixture,
};
use axum::{Router, extract::State, routing::post};
use benches::{Made, percentile, quick, table, write_json};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const SECRET: &str = "whs_c2VjcmV0LW9mLXRoZS1iZW5jaG1hcms";
const SERVERS: [&str; 3] = ["bare", "by hand", "authpi-sdk"];
const BODY: usize = 1024;
const IN_FLIGHT: usize = 48;

#[derive(Serialize)]
struct Figures {
    made: Made,
    in_flight: usize,
    body_bytes: usize,
    deliveries_per_round: usize,
    rounds: usize,
    servers: BTreeMap<&'static str, Server>,
    /// Ours over the hand-written one's deliveries per second (median of the rounds' ratios); aim:
    /// at least 0.92.
    throughput_over_by_hand: f64,
    /// The server's CPU time per delivery, ours less the bare one's, in µs (median of the rounds'
    /// differences); aim: at most 7.
    cpu_us_over_bare: f64,
    /// The same for the time between responses.
    wall_us_over_bare: f64,
}

#[derive(Default, Serialize)]
struct Server {
    /// Medians of the rounds.
    per_second: f64,
    cpu_us: f64,
    wall_us: f64,
    #[serde(skip)]
    rounds: Vec<Round>,
}

/// Microseconds per delivery.
#[derive(Clone, Copy)]
struct Round {
    wall: f64,
    cpu: f64,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "serve") {
        Some(at) => runtime.block_on(serve(&arguments[at + 1])),
        None => runtime.block_on(tokio::task::LocalSet::new().run_until(measure())),
    }
}

// The servers.

async fn serve(which: &str) {
    let app = match which {
        "bare" => Router::new().route("/hooks", post(bare)),
        "by hand" => {
            let mac = Hmac::new_from_slice(SECRET.as_bytes()).expect("any length");
            Router::new()
                .route("/hooks", post(by_hand))
                .with_state(Arc::new(ByHand {
                    mac,
                    seen: Mutex::default(),
                }))
        }
        _ => {
            let handlers =
                Handlers::new(()).on(async |event: Event<UserUpdated>, _: Context<()>| {
                    black_box(event.data()?.username);
                    Ok(())
                });
            let verifier = Verifier::authpi(KeyRing::new().with("bench", SECRET));
            let receiver = Receiver::inline("users", verifier, Memory::new(), handlers)
                .build()
                .expect("a receiver");
            Router::new().route_service("/hooks", receiver)
        }
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    println!("{}", listener.local_addr().expect("an address"));
    // Ends with its parent process.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let no_delay = axum::serve::ListenerExt::tap_io(listener, |stream: &mut TcpStream| {
        stream.set_nodelay(true).expect("TCP_NODELAY");
    });
    axum::serve(no_delay, app).await.expect("it serves");
}

async fn bare(body: Bytes) -> StatusCode {
    black_box(body);
    StatusCode::OK
}

struct ByHand {
    mac: Hmac<Sha256>,
    seen: Mutex<HashMap<String, Instant>>,
}

// What a service would write from AuthPI's guide, and what our receiver also reads: the envelope,
// the event, and the user.

#[derive(Deserialize)]
#[expect(dead_code, reason = "a service would use them")]
struct Delivery {
    id: String,
    source: String,
    #[serde(rename = "type")]
    envelope_type: String,
    time: String,
    data: Happened,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "a service would use them")]
struct Happened {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    trace: Option<String>,
    source: Option<String>,
    subject: HashMap<String, String>,
    data: User,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "a service would use them")]
struct User {
    id: String,
    username: Option<String>,
    issuer_id: Option<String>,
    status: Option<String>,
    metadata: Option<serde_json::Value>,
}

/// A careful implementation: the key is prepared once, the comparison takes constant time, and an
/// id is looked up and marked in one step.
async fn by_hand(State(state): State<Arc<ByHand>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(signature) = headers
        .get("x-webhook-signature")
        .and_then(|value| unhex(value.as_bytes()))
    else {
        return StatusCode::UNAUTHORIZED;
    };
    if state
        .mac
        .clone()
        .chain_update(&body)
        .verify_slice(&signature)
        .is_err()
    {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(Delivery { data: event, .. }) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    if state
        .seen
        .lock()
        .expect("never poisoned")
        .insert(event.id, Instant::now())
        .is_some()
    {
        return StatusCode::OK;
    }
    if event.event_type == "user.updated" {
        black_box(event.data.username);
    }
    StatusCode::OK
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: u8| (digit as char).to_digit(16);
    digits
        .chunks_exact(2)
        .map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8))
        .collect()
}

// The load.

struct Serving {
    process: Child,
    address: SocketAddr,
}

impl Serving {
    fn start(which: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .args(["serve", which])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("its address");
        Self {
            process,
            address: line.trim().parse().expect("an address"),
        }
    }

    /// CPU time of all of its threads, as counted by the kernel, in nanoseconds.
    fn cpu(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id()))
            .expect("a process on Linux");
        let nanos = |task: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        tasks.filter_map(nanos).sum()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn measure() {
    let made = Made::here(&[
        "authpi-sdk",
        "axum",
        "hyper",
        "tokio",
        "hmac",
        "sha2",
        "serde_json",
    ]);
    println!("{made}");
    let (rounds, deliveries) = if quick() { (5, 5_000) } else { (25, 20_000) };
    let serving = SERVERS.map(Serving::start);
    let mut servers = SERVERS.map(|_| Server::default());
    let mut next_id = 0;
    // The first round warms up.
    for round in 0..=rounds {
        let load: Rc<[Vec<u8>]> = (next_id..next_id + deliveries).map(request).collect();
        next_id += deliveries;
        for at in (0..SERVERS.len()).map(|at| (at + round) % SERVERS.len()) {
            let taken = drive(&serving[at], &load).await;
            if round > 0 {
                servers[at].rounds.push(taken);
            }
        }
    }
    for server in &mut servers {
        server.cpu_us = percentile(
            &mut server
                .rounds
                .iter()
                .map(|round| round.cpu)
                .collect::<Vec<_>>(),
            50,
        );
        server.wall_us = percentile(
            &mut server
                .rounds
                .iter()
                .map(|round| round.wall)
                .collect::<Vec<_>>(),
            50,
        );
        server.per_second = 1e6 / server.wall_us;
    }
    let [bare, by_hand, ours] = &servers;
    let median = |other: &Server, figure: fn(Round, Round) -> f64| {
        let rounds = ours.rounds.iter().zip(&other.rounds);
        percentile(
            &mut rounds
                .map(|(ours, theirs)| figure(*ours, *theirs))
                .collect::<Vec<_>>(),
            50,
        )
    };
    let throughput_over_by_hand = median(by_hand, |ours, theirs| theirs.wall / ours.wall);
    let cpu_us_over_bare = median(bare, |ours, theirs| ours.cpu - theirs.cpu);
    let wall_us_over_bare = median(bare, |ours, theirs| ours.wall - theirs.wall);

    let head = [
        "1 KiB deliveries",
        "per second",
        "µs of CPU each",
        "over bare",
        "µs between answers",
        "over bare",
    ];
    let mut cells = vec![head.map(String::from).to_vec()];
    for (name, server) in SERVERS.iter().zip(&servers) {
        cells.push(vec![
            (*name).to_owned(),
            format!("{:.0}", server.per_second),
            format!("{:.2}", server.cpu_us),
            format!("{:+.2}", server.cpu_us - bare.cpu_us),
            format!("{:.2}", server.wall_us),
            format!("{:+.2}", server.wall_us - bare.wall_us),
        ]);
    }
    println!("{}", table(&cells));
    let met = |met| if met { "met" } else { "missed" };
    println!(
        "throughput over the hand-written route's (aim: at least 0.92): {throughput_over_by_hand:.2} ({})",
        met(throughput_over_by_hand >= 0.92)
    );
    println!(
        "µs over the bare route (aim: at most 7): {cpu_us_over_bare:.2} of CPU, {wall_us_over_bare:.2} between answers ({})",
        met(cpu_us_over_bare <= 7.0 && wall_us_over_bare <= 7.0)
    );
    let figures = Figures {
        made,
        in_flight: IN_FLIGHT,
        body_bytes: BODY,
        deliveries_per_round: deliveries,
        rounds,
        servers: SERVERS.into_iter().zip(servers).collect(),
        throughput_over_by_hand,
        cpu_us_over_bare,
        wall_us_over_bare,
    };
    write_json("receiver", &figures);
}

/// Sends the whole load over connections with one delivery in flight each.
async fn drive(server: &Serving, load: &Rc<[Vec<u8>]>) -> Round {
    let next = Rc::new(Cell::new(0));
    let mut connections = Vec::new();
    for _ in 0..IN_FLIGHT {
        let stream = TcpStream::connect(server.address)
            .await
            .expect("it listens");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        connections.push(stream);
    }
    // Keeps this process awake. Otherwise a response may have to wake it, and the server pays for
    // that. In a virtual machine, this can cost more than all of the server's own work. It also
    // happens more often with slower servers, which would distort the comparison.
    let awake = tokio::task::spawn_local(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let (cpu, started) = (server.cpu(), Instant::now());
    let sending: Vec<_> = connections
        .into_iter()
        .map(|stream| tokio::task::spawn_local(send(stream, Rc::clone(load), Rc::clone(&next))))
        .collect();
    for task in sending {
        task.await.expect("every delivery is answered with 200");
    }
    awake.abort();
    let (wall, cpu) = (
        started.elapsed().as_nanos() as f64,
        (server.cpu() - cpu) as f64,
    );
    let each = load.len() as f64 * 1e3;
    Round {
        wall: wall / each,
        cpu: cpu / each,
    }
}

async fn send(mut stream: TcpStream, load: Rc<[Vec<u8>]>, next: Rc<Cell<usize>>) {
    let mut answer = Vec::with_capacity(1024);
    while let Some(request) = load.get(next.replace(next.get() + 1)) {
        stream.write_all(request).await.expect("it reads");
        answer.clear();
        // Responses are small: only the end can be missing.
        while !is_whole(&answer) {
            assert_ne!(
                stream.read_buf(&mut answer).await.expect("it answers"),
                0,
                "the connection was closed"
            );
        }
        let status = answer.get(..15);
        assert_eq!(
            status,
            Some(&b"HTTP/1.1 200 OK"[..]),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let text = std::str::from_utf8(&answer[..head]).expect("ASCII");
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    answer.len() >= head + 4 + length.map_or(0, |length| length.parse::<usize>().expect("a length"))
}

/// A complete, signed request.
fn request(n: usize) -> Vec<u8> {
    let fixture = Fixture::of::<UserUpdated>().id(format!("evt_{n:026}"));
    let data = |filler: &str| {
        json!({
            "id": "usr_0123456789abcdefghijklmno", "username": "ada@example.com", "issuer_id": "i_0123456789abcdef",
            "status": "active", "metadata": { "filler": filler },
        })
    };
    let missing = BODY - fixture.clone().data(data("")).body().len();
    let body = fixture.data(data(&"x".repeat(missing))).body();
    let signed = SignatureScheme::authpi()
        .sign(&SECRET.into(), "", jiff::Timestamp::now(), &body)
        .expect("the secret");
    let signature = signed["x-webhook-signature"].to_str().expect("ASCII");
    let mut request = format!(
        "POST /hooks HTTP/1.1\r\nhost: localhost\r\nuser-agent: bench\r\ncontent-type: application/cloudevents+json\r\n\
         x-webhook-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}
