//! `authpi listen`.

use std::{fs, path::Path};

use authpi_sdk::testing::Fixture;
use tokio::process::ChildStderr;

use super::support::*;

fn with_config(mut command: Command, config: &Path) -> Command {
    command.env("AUTHPI_CONFIG", config);
    command
}

async fn own_secret(config: &Path) -> String {
    let mut print = authpi();
    print.args(["listen", "--print-secret"]);
    let done = run(&mut with_config(print, config)).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    text(&done.stdout).trim().to_owned()
}

#[tokio::test]
async fn listen_delivers_signed_events_with_retries_and_records_them() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("authpi").join("config.toml");
    let secret = own_secret(&config).await;
    assert!(secret.starts_with("whs_") && secret.len() > 40, "{secret}");
    assert_eq!(own_secret(&config).await, secret, "it differs each time");

    // What happened before is delivered too, with `--since`.
    record(&mut emulate.trigger(&["user.created", "--subject", "user_id=usr_before"])).await;
    let (url, mut users) = sdk_receiver(&secret, 1).await;
    let recordings = folder.path().join("recordings");
    let listen = [
        "listen",
        "--forward-to",
        &url,
        "--since",
        "1h",
        "--events",
        "user.created",
        "--retry-delays",
        "1ms,1ms",
        "--record",
        recordings.to_str().unwrap(),
    ];
    let mut command = with_config(emulate.command(&listen), &config);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line = timeout(TEST_TIMEOUT, lines.next_line())
            .await
            .expect("no line");
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    };
    let (first, second) = (next().await, next().await);
    assert_eq!(
        (&first["attempt"], &first["status"]),
        (&json!(1), &json!(503))
    );
    assert_eq!(
        (&second["attempt"], &second["status"]),
        (&json!(2), &json!(200))
    );
    assert_eq!(first["event_id"], second["event_id"]);
    assert_eq!(users.recv().await.unwrap(), "usr_before");

    record(&mut emulate.trigger(&["user.deleted"])).await;
    record(&mut emulate.trigger(&["user.created", "--subject", "user_id=usr_after"])).await;
    assert_eq!(next().await["status"], 200);
    assert_eq!(users.recv().await.unwrap(), "usr_after");

    // A recording is written after its line.
    let written = async {
        while fs::read_dir(&recordings).unwrap().count() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, written)
        .await
        .expect("a recording is missing");
    child.kill().await.unwrap();
    let mut users = Vec::new();
    for file in fs::read_dir(&recordings).unwrap() {
        let file = file.unwrap().path();
        // The last one may be half written when the program is killed.
        let Ok(fixture) = Fixture::from_file(&file) else {
            continue;
        };
        users.push(fixture.verified().subject().user_id().unwrap().to_owned());
        let mut verify = authpi();
        verify
            .args(["verify", file.to_str().unwrap()])
            .env("AUTHPI_WEBHOOK_SECRET", &secret);
        assert_eq!(record(&mut verify).await["authentic"], true);
    }
    assert!(users.contains(&"usr_before".to_owned()), "{users:?}");
}

/// The page's address, from the line that announces it.
async fn inspector(lines: &mut tokio::io::Lines<BufReader<ChildStderr>>) -> String {
    let line = timeout(TEST_TIMEOUT, lines.next_line())
        .await
        .expect("no line");
    let line = line.unwrap().unwrap();
    let (_, url) = line.split_once("the inspector is at ").expect(&line);
    url.trim_end_matches('/').to_owned()
}

