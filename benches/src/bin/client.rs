//! The cost of a call: our client, bare reqwest with hand-written structs, and AuthPI's own Python
//! SDK, against one emulator process, one call at a time and 64 concurrently.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use authpi_sdk::{Client, client::WebhookSpec, event::EventType, signature::Secret};
use benches::{
    Made, percentile, quick,
    rate::{Each, run},
    table, write_json,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

const IN_FLIGHT: [usize; 2] = [1, 64];

#[derive(Serialize)]
struct Figures {
    made: Made,
    python: String,
    calls: Vec<Calls>,
}

#[derive(Serialize)]
struct Calls {
    operation: &'static str,
    in_flight: usize,
    ours: Pace,
    bare_reqwest: Pace,
    python_sdk: Pace,
    /// The time of a call over bare reqwest's; median of the rounds' ratios. Aim: at most 1.05.
    time_over_bare: f64,
    /// Calls per second over the Python SDK's. Aim: at least 5 one at a time, 10 with 64 in flight.
    rate_over_python: f64,
}

/// The median of the rounds.
#[derive(Clone, Copy, Serialize)]
struct Pace {
    per_second: f64,
    /// The average duration of a call.
    us_each: f64,
}

impl Pace {
    fn new(per_second: f64, in_flight: usize) -> Self {
        Self {
            per_second,
            us_each: in_flight as f64 * 1e6 / per_second,
        }
    }

    fn shown(self) -> [String; 2] {
        [
            format!("{:.0}", self.per_second),
            format!("{:.0}", self.us_each),
        ]
    }
}

/// What `authpi emulate --json` prints.
#[derive(Deserialize)]
struct Service {
    base_url: String,
    account_id: String,
    key_id: String,
    key_secret: String,
}

#[tokio::main]
async fn main() {
    let made = Made::here(&["authpi-sdk", "reqwest", "hyper", "tokio", "serde_json"]);
    println!("{made}");
    let (_emulator, line) = emulator().await;
    let service: Service = serde_json::from_str(&line).expect("what it prints");
    let authpi = Client::builder().api_key(&service.key_id, Secret::new(&*service.key_secret));
    let authpi = authpi
        .account(&service.account_id)
        .base_url(&service.base_url)
        .build()
        .expect("a client");
    let webhook = authpi
        .webhooks()
        .create(&spec())
        .await
        .expect("the emulator answers")
        .webhook;

    let mut calls = Vec::new();
    for (operation, ours, bare) in [
        (
            "get",
            get(&authpi, &webhook.id),
            bare_get(&service, &webhook.id),
        ),
        ("create", create(&authpi), bare_create(&service)),
    ] {
        for in_flight in IN_FLIGHT {
            calls.push(compare(operation, in_flight, &ours, &bare, &line, &webhook.id).await);
        }
    }
    println!("{}", shown(&calls));
    let python = python(&["--version"]).await;
    write_json(
        "client",
        &Figures {
            made,
            python: python.trim().to_owned(),
            calls,
        },
    );
}

async fn compare(
    operation: &'static str,
    in_flight: usize,
    ours: &Each,
    bare: &Each,
    service: &str,
    webhook: &str,
) -> Calls {
    let (rounds, round) = if quick() {
        (3, Duration::from_millis(300))
    } else {
        (9, Duration::from_secs(1))
    };
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    // The first round warms up.
    for n in 0..=rounds {
        let mut taken = [0.0; 2];
        for at in [n % 2, (n + 1) % 2] {
            taken[at] = run([ours, bare][at], 0, in_flight, round).await.1;
        }
        if n > 0 {
            samples[0].push(taken[0]);
            samples[1].push(taken[1]);
            samples[2].push(taken[1] / taken[0]);
        }
    }
    let (seconds, at_once) = ((round * 3).as_secs_f64().to_string(), in_flight.to_string());
    let asked = [
        "--service",
        service,
        "--webhook",
        webhook,
        "--seconds",
        &seconds,
        operation,
        &at_once,
    ];
    let python_sdk = Pace::new(
        python(&asked)
            .await
            .trim()
            .parse()
            .expect("calls per second"),
        in_flight,
    );
    let [ours, bare_reqwest] =
        [0, 1].map(|at| Pace::new(percentile(&mut samples[at], 50), in_flight));
    Calls {
        operation,
        in_flight,
        ours,
        bare_reqwest,
        python_sdk,
        time_over_bare: percentile(&mut samples[2], 50),
        rate_over_python: ours.per_second / python_sdk.per_second,
    }
}

fn shown(calls: &[Calls]) -> String {
    let head = [
        "",
        "in flight",
        "per second",
        "µs each",
        "bare reqwest",
        "µs each",
        "time over it",
        "Python SDK",
        "µs each",
        "rate over it",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for one in calls {
        let aim = if one.in_flight == 1 { 5.0 } else { 10.0 };
        let met = |met| if met { "met" } else { "missed" };
        let mut row = vec![one.operation.to_owned(), one.in_flight.to_string()];
        row.extend(one.ours.shown());
        row.extend(one.bare_reqwest.shown());
        row.push(format!(
            "{:.3} ({})",
            one.time_over_bare,
            met(one.time_over_bare <= 1.05)
        ));
        row.extend(one.python_sdk.shown());
        row.push(format!(
            "{:.1} ({})",
            one.rate_over_python,
            met(one.rate_over_python >= aim)
        ));
        rows.push(row);
    }
    table(&rows)
}

// Ours.

fn spec() -> WebhookSpec {
    WebhookSpec::new("users", "https://example.com/hooks").events([EventType::UserCreated])
}

fn get(authpi: &Client, webhook: &str) -> Each {
    let (authpi, webhook) = (authpi.clone(), webhook.to_owned());
    Each::new("get", move |_| {
        let (authpi, webhook) = (authpi.clone(), webhook.clone());
        async move {
            assert_eq!(
                authpi
                    .webhooks()
                    .get(&*webhook)
                    .await
                    .expect("it is there")
                    .value
                    .id,
                webhook
            );
        }
    })
}

fn create(authpi: &Client) -> Each {
    let authpi = authpi.clone();
    Each::new("create", move |_| {
        let authpi = authpi.clone();
        async move {
            assert!(
                authpi
                    .webhooks()
                    .create(&spec())
                    .await
                    .expect("it is made")
                    .secret
                    .is_some()
            );
        }
    })
}

// By hand.

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "a service would use them")]
struct Webhook {
    id: String,
    name: String,
    url: String,
    status: String,
    events: Option<Vec<String>>,
    auth: serde_json::Value,
    created_at: i64,
    updated_at: Option<i64>,
}

