//! Profiles, and where settings come from.

use std::{fs, path::Path};

use super::support::*;

fn with_config(config: &Path, arguments: &[&str]) -> Command {
    let mut command = authpi();
    command.args(arguments).env("AUTHPI_CONFIG", config);
    command
}

#[tokio::test]
async fn profiles_are_added_used_and_named() {
    let (one, two) = (Emulate::start(&[]).await, Emulate::start(&[]).await);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    for (name, emulate) in [("one", &one), ("two", &two)] {
        let add = [
            "profile",
            "add",
            name,
            "--base-url",
            emulate.output("base_url"),
            "--key-id",
            emulate.output("key_id"),
            "--key-secret-file",
            "-",
        ];
        let mut command = with_config(&config, &add);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all(emulate.output("key_secret").as_bytes())
            .await
            .unwrap();
        drop(stdin);
        assert!(
            timeout(TEST_TIMEOUT, child.wait())
                .await
                .unwrap()
                .unwrap()
                .success()
        );
    }
    let listed = run(&mut with_config(&config, &["profile", "list"])).await;
    assert!(
        !text(&listed.stdout).contains(one.output("key_secret")),
        "it lists a secret"
    );
    record(&mut one.trigger(&["user.created"])).await;
    let count = |arguments: Vec<&str>| {
        let mut command = with_config(&config, &["events", "list"]);
        command.args(arguments);
        async move { records(&mut command).await.len() }
    };
    // The first profile is active until another one is.
    assert_eq!(count(vec![]).await, 1);
    assert_eq!(count(vec!["--profile", "two"]).await, 0);
    assert!(
        run(&mut with_config(&config, &["profile", "use", "two"]))
            .await
            .status
            .success()
    );
    assert_eq!(count(vec![]).await, 0);
    fails(
        &mut with_config(&config, &["profile", "use", "three"]),
        3,
        "one, two",
    )
    .await;
    fails(
        &mut with_config(&config, &["events", "list", "--profile", "three"]),
        3,
        "one, two",
    )
    .await;

    // The environment comes before the active profile, a named one before the environment.
    let mut command = one.command(&["events", "list"]);
    assert_eq!(
        records(command.env("AUTHPI_CONFIG", &config)).await.len(),
        1
    );
    let mut command = one.command(&["events", "list", "--profile", "two"]);
    assert_eq!(
        records(command.env("AUTHPI_CONFIG", &config)).await.len(),
        0
    );
}

#[tokio::test]
async fn a_broken_file_of_profiles_is_named_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    fs::write(
        &config,
        "[profiles.dev]\nkey_secret = \"sesame\"\ncolour = 1\n",
    )
    .unwrap();
    let done = run(&mut with_config(&config, &["profile", "list"])).await;
    let output = text(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{output}");
    assert!(
        output.contains("config.toml") && output.contains("line "),
        "{output}"
    );
    assert!(!output.contains("sesame"), "{output}");
}
