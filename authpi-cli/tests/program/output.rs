//! Output, exit codes and help.

use super::support::*;

/// The end of a pipe whose other end is closed.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[tokio::test]
async fn a_closed_pipe_ends_every_command_quietly() {
    let emulate = Emulate::start(&[]).await;
    record(&mut emulate.trigger(&["user.created"])).await;
    let with = |arguments: &[&str]| {
        let mut command = authpi();
        command.args(arguments);
        command
    };
    for mut command in [
        with(&["--help"]),
        with(&["--version"]),
        with(&["emulate", "--help"]),
        with(&["emulate", "--json"]),
        with(&["emulate"]),
        with(&["completions", "bash"]),
        emulate.trigger(&["user.created"]),
        emulate.command(&["events", "list"]),
        emulate.command(&["events", "tail", "--since", "1h"]),
    ] {
        let done = timeout(
            TEST_TIMEOUT,
            command
                .stdout(closed())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
                .wait_with_output(),
        );
        let done = done
            .await
            .unwrap_or_else(|_| panic!("{command:?} did not end"))
            .unwrap();
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{command:?}: {output}");
        assert!(
            !output.contains("panicked") && !output.contains("closed"),
            "{command:?}: {output}"
        );
    }
    // Without standard error, a command still works.
    let done = run(emulate
        .trigger(&["user.created"])
        .stderr(closed())
        .stdout(Stdio::piped()))
    .await;
    assert_eq!(done.status.code(), Some(0));
    assert!(serde_json::from_slice::<Value>(&done.stdout).is_ok());
    let done = run(emulate.trigger(&["user.invented"]).stderr(closed())).await;
    assert_eq!(done.status.code(), Some(1));
}

#[tokio::test]
async fn a_list_is_a_table_json_or_ndjson() {
    let emulate = Emulate::start(&[]).await;
    let list = |arguments: &[&str]| {
        let mut command = emulate.command(&["webhooks", "list"]);
        command.args(arguments);
        command
    };
    let empty = run(&mut list(&["--output", "json"])).await;
    assert_eq!(text(&empty.stdout), "[]\n");
    assert_eq!(text(&run(&mut list(&["-o", "table"])).await.stdout), "");
    for name in ["users", "groups"] {
        let url = format!("http://127.0.0.1:1/{name}");
        record(&mut emulate.command(&["webhooks", "create", name, &url])).await;
    }
    let table = run(&mut list(&["--output", "table"])).await;
    let table: Vec<_> = text(&table.stdout).lines().collect();
    assert!(table.len() == 3 && table[0].starts_with("ID "), "{table:?}");
    assert!(table[0].find("NAME") == table[1].find("groups").or(table[1].find("users")));
    let json = run(&mut list(&["-o", "json"])).await;
    let json: Vec<Value> = serde_json::from_slice(&json.stdout).unwrap();
    // NDJSON is the default of a pipe.
    assert_eq!(records(&mut list(&[])).await, json);
    let one = run(&mut list(&["--limit", "1"])).await;
    assert_eq!(text(&one.stdout).lines().count(), 1);
    assert!(text(&one.stderr).contains("raise --limit"), "{one:?}");
    let quiet = run(&mut list(&["--limit", "1", "--quiet"])).await;
    assert_eq!(text(&quiet.stderr), "");
}

#[tokio::test]
async fn the_exit_code_tells_what_went_wrong() {
    let emulate = Emulate::start(&[]).await;
    let secret = emulate.output("key_secret").to_owned();
    let mut wrong_key = emulate.command(&["webhooks", "list"]);
    wrong_key.env("AUTHPI_KEY_SECRET", "wrong");
    let mut unreachable =
        emulate.command(&["webhooks", "list", "--base-url", "http://127.0.0.1:1"]);
    unreachable.env("AUTHPI_KEY_SECRET", &secret);
    for (mut command, code, why) in [
        (
            emulate.command(&["webhooks", "get", "wh_none"]),
            3,
            "`authpi webhooks list`",
        ),
        (
            emulate.command(&["deliveries", "list", "wh_none"]),
            3,
            "webhook not found",
        ),
        (
            emulate.command(&["events", "get", "evt_none"]),
            3,
            "event not found",
        ),
        (wrong_key, 4, "check the key's id and secret"),
        (unreachable, 1, "127.0.0.1:1"),
        (authpi_with(&["webhooks", "list"]), 2, "AUTHPI_KEY_ID"),
        (
            emulate.command(&["webhooks", "list", "--limit", "x"]),
            2,
            "--limit",
        ),
        (emulate.command(&["webhooks", "get", "a/b"]), 2, "webhook"),
    ] {
        let done = run(&mut command).await;
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{command:?}: {output}");
        assert!(
            output.contains(why) && !output.contains(&secret),
            "{output}"
        );
        if code != 2 {
            assert_eq!(output.lines().count(), 1, "{output}");
        }
    }
}

fn authpi_with(arguments: &[&str]) -> Command {
    let mut command = authpi();
    command.args(arguments);
    command
}

#[tokio::test]
async fn completions_and_man_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let done = run(&mut authpi_with(&["completions", shell])).await;
        let script = text(&done.stdout);
        assert!(
            done.status.success() && script.contains("redeliver-failed"),
            "{shell}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let done = run(&mut authpi_with(&["man", folder.path().to_str().unwrap()])).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    let page = std::fs::read_to_string(folder.path().join("authpi-webhooks-create.1")).unwrap();
    assert!(page.contains("secret"), "{page}");
}

#[tokio::test]
async fn no_color_and_a_pipe_give_text_without_escapes() {
    for mut command in [
        authpi_with(&["--help"]),
        authpi_with(&["webhooks", "--nonsense"]),
    ] {
        let done = run(command.env("NO_COLOR", "1")).await;
        assert!(
            !done.stdout.contains(&0x1b) && !done.stderr.contains(&0x1b),
            "{command:?}"
        );
    }
}
