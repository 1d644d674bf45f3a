//! `authpi emulate --state`.

#[cfg(unix)]
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::support::*;

async fn start(state: &Path, arguments: &[&str]) -> Emulate {
    let state = ["--state", state.to_str().unwrap()];
    Emulate::start(&[&state, arguments].concat()).await
}

/// A webhook for `user.created`, and its secret.
async fn webhook(emulate: &Emulate, url: &str) -> (String, String) {
    let auth = json!({"type": "signature"});
    let spec = json!({"name": "n", "url": url, "events": ["user.created"], "auth": auth});
    let created = emulate.post("/webhooks", spec).await;
    let [id, secret] = [
        &created["data"]["id"],
        &created["data"]["auth"]["signature_secret_plain"],
    ]
    .map(|text| text.as_str().unwrap().to_owned());
    (id, secret)
}

async fn trigger(emulate: &Emulate) -> String {
    let event = record(&mut emulate.trigger(&["user.created", "--subject", "user_id=usr_1"])).await;
    event["id"].as_str().unwrap().to_owned()
}

/// Everything that the API shows.
async fn shown(emulate: &Emulate, webhook: &str) -> [Value; 4] {
    let path = format!("/webhooks/{webhook}");
    let deliveries = format!("{path}/deliveries");
    [
        emulate.get("/webhooks").await,
        emulate.get(&path).await,
        emulate.get(&deliveries).await,
        emulate.get("/events").await,
    ]
}

async fn received(users: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(TEST_TIMEOUT, users.recv())
        .await
        .expect("no delivery came")
        .unwrap()
}

#[cfg(unix)]
#[tokio::test]
async fn the_state_survives_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let way = Way::start().await;
    let url = format!("http://{}/hooks", way.address);
    let first = start(&state, &["--retry-delays", "1h"]).await;
    let (id, secret) = webhook(&first, &url).await;
    let event = trigger(&first).await;
    let path = format!("/webhooks/{id}/deliveries");
    // Its first attempt fails, and the next one is due in an hour.
    let attempted = async {
        while first.get(&path).await["data"][0]["attempt_count"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, attempted).await.expect("no attempt");
    let created = || json!({"name": "once", "url": "http://localhost/"});
    let once = first.post_once("/webhooks", created(), "key-1").await;
    let before = shown(&first, &id).await;
    let output = first.output.clone();
    assert!(first.signalled("TERM").await.0.success());

    let second = start(&state, &["--retry-delays", "1h"]).await;
    for name in ["account_id", "key_id", "key_secret", "access_token"] {
        assert_eq!(second.output[name], output[name], "{name}");
    }
    assert_eq!(shown(&second, &id).await, before);
    assert_eq!(
        second.post_once("/webhooks", created(), "key-1").await,
        once,
        "the call was performed again"
    );
    // The receiver has the secret of the first run.
    let (receiver, mut users) = sdk_receiver(&secret, 0).await;
    way.lead_to(&receiver);
    let delivery = before[2]["data"][0]["id"].as_str().unwrap();
    let redelivered = second
        .post(&format!("{path}/{delivery}/redeliver"), json!({}))
        .await;
    assert_eq!(redelivered["data"]["success"], true, "{redelivered}");
    assert_eq!(received(&mut users).await, "usr_1");
    assert!(event < trigger(&second).await, "a new id is not the last");
    let mode = std::fs::metadata(&state).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[cfg(unix)]
#[tokio::test]
async fn a_pending_delivery_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let way = Way::start().await;
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    way.lead_to(&hanging.local_addr().unwrap().to_string());
    let first = start(&state, &[]).await;
    let (id, secret) = webhook(&first, &format!("http://{}/hooks", way.address)).await;
    let event = trigger(&first).await;
    let (_attempt, _) = timeout(TEST_TIMEOUT, hanging.accept())
        .await
        .expect("no delivery came")
        .unwrap();
    let saved = async {
        while !std::fs::read_to_string(&state).unwrap().contains(&event) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, saved)
        .await
        .expect("nothing is saved");
    first.signalled("KILL").await;

    // As if it had been killed while it wrote.
    std::fs::write(folder.path().join("state.json.tmp"), "{").unwrap();
    let (receiver, mut users) = sdk_receiver(&secret, 0).await;
    way.lead_to(&receiver);
    let second = start(&state, &[]).await;
    assert_eq!(received(&mut users).await, "usr_1");
    second.until_over("user.created").await;
    let [_, _, deliveries, events] = shown(&second, &id).await;
    assert_eq!(deliveries["data"].as_array().unwrap().len(), 1);
    assert_eq!(deliveries["data"][0]["status"], "succeeded");
    assert_eq!(deliveries["data"][0]["event_id"], event);
    assert_eq!(events["data"][0]["id"], event);
    assert!(second.signalled("TERM").await.0.success());
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["state.json", "state.json.lock"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_not_its_own_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let first = start(&state, &["--seed", "1"]).await;
    let (_, secret) = webhook(&first, "http://localhost/").await;
    trigger(&first).await;
    let refused = async |arguments: &[&str], why: &str| {
        let before = std::fs::read(&state).unwrap();
        let mut command = authpi();
        command.args(["emulate", "--state", state.to_str().unwrap()]);
        let done = run(command.args(arguments)).await;
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{output}");
        assert!(output.contains(why), "{output}");
        assert!(output.contains("state.json"), "{output}");
        assert!(!output.contains(&secret), "{output}");
        assert!(std::fs::read(&state).unwrap() == before, "it was changed");
    };
    let mut second = authpi();
    second.args(["emulate", "--state", state.to_str().unwrap()]);
    fails(&mut second, 1, "another emulator uses the state file").await;
    first.signalled("TERM").await;

    refused(&["--seed", "2"], "than the seed 2 gives").await;
    let good = std::fs::read_to_string(&state).unwrap();
    for (content, why) in [
        (&good[..good.len() / 2], "is damaged (line 1, column "),
        (
            &*good.replace(r#""signature""#, r#""magic""#),
            "is damaged (line 1, column ",
        ),
        (
            &*good.replace(r#""event_id":"#, r#""event_id":"x"#),
            "is damaged (",
        ),
        (
            &*good.replace(r#""version":1"#, r#""version":2"#),
            "has format version 2, and this emulator reads version 1",
        ),
        (
            &*good.replace("authpi-emulator-state", "another-state"),
            "is not a state file of the emulator",
        ),
        (r#"{"name": "package.json"}"#, "is not a state file"),
        ("", "is not a state file"),
    ] {
        assert_ne!(content, good);
        std::fs::write(&state, content).unwrap();
        refused(&[], why).await;
    }
    std::fs::write(&state, good).unwrap();
    let third = start(&state, &["--seed", "1"]).await;
    assert_eq!(third.get("/webhooks").await["data"][0]["name"], "n");
}

#[cfg(unix)]
#[tokio::test]
async fn a_state_that_cannot_be_saved_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let state = missing.join("state.json");
    let mut command = authpi();
    command.args(["emulate", "--state", state.to_str().unwrap()]);
    fails(&mut command, 1, "state.json.lock").await;
    std::fs::create_dir(&missing).unwrap();
    let arguments = ["--state", state.to_str().unwrap()];
    let mut emulate = Emulate::start_with(&arguments, Stdio::piped()).await;
    std::fs::remove_dir_all(&missing).unwrap();
    let mut err = emulate.child.stderr.take().unwrap();
    let (status, _) = emulate.signalled("TERM").await;
    let mut output = String::new();
    err.read_to_string(&mut output).await.unwrap();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("cannot save the state"), "{output}");
}
