//! `authpi sign`, `verify` and `diagnose`.

use std::fs;

use super::support::*;

const BODY: &str = r#"{"specversion":"1.0","id":"d","source":"s","type":"event","time":"2026-11-25T08:00:00Z","data":{"id":"evt_1","type":"user.created"}}"#;

#[tokio::test]
async fn a_signed_body_verifies_and_a_changed_one_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (body, secret) = (path("body.json"), path("secret.txt"));
    fs::write(&body, BODY).unwrap();
    fs::write(&secret, "whs_1\n").unwrap();
    for scheme in ["authpi", "timestamped"] {
        let mut sign = authpi();
        sign.args(["sign", &body, "--secret-file", &secret, "--scheme", scheme]);
        let headers = record(&mut sign).await;
        let mut verify = authpi();
        verify.args([
            "verify",
            "--body",
            &body,
            "--secret-file",
            &secret,
            "--scheme",
            scheme,
        ]);
        for (name, value) in headers.as_object().unwrap() {
            verify.args(["-H", &format!("{name}: {}", value.as_str().unwrap())]);
        }
        let verified = record(&mut verify).await;
        assert_eq!(
            verified,
            json!({"authentic": true, "event_id": "evt_1", "event_type": "user.created"})
        );
    }
    // The secret may come from the environment.
    let mut sign = authpi();
    sign.args(["sign", &body])
        .env("AUTHPI_WEBHOOK_SECRET", "whs_1");
    let headers = record(&mut sign).await;
    let signature = headers["x-webhook-signature"].as_str().unwrap();
    let header = format!("x-webhook-signature: {signature}");

    fs::write(&body, BODY.replace("evt_1", "evt_2")).unwrap();
    let mut verify = authpi();
    verify.args([
        "verify",
        "--body",
        &body,
        "--secret-file",
        &secret,
        "-H",
        &header,
    ]);
    fails(&mut verify, 1, "not authentic").await;
    let mut verify = authpi();
    verify.args(["verify", "--body", &body, "--secret-file", &secret]);
    fails(&mut verify, 1, "x-webhook-signature").await;

    // A saved request, as a proxy or `curl -v` shows it, and an added line break.
    let request = path("request.http");
    fs::write(
        &request,
        format!(
            "POST /hooks HTTP/1.1\r\nHost: x\r\nX-Webhook-Signature: {signature}\r\n\r\n{BODY}\n"
        ),
    )
    .unwrap();
    let mut diagnose = authpi();
    diagnose.args(["diagnose", &request, "--secret-file", &secret]);
    let found = record(&mut diagnose).await;
    assert!(
        found["scheme"]
            .as_str()
            .unwrap()
            .contains("SignatureScheme"),
        "{found}"
    );
    assert!(found["body_was"].is_string(), "{found}");
    let dump = path("curl.txt");
    fs::write(&dump, format!("* Connected\n> POST /hooks HTTP/1.1\n> X-Webhook-Signature: {signature}\n>\n< HTTP/1.1 200 OK\n< server: x\n")).unwrap();
    fs::write(&body, BODY).unwrap();
    let mut verify = authpi();
    verify.args([
        "verify",
        "--body",
        &body,
        "--headers",
        &dump,
        "--secret-file",
        &secret,
    ]);
    assert_eq!(record(&mut verify).await["authentic"], true);

    fs::write(&secret, "another\n").unwrap();
    let mut diagnose = authpi();
    diagnose.args(["diagnose", &request, "--secret-file", &secret]);
    let done = run(&mut diagnose).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(
        text(&done.stderr).contains("no scheme fits"),
        "{}",
        text(&done.stderr)
    );
}
