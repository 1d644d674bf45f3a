//! Clients that must not be built, and the sources of settings.
//!
//! Tests that depend on the environment run in a separate process: the test starts itself again.

use std::{env, process::Command};

use authpi_sdk::Client;

/// Set in the process that the test started.
const INNER: &str = "AUTHPI_TEST_INNER";

/// Runs the test `name` again, alone, with only these AuthPI variables.
fn again(name: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(env::current_exe().expect("a running test has a program"));
    command
        .args([
            "--exact",
            &format!("client::settings::{name}"),
            "--nocapture",
        ])
        .env(INNER, "1");
    for name in [
        "AUTHPI_KEY_ID",
        "AUTHPI_KEY_SECRET",
        "AUTHPI_ACCOUNT_ID",
        "AUTHPI_BASE_URL",
    ] {
        command.env_remove(name);
    }
    let output = command
        .envs(variables.iter().copied())
        .output()
        .expect("the test starts again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_inner() -> bool {
    env::var_os(INNER).is_some()
}

#[test]
fn missing_certificates_are_an_error_of_build_and_of_https_only() {
    if !is_inner() {
        let nowhere = "/nonexistent/certificates";
        again(
            "missing_certificates_are_an_error_of_build_and_of_https_only",
            &[("SSL_CERT_FILE", nowhere), ("SSL_CERT_DIR", nowhere)],
        );
        return;
    }
    let error = Client::builder()
        .api_key("key_1", "very_secret")
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("CA certificates"), "{error}");
    assert!(
        std::error::Error::source(&error).is_some(),
        "the cause is kept"
    );
    assert!(!format!("{error:?}").contains("very_secret"));
    // A local emulator needs no certificates.
    Client::builder()
        .base_url("http://127.0.0.1:1")
        .api_key("key_1", "s")
        .build()
        .unwrap();
}

#[test]
fn the_environment_gives_key_account_and_address() {
    if !is_inner() {
        let variables = [
            ("AUTHPI_KEY_ID", "key_1"),
            ("AUTHPI_KEY_SECRET", "very_secret"),
            ("AUTHPI_ACCOUNT_ID", "acc_1"),
            ("AUTHPI_BASE_URL", "http://127.0.0.1:1"),
        ];
        again("the_environment_gives_key_account_and_address", &variables);
        return;
    }
    let shown = format!("{:?}", Client::from_env().unwrap());
    assert!(
        shown.contains("acc_1") && shown.contains("http://127.0.0.1:1"),
        "{shown}"
    );
    assert!(!shown.contains("very_secret"), "{shown}");
}

#[test]
fn an_environment_without_a_key_is_an_error_that_names_the_variable() {
    if !is_inner() {
        again(
            "an_environment_without_a_key_is_an_error_that_names_the_variable",
            &[("AUTHPI_ACCOUNT_ID", "")],
        );
        again(
            "an_environment_without_a_key_is_an_error_that_names_the_variable",
            &[("AUTHPI_KEY_ID", "key_1")],
        );
        return;
    }
    let error = Client::from_env().unwrap_err();
    let cause = std::error::Error::source(&error)
        .map(ToString::to_string)
        .unwrap_or_default();
    assert!(
        format!("{error} {cause}").contains("AUTHPI_KEY_"),
        "{error} {cause}"
    );
}

#[test]
fn a_reqwest_client_of_somebody_else_still_finds_its_tls_provider() {
    if !is_inner() {
        again(
            "a_reqwest_client_of_somebody_else_still_finds_its_tls_provider",
            &[],
        );
        return;
    }
    Client::builder()
        .base_url("http://127.0.0.1:1")
        .api_key("key_1", "s")
        .build()
        .unwrap();
    // Without a provider this panics.
    drop(reqwest::Client::new());
}
