//! `authpi trigger`.

use super::support::*;

#[tokio::test]
async fn trigger_makes_an_event_happen_with_what_it_is_given() {
    let emulate = Emulate::start(&["--retry-delays", ""]).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.json");
    std::fs::write(&data, r#"{"id": "usr_1"}"#).unwrap();
    let secret = folder.path().join("secret.txt");
    std::fs::write(&secret, format!("{}\n", emulate.output("key_secret"))).unwrap();
    let arguments = [
        "user.created",
        "--subject",
        "user_id=usr_1",
        "--subject=issuer_id=i_1",
        "--data",
        data.to_str().unwrap(),
        "--copies",
        "2",
    ];
    let done = run(&mut emulate.trigger(&arguments)).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    let event: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&event["type"], &event["data"]),
        (&json!("user.created"), &json!({"id": "usr_1"}))
    );
    assert_eq!(
        event["subject"],
        json!({"user_id": "usr_1", "issuer_id": "i_1"})
    );

    // The connection is given by options. Data and subject are omitted, so example values are used.
    let mut by_options = authpi();
    by_options.args([
        "trigger",
        "organization.created",
        "--base-url",
        emulate.output("base_url"),
    ]);
    by_options.args([
        "--key-id",
        emulate.output("key_id"),
        "--key-secret-file",
        secret.to_str().unwrap(),
    ]);
    let done = run(&mut by_options).await;
    let event: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(
        event["data"]["id"].is_string() && event["data"]["id"] == event["subject"]["org_id"],
        "{event}"
    );
}

#[tokio::test]
async fn trigger_fails_with_a_reason_and_without_the_secret() {
    let emulate = Emulate::start(&[]).await;
    let secret = emulate.output("key_secret");
    let folder = tempfile::tempdir().unwrap();
    let array = folder.path().join("array.json");
    std::fs::write(&array, "[]").unwrap();
    let mut wrong_account = emulate.trigger(&["user.created"]);
    wrong_account.env("AUTHPI_ACCOUNT_ID", "acc_other");
    let mut wrong_secret = emulate.trigger(&["user.created"]);
    wrong_secret.env("AUTHPI_KEY_SECRET", format!("{secret}x"));
    let mut nobody_there = emulate.trigger(&["user.created"]);
    nobody_there.env("AUTHPI_BASE_URL", "http://127.0.0.1:1");
    let mut authpi_itself = emulate.trigger(&["user.created"]);
    authpi_itself.env("AUTHPI_BASE_URL", "https://api.authpi.com");
    for (mut command, status, reason) in [
        (
            emulate.trigger(&["user.invented"]),
            1,
            "is not in the catalogue of event types",
        ),
        (
            emulate.trigger(&["user.create"]),
            1,
            "did you mean user.created",
        ),
        (
            emulate.trigger(&["user.teleported"]),
            1,
            "--allow-unknown-type",
        ),
        (
            emulate.trigger(&["User Created", "--allow-unknown-type"]),
            1,
            "must be words of",
        ),
        (
            emulate.trigger(&["user.created", "--subject", "a=1", "--subject", "a=2"]),
            2,
            "names a twice",
        ),
        (wrong_account, 1, "do not reach this account"),
        (wrong_secret, 1, "credentials are not valid"),
        (nobody_there, 1, "cannot be reached"),
        (authpi_itself, 1, "is not an emulator"),
        (
            emulate.trigger(&["user.created", "--data", array.to_str().unwrap()]),
            2,
            "is not a JSON object",
        ),
        (
            emulate.trigger(&["user.created", "--subject", "usr_1"]),
            2,
            "must be of the form user_id=usr_1",
        ),
        (emulate.trigger(&[]), 2, "EVENT_TYPE"),
    ] {
        let done = run(&mut command).await;
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{output}");
        assert!(
            output.contains(reason) && !output.contains(secret),
            "{output}"
        );
        assert_eq!(text(&done.stdout), "");
    }
}

