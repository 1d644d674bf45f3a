//! `authpi webhooks`.

use std::{fs, path::Path};

use super::support::*;

#[tokio::test]
async fn a_webhook_is_created_shown_changed_and_deleted() {
    let emulate = Emulate::start(&[]).await;
    let created = run(&mut emulate.command(&[
        "webhooks",
        "create",
        "users",
        "http://127.0.0.1:1/hooks",
        "--events",
        "user.created,user.updated",
        "--description",
        "for tests",
    ]))
    .await;
    assert!(text(&created.stderr).contains("does not show it again"));
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let id = created["id"].as_str().unwrap();
    assert!(
        created["secret"].as_str().unwrap().starts_with("whs"),
        "{created}"
    );
    assert_eq!(created["events"], json!(["user.created", "user.updated"]));

    let shown = record(&mut emulate.command(&["webhooks", "get", id])).await;
    assert_eq!(
        (&shown["name"], &shown["description"]),
        (&json!("users"), &json!("for tests"))
    );
    assert!(shown.get("secret").is_none(), "the secret is shown twice");

    let disabled =
        record(&mut emulate.command(&["webhooks", "disable", id, "--reason", "tests"])).await;
    assert_eq!(
        (&disabled["status"], &disabled["status_reason"]),
        (&json!("disabled"), &json!("tests"))
    );
    let enabled = record(&mut emulate.command(&["webhooks", "enable", id])).await;
    assert_eq!(enabled["status"], "active");

    let update = [
        "webhooks",
        "update",
        id,
        "--name",
        "people",
        "--description",
        "",
    ];
    let updated = record(&mut emulate.command(&update)).await;
    assert_eq!(updated["name"], "people");
    assert!(
        updated.get("description").is_none_or(Value::is_null),
        "{updated}"
    );
    fails(
        &mut emulate.command(&["webhooks", "update", id]),
        2,
        "nothing to change",
    )
    .await;

    fails(
        &mut emulate.command(&["webhooks", "delete", id]),
        2,
        "--yes",
    )
    .await;
    let done = run(&mut emulate.command(&["webhooks", "delete", id, "--yes"])).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    fails(
        &mut emulate.command(&["webhooks", "get", id]),
        3,
        "authpi webhooks list",
    )
    .await;
}

#[tokio::test]
async fn the_whole_webhook_can_be_a_file_and_wrong_members_are_named() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("webhook.json");
    let create = |text: &str| {
        fs::write(&file, text).unwrap();
        emulate.command(&["webhooks", "create", "--json-file", file.to_str().unwrap()])
    };
    let spec = json!({
        "name": "users", "url": "http://127.0.0.1:1/hooks", "events": ["user.created"],
        "auth": {"type": "bearer+signature"}, "metadata": {"team": "identity"}, "status": "disabled",
    });
    let created = record(&mut create(&spec.to_string())).await;
    assert_eq!(
        (&created["status"], &created["metadata"]),
        (&json!("disabled"), &json!({"team": "identity"}))
    );
    assert!(created["secret"].is_string() && created["bearer_token"].is_string());
    let id = created["id"].as_str().unwrap();
    fails(
        &mut create(r#"{"name": "n", "url": "http://x", "color": "red"}"#),
        2,
        "color",
    )
    .await;
    fails(
        &mut create(r#"{"name": "n", "url": "http://x", "auth": {"type": "magic"}}"#),
        2,
        "magic",
    )
    .await;
    fails(&mut create("{"), 2, "does not hold a webhook").await;

    fs::write(&file, r#"{"metadata": null, "events": ["user.deleted"]}"#).unwrap();
    let file = file.to_str().unwrap();
    let updated =
        record(&mut emulate.command(&["webhooks", "update", id, "--json-file", file])).await;
    assert_eq!(updated["events"], json!(["user.deleted"]));
    assert!(
        updated
            .get("metadata")
            .is_none_or(|metadata| metadata.is_null() || *metadata == json!({})),
        "{updated}"
    );
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[cfg(unix)]
#[tokio::test]
async fn a_secret_goes_into_a_new_file_instead_of_the_output() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret.txt");
    let name = file.to_str().unwrap();
    let create =
        |url: &str| emulate.command(&["webhooks", "create", "users", url, "--secret-file", name]);
    // A call that fails leaves no file.
    fails(&mut create("not a url"), 1, "url").await;
    assert!(!file.exists());
    let created = record(&mut create("http://127.0.0.1:1/hooks")).await;
    assert!(created.get("secret").is_none(), "{created}");
    assert!(fs::read_to_string(&file).unwrap().starts_with("whs"));
    assert_eq!(mode(&file), 0o600);
    // An existing file is not overwritten: the command fails before it creates a webhook.
    fails(&mut create("http://127.0.0.1:1/other"), 1, "cannot create").await;
    assert_eq!(
        records(&mut emulate.command(&["webhooks", "list"]))
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn ensure_changes_nothing_twice_and_rotate_replaces_the_secret() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("secrets.json");
    let store = store.to_str().unwrap();
    let ensure = [
        "webhooks",
        "ensure",
        "users",
        "http://127.0.0.1:1/hooks",
        "--secret-store",
        store,
    ];
    let first = record(&mut emulate.command(&ensure)).await;
    let again = run(&mut emulate.command(&ensure)).await;
    assert!(
        text(&again.stderr).contains("is up to date"),
        "{}",
        text(&again.stderr)
    );
    let id = first["id"].as_str().unwrap();

    let rotate = |more: &[&str]| {
        let mut command = emulate.command(&[
            "webhooks",
            "rotate",
            id,
            "--name",
            "one",
            "--secret-store",
            store,
        ]);
        command.args(more);
        command
    };
    fails(&mut rotate(&["--finish"]), 1, "no rotation").await;
    let new = record(&mut rotate(&[])).await;
    assert_ne!(new["id"], first["id"]);
    assert_eq!(
        records(&mut emulate.command(&["webhooks", "list"]))
            .await
            .len(),
        2
    );
    let finished = record(&mut rotate(&["--finish"])).await;
    assert_eq!(finished["id"], new["id"]);
    let left = records(&mut emulate.command(&["webhooks", "list", "--status", "active"])).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["id"], new["id"]);

    // Another secret store does not have the secret. It is in the replayed answer of the creation.
    let elsewhere = folder.path().join("other.json");
    let elsewhere = elsewhere.to_str().unwrap();
    let mut ensure_elsewhere = emulate.command(&ensure[..4]);
    ensure_elsewhere.args(["--secret-store", elsewhere]);
    let found = record(&mut ensure_elsewhere).await;
    assert_eq!(found["id"], new["id"]);
    let secrets = |file: &str| -> Vec<Value> {
        let kept: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let of_new = |secret: &&Value| secret["webhook_id"] == new["id"];
        let kept = kept["users"].as_array().unwrap().iter().filter(of_new);
        kept.map(|secret| secret["secret"].clone()).collect()
    };
    assert_eq!(secrets(elsewhere), secrets(store));
    assert_eq!(secrets(elsewhere).len(), 1);
}
