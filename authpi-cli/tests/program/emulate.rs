//! `authpi emulate`.

use super::support::*;

#[tokio::test]
async fn the_first_line_of_json_is_all_that_a_client_needs() {
    let emulate = Emulate::start(&[]).await;
    let names: Vec<_> = emulate
        .output
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        names,
        [
            "access_token",
            "account_id",
            "base_url",
            "inspector_url",
            "key_id",
            "key_secret"
        ]
    );
    let me = http().get(format!("{}/v1/me", emulate.output("base_url")));
    let basic = me
        .try_clone()
        .unwrap()
        .basic_auth(emulate.output("key_id"), Some(emulate.output("key_secret")));
    for request in [basic, me.bearer_auth(emulate.output("access_token"))] {
        let me: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(
            me["data"]["accounts"][0]["account_id"],
            emulate.output("account_id")
        );
    }
}

#[tokio::test]
async fn without_json_it_prints_lines_for_a_shell() {
    let mut command = authpi();
    let mut child = command
        .args(["emulate", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names = Vec::new();
    while names.len() < 4 {
        let line = timeout(TEST_TIMEOUT, lines.next_line())
            .await
            .expect("the program printed too little")
            .unwrap()
            .unwrap();
        if let Some((name, value)) = line
            .strip_prefix("export ")
            .and_then(|line| line.split_once('='))
        {
            assert!(
                value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_:/.".contains(&byte)),
                "{line} needs quotes"
            );
            names.push(name.to_owned());
        }
    }
    assert_eq!(
        names,
        [
            "AUTHPI_BASE_URL",
            "AUTHPI_ACCOUNT_ID",
            "AUTHPI_KEY_ID",
            "AUTHPI_KEY_SECRET"
        ]
    );
}

#[cfg(unix)]
#[tokio::test]
async fn it_ends_soon_after_a_signal_despite_open_connections() {
    for signal in ["INT", "TERM"] {
        let emulate = Emulate::start(&[]).await;
        let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", receiver.local_addr().unwrap());
        emulate
            .post(
                "/webhooks",
                json!({"name": "n", "url": url, "events": ["user.created"]}),
            )
            .await;
        assert!(
            run(&mut emulate.trigger(&["user.created"]))
                .await
                .status
                .success()
        );
        let (_hanging, _) = timeout(TEST_TIMEOUT, receiver.accept())
            .await
            .expect("no delivery came")
            .unwrap();
        let _idle = TcpStream::connect(emulate.address()).await.unwrap();
        let mut half = TcpStream::connect(emulate.address()).await.unwrap();
        half.write_all(b"POST /v1/me HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345")
            .await
            .unwrap();
        let (status, rest) = emulate.signalled(signal).await;
        assert!(status.success(), "{signal}: {status}");
        assert_eq!(rest, "", "it printed more than its first line");
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (arguments, status, reason) in [
        (
            ["--allow-host", "http://app:8080"],
            1,
            "without scheme, port and path",
        ),
        (
            ["--max-pending", "0"],
            2,
            "must be a whole number from 1 on",
        ),
        (["--retry-delays", "5"], 2, "is not a duration"),
        (
            ["--signature-scheme", "md5"],
            2,
            "must be authpi, timestamped or standard-webhooks",
        ),
        (["--listen", "everywhere"], 2, "--listen"),
        (["--listen", &taken], 1, "cannot listen on"),
    ] {
        let done = run(authpi().arg("emulate").args(arguments)).await;
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{output}");
        assert!(output.contains(reason), "{output}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn emulate_prints_a_line_per_delivery_unless_it_is_quiet() {
    for quiet in [false, true] {
        let mut arguments = vec!["--retry-delays", ""];
        arguments.extend(quiet.then_some("--quiet"));
        let mut emulate = Emulate::start_with(&arguments, Stdio::piped()).await;
        let receiver = Receiver::start().await;
        let url = format!("{}?token=secret", receiver.url);
        emulate
            .post(
                "/webhooks",
                json!({"name": "n", "url": url, "events": ["user.created"]}),
            )
            .await;
        let elsewhere = "http://app.example:8080/hooks?token=secret";
        emulate
            .post(
                "/webhooks",
                json!({"name": "m", "url": elsewhere, "events": ["user.updated"]}),
            )
            .await;
        let mut err = BufReader::new(emulate.child.stderr.take().unwrap());
        let mut output = String::new();
        timeout(TEST_TIMEOUT, err.read_line(&mut output))
            .await
            .expect("no warning")
            .unwrap();
        for event_type in ["user.created", "user.updated"] {
            assert!(
                run(&mut emulate.trigger(&[event_type]))
                    .await
                    .status
                    .success()
            );
            emulate.until_over(event_type).await;
            if !quiet {
                timeout(TEST_TIMEOUT, err.read_line(&mut output))
                    .await
                    .expect("no line")
                    .unwrap();
            }
        }
        emulate.signalled("TERM").await;
        err.read_to_string(&mut output).await.unwrap();
        let lines: Vec<_> = output.lines().collect();
        assert!(!output.contains("secret"), "{output}");
        assert!(
            lines[0].starts_with("warning: ") && lines[0].contains("--allow-host app.example"),
            "{output}"
        );
        if quiet {
            assert_eq!(lines.len(), 1, "{output}");
            continue;
        }
        let (_, created) = lines[1].split_once("user.created evt_").expect(&output);
        assert!(
            created.contains(&format!(" -> {}: 200 in ", receiver.url)),
            "{output}"
        );
        let (_, updated) = lines[2].split_once("user.updated evt_").expect(&output);
        assert!(
            updated.contains("failed: ") && updated.contains("--allow-host app.example"),
            "{output}"
        );
        assert!(updated.ends_with("(attempt 1 of 1, given up)"), "{output}");
        assert_eq!(lines.len(), 3, "{output}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn emulate_delivers_although_nobody_reads_its_log() {
    let mut emulate = Emulate::start_with(&["--retry-delays", ""], Stdio::piped()).await;
    let receiver = Receiver::start().await;
    let url = format!("{}/{}", receiver.url, "x".repeat(4_000));
    emulate
        .post(
            "/webhooks",
            json!({"name": "n", "url": url, "events": ["user.created"]}),
        )
        .await;
    // More than the pipe and the queue can hold: about 8 MB.
    let done = run(&mut emulate.trigger(&["user.created", "--copies", "1000"])).await;
    assert!(done.status.success());
    let done = run(&mut emulate.trigger(&["user.created", "--copies", "1000"])).await;
    assert!(done.status.success());
    for _ in 0..2_000 {
        receiver.next_event_type().await;
    }
    // It still ends immediately.
    let _unread = emulate.child.stderr.take();
    assert!(emulate.signalled("TERM").await.0.success());
}

#[tokio::test]
async fn emulate_saves_its_settings_as_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("authpi").join("config.toml");
    let mut command = authpi();
    command
        .args(["emulate", "--save-profile", "dev", "--json"])
        .env("AUTHPI_CONFIG", &config)
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    timeout(TEST_TIMEOUT, out.read_line(&mut line))
        .await
        .expect("the program printed no line")
        .unwrap();
    let output: Value = serde_json::from_str(&line).unwrap();
    // The profile is the first one, so it is active.
    let mut trigger = authpi();
    trigger
        .args(["trigger", "user.created"])
        .env("AUTHPI_CONFIG", &config);
    assert_eq!(record(&mut trigger).await["type"], "user.created");
    let mut list = authpi();
    list.args(["profile", "list"]).env("AUTHPI_CONFIG", &config);
    let listed = record(&mut list).await;
    assert_eq!(
        (&listed["name"], &listed["base_url"]),
        (&json!("dev"), &output["base_url"])
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&config).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