#[derive(Serialize)]
struct Wanted<'a> {
    name: &'a str,
    url: &'a str,
    events: [&'a str; 1],
    auth: Auth<'a>,
}

#[derive(Serialize)]
struct Auth<'a> {
    r#type: &'a str,
}

/// A default client, and the address of the account's webhooks.
fn bare(service: &Service) -> (reqwest::Client, String, String, String) {
    let address = format!(
        "{}/v1/accounts/{}/webhooks",
        service.base_url, service.account_id
    );
    (
        reqwest::Client::new(),
        address,
        service.key_id.clone(),
        service.key_secret.clone(),
    )
}

fn bare_get(service: &Service, webhook: &str) -> Each {
    let (http, address, user, password) = bare(service);
    let (address, webhook) = (format!("{address}/{webhook}"), webhook.to_owned());
    Each::new("bare get", move |_| {
        let request = http.get(&address).basic_auth(&user, Some(&password));
        let webhook = webhook.clone();
        async move {
            let answer = request
                .send()
                .await
                .and_then(reqwest::Response::error_for_status)
                .expect("it answers");
            assert_eq!(
                answer
                    .json::<Answer<Webhook>>()
                    .await
                    .expect("a webhook")
                    .data
                    .id,
                webhook
            );
        }
    })
}

fn bare_create(service: &Service) -> Each {
    let (http, address, user, password) = bare(service);
    Each::new("bare create", move |n| {
        let wanted = Wanted {
            name: "users",
            url: "https://example.com/hooks",
            events: ["user.created"],
            auth: Auth {
                r#type: "signature",
            },
        };
        let key = format!("bare-{n}-{:?}", Instant::now());
        let request = http
            .post(&address)
            .basic_auth(&user, Some(&password))
            .json(&wanted);
        let request = request.header(
            "idempotency-key",
            key.replace([' ', '{', '}', ':', ','], ""),
        );
        async move {
            let answer = request
                .send()
                .await
                .and_then(reqwest::Response::error_for_status)
                .expect("it answers");
            assert!(
                answer
                    .json::<Answer<Webhook>>()
                    .await
                    .expect("a webhook")
                    .data
                    .auth
                    .is_object()
            );
        }
    })
}

// The other processes.

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The emulator, built in release mode, and the line of JSON that it prints.
async fn emulator() -> (Child, String) {
    let mut build = Command::new("cargo");
    build
        .args(["build", "--quiet", "--release", "-p", "authpi-cli"])
        .current_dir(root());
    assert!(
        build.status().await.expect("cargo runs").success(),
        "the emulator cannot be built"
    );
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let mut emulator = Command::new(target.join("release/authpi"))
        .args(["emulate", "--json"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the emulator runs");
    let mut line = String::new();
    let mut out = BufReader::new(emulator.stdout.take().expect("piped"));
    out.read_line(&mut line)
        .await
        .expect("it tells its address");
    (emulator, line)
}

/// `tests/interop/calls.py`, in the environment of AuthPI's SDK.
async fn python(arguments: &[&str]) -> String {
    let output = Command::new("python3")
        .args(["tests/interop/run.py", "calls.py"])
        .args(arguments)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .await
        .expect("Python 3.11 runs");
    assert!(
        output.status.success(),
        "AuthPI's Python SDK cannot be measured"
    );
    String::from_utf8(output.stdout).expect("text")
}