#[tokio::test]
async fn trigger_says_what_is_missing_to_reach_the_emulator() {
    let given = ["AUTHPI_BASE_URL", "AUTHPI_KEY_ID", "AUTHPI_KEY_SECRET"];
    for missing in given {
        // An empty environment variable counts as not set.
        for empty in [false, true] {
            let mut command = authpi();
            command.args(["trigger", "user.created"]);
            for name in given {
                command.env(name, "http://127.0.0.1:1");
            }
            if empty {
                command.env(missing, "");
            } else {
                command.env_remove(missing);
            }
            let done = run(&mut command).await;
            let output = text(&done.stderr);
            assert_eq!(done.status.code(), Some(2), "{output}");
            assert!(
                output.contains(&format!("set {missing}")) && output.contains("authpi emulate"),
                "{output}"
            );
        }
    }
}

#[tokio::test]
async fn trigger_takes_its_arguments_in_the_order_of_its_usage_line() {
    let emulate = Emulate::start(&[]).await;
    let help = run(authpi().args(["trigger", "--help"])).await;
    let usage = text(&help.stdout)
        .lines()
        .find(|line| line.starts_with("Usage:"))
        .unwrap()
        .to_owned();
    assert!(
        usage.contains("[OPTIONS]") && usage.ends_with("[EVENT_TYPE]"),
        "{usage}"
    );
    for arguments in [
        &["--subject", "user_id=u1", "user.created"][..],
        &[
            "--subject",
            "user_id=u1",
            "--subject",
            "issuer_id=i1",
            "--copies",
            "2",
            "user.created",
        ],
        &["user.created", "--subject", "user_id=u1"],
    ] {
        let done = run(&mut emulate.trigger(arguments)).await;
        assert!(
            done.status.success(),
            "{arguments:?}: {}",
            text(&done.stderr)
        );
        let event: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(
            (&event["type"], &event["subject"]["user_id"]),
            (&json!("user.created"), &json!("u1"))
        );
    }
}

#[tokio::test]
async fn trigger_reports_events_without_webhooks_and_allows_unknown_types() {
    let emulate = Emulate::start(&["--retry-delays", ""]).await;
    let receiver = Receiver::start().await;
    let said_nothing = |done: &Output| text(&done.stderr).is_empty();
    for arguments in [
        &["user.created"][..],
        &["user.teleported", "--allow-unknown-type"],
    ] {
        let done = run(&mut emulate.trigger(arguments)).await;
        assert!(done.status.success(), "{}", text(&done.stderr));
        let output = text(&done.stderr);
        assert!(
            output.contains("not delivered") && output.contains(arguments[0]),
            "{output}"
        );
        let event: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(event["type"], arguments[0]);
    }
    emulate
        .post(
            "/webhooks",
            json!({"name": "n", "url": receiver.url, "events": ["user.deleted"]}),
        )
        .await;
    // A type is reported once, however many of its events are created.
    let done = run(&mut emulate.trigger(&["user.created", "--count", "3"])).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(text(&done.stderr).matches("not delivered").count(), 1);
    assert_eq!(text(&done.stdout).lines().count(), 3);
    emulate
        .post("/webhooks", json!({"name": "all", "url": receiver.url}))
        .await;
    for arguments in [
        &["user.created"][..],
        &["user.teleported", "--allow-unknown-type"],
    ] {
        let done = run(&mut emulate.trigger(arguments)).await;
        assert!(
            done.status.success() && said_nothing(&done),
            "{}",
            text(&done.stderr)
        );
        // Creating the second webhook caused no event for the first.
        assert_eq!(receiver.next_event_type().await, arguments[0]);
    }
}

#[tokio::test]
async fn trigger_repeats_and_reads_events_from_a_file() {
    let emulate = Emulate::start(&[]).await;
    let made =
        records(&mut emulate.trigger(&["user.created", "--count", "3", "--every", "1ms"])).await;
    assert_eq!(made.len(), 3);
    assert_ne!(made[0]["id"], made[1]["id"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    std::fs::write(
        &file,
        "{\"type\": \"user.updated\", \"id\": \"evt_old\", \"data\": {\"id\": \"usr_9\"}}\n\n{\"type\": \"user.deleted\"}\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let made = records(&mut emulate.trigger(&["--from", file])).await;
    let types: Vec<_> = made.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["user.updated", "user.deleted"]);
    assert_eq!(made[0]["data"], json!({"id": "usr_9"}));
    assert_ne!(made[0]["id"], "evt_old");
    std::fs::write(file, "{\"type\": 1}\n").unwrap();
    fails(&mut emulate.trigger(&["--from", file]), 2, "line 1").await;
}