#[tokio::test]
async fn listen_shows_its_attempts_on_a_page_that_resends() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let secret = own_secret(&config).await;
    let (url, mut users) = sdk_receiver(&secret, 1).await;
    let listen = [
        "listen",
        "--forward-to",
        &url,
        "--since",
        "1h",
        "--events",
        "user.created",
        "--retry-delays",
        "",
    ];
    let mut command = with_config(emulate.command(&listen), &config);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let page = inspector(&mut lines).await;
    let http = http();
    let html = async |path: &str| {
        let response = http.get(format!("{page}{path}")).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    };
    let until = async |path: &str, text: &str| {
        let shown = async {
            loop {
                let html = html(path).await;
                if html.contains(text) {
                    return html;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, shown).await.expect("it is not shown")
    };
    assert!(html("/").await.contains("No deliveries yet"));
    record(&mut emulate.trigger(&["user.created", "--subject", "user_id=usr_1"])).await;
    let list = until("/deliveries", "badge failed").await;
    assert!(list.contains("the receiver answered 503"), "{list}");
    let shown = html("/deliveries/1").await;
    for text in ["id=\"attempt-1\"", "usr_1", "x-webhook-signature", "curl"] {
        assert!(shown.contains(text), "{text} is missing: {shown}");
    }
    assert!(!shown.contains(&secret), "the secret is shown");

    let resend = http.post(format!("{page}/deliveries/1/resend"));
    let foreign = resend.try_clone().unwrap().header("origin", "http://x");
    assert_eq!(foreign.send().await.unwrap().status(), 403);
    let sent = resend.header("origin", &page).send().await.unwrap();
    assert!(sent.status().is_success(), "{}", sent.status());
    assert_eq!(users.recv().await.unwrap(), "usr_1");
    let shown = until("/deliveries/1", "badge succeeded").await;
    assert!(shown.contains("resent"), "{shown}");
    let fixture = html("/deliveries/1/fixture").await;
    let file = folder.path().join("fixture.json");
    fs::write(&file, fixture).unwrap();
    let mut verify = authpi();
    verify
        .args(["verify", file.to_str().unwrap()])
        .env("AUTHPI_WEBHOOK_SECRET", &secret);
    assert_eq!(record(&mut verify).await["authentic"], true);
    for absent in ["/webhooks", "/events", "/faults", "/deliveries/2"] {
        let response = http.get(format!("{page}{absent}")).send().await.unwrap();
        assert_eq!(response.status(), 404, "{absent}");
    }
}

#[tokio::test]
async fn listen_says_when_authpi_is_gone_and_continues_when_it_is_back() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let secret = own_secret(&config).await;
    let (url, mut users) = sdk_receiver(&secret, 0).await;
    // A way to AuthPI that can be cut.
    let way = Way::start().await;
    way.lead_to(emulate.address());
    let base_url = format!("http://{}", way.address);
    let listen = [
        "listen",
        "--forward-to",
        &url,
        "--since",
        "1h",
        "--events",
        "user.created",
        "--base-url",
        &base_url,
    ];
    let mut command = with_config(emulate.command(&listen), &config);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut until = async |what: &str| loop {
        let line = timeout(Duration::from_mins(2), lines.next_line())
            .await
            .expect("no line");
        let line = line.unwrap().expect("the program ended");
        if line.contains(what) {
            break;
        }
    };
    record(&mut emulate.trigger(&["user.created", "--subject", "user_id=usr_1"])).await;
    assert_eq!(users.recv().await.unwrap(), "usr_1");
    way.cut();
    until("trying again").await;
    record(&mut emulate.trigger(&["user.created", "--subject", "user_id=usr_2"])).await;
    way.lead_to(emulate.address());
    until("no event was skipped").await;
    assert_eq!(users.recv().await.unwrap(), "usr_2");
}

#[tokio::test]
async fn listen_refuses_what_it_cannot_do() {
    for (arguments, why) in [
        (&["listen"][..], "--forward-to"),
        (
            &["listen", "--forward-to", "localhost:8080"],
            "not an http or https URL",
        ),
        (
            &[
                "listen",
                "--forward-to",
                "http://127.0.0.1:1",
                "--retry-delays",
                "5",
            ],
            "is not a duration",
        ),
        (
            &[
                "listen",
                "--forward-to",
                "http://127.0.0.1:1",
                "--inspector",
                "0.0.0.0:0",
            ],
            "must be a loopback address",
        ),
    ] {
        let mut command = authpi();
        command
            .args(arguments)
            .env("AUTHPI_KEY_ID", "k")
            .env("AUTHPI_KEY_SECRET", "s");
        fails(&mut command, 2, why).await;
    }
}
