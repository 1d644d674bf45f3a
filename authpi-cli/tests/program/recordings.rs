//! `authpi record` and `authpi replay`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use authpi_sdk::testing::{Fixture, Recording};

use super::support::*;

/// A running `authpi record`.
struct Proxy {
    _child: Child,
    url: String,
}

impl Proxy {
    async fn start(to: &str, folder: &Path) -> Self {
        let mut command = authpi();
        command
            .args(["record", "--forward-to", to, "--dir"])
            .arg(folder)
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        timeout(TEST_TIMEOUT, out.read_line(&mut line))
            .await
            .expect("the program printed no address")
            .unwrap();
        Self {
            _child: child,
            url: line.trim().to_owned(),
        }
    }
}

fn recordings(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_delivery_is_recorded_verifies_and_is_replayed() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    // The secret is known only after the webhook is made, so the receiver comes last.
    let way = Way::start().await;
    let to = format!("http://{}", way.address);
    let proxy = Proxy::start(&to, &folder.path().join("recorded")).await;
    let url = format!("{}/hooks?token=sesame", proxy.url);
    let create = [
        "webhooks",
        "create",
        "users",
        &url,
        "--events",
        "user.created",
        "--auth",
        "bearer+signature",
    ];
    let made = record(&mut emulate.command(&create)).await;
    let (secret, token) = (
        made["secret"].as_str().unwrap(),
        made["bearer_token"].as_str().unwrap(),
    );
    let (receiver, mut users) = sdk_receiver(secret, 0).await;
    way.lead_to(&receiver);

    record(&mut emulate.trigger(&["user.created", "--subject", "user_id=usr_1"])).await;
    assert_eq!(users.recv().await.unwrap(), "usr_1");
    emulate.until_over("user.created").await;
    let files = recordings(&folder.path().join("recorded"));
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files[0].to_str().unwrap();
    let text_of_file = fs::read_to_string(file).unwrap();
    assert!(!text_of_file.contains(token), "it holds the token");
    assert!(text_of_file.contains("REDACTED"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let permissions = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (
                permissions(&files[0]),
                permissions(files[0].parent().unwrap())
            ),
            (0o600, 0o700)
        );
    }
    let recording = Recording::read(file).unwrap();
    assert_eq!(
        recording.answer.as_ref().map(|answer| answer.status),
        Some(200)
    );
    assert_eq!(recording.path, "/hooks?token=REDACTED");
    assert_eq!(
        Fixture::from_file(file)
            .unwrap()
            .verified()
            .subject()
            .user_id(),
        Some("usr_1")
    );
    let mut verify = authpi();
    verify
        .args(["verify", file])
        .env("AUTHPI_WEBHOOK_SECRET", secret);
    assert_eq!(record(&mut verify).await["authentic"], true);

    // Another receiver has another secret, and accepts the same delivery after it was signed with that secret.
    let (other, mut users) = sdk_receiver("whs_other", 0).await;
    let replay = |arguments: &[&str]| {
        let mut command = authpi();
        command
            .args(["replay", file, "--to", &other])
            .args(arguments)
            .env("AUTHPI_WEBHOOK_SECRET", "whs_other");
        command
    };
    let replayed = record(&mut replay(&[])).await;
    assert_eq!(
        (&replayed["status"], &replayed["type"]),
        (&json!(200), &json!("user.created"))
    );
    assert_eq!(users.recv().await.unwrap(), "usr_1");
    let done = run(&mut replay(&["--as-recorded"])).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stdout).contains("401"), "{}", text(&done.stdout));
    assert!(text(&done.stderr).contains("1 of 1 deliveries were not accepted"));

    // Nothing is sent if a file is not a recording.
    let wrong = folder.path().join("wrong.json");
    fs::write(&wrong, "{}").unwrap();
    let mut replay = replay(&[]);
    replay.arg(&wrong);
    fails(&mut replay, 2, "wrong.json").await;
}

#[tokio::test]
async fn the_proxy_answers_for_a_receiver_that_is_gone_and_refuses_large_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = folder.path().join("recorded");
    let way = Way::start().await;
    let proxy = Proxy::start(&format!("http://{}/hooks", way.address), &recorded).await;
    let post = |body: Vec<u8>| {
        http()
            .post(format!("{}/elsewhere", proxy.url))
            .body(body)
            .send()
    };
    assert_eq!(post(b"one".to_vec()).await.unwrap().status(), 502);
    assert_eq!(post(vec![0; 3 << 20]).await.unwrap().status(), 413);
    way.lead_to(&Receiver::start().await.url);
    let delivery = json!({"data": {"type": "user.created"}}).to_string();
    assert_eq!(
        post(delivery.clone().into_bytes()).await.unwrap().status(),
        200
    );

    let answers: Vec<_> = recordings(&recorded)
        .iter()
        .map(|file| Recording::read(file).unwrap())
        .map(|recording| (recording.body, recording.answer.map(|answer| answer.status)))
        .collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers.contains(&("one".into(), None)), "{answers:?}");
    assert!(
        answers.contains(&(delivery.into(), Some(200))),
        "{answers:?}"
    );

    // Without the folder, deliveries still pass.
    fs::remove_dir_all(&recorded).unwrap();
    let delivery = json!({"data": {"type": "user.updated"}}).to_string();
    assert_eq!(post(delivery.into_bytes()).await.unwrap().status(), 200);
}
