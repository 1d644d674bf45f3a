//! `authpi deliveries`.

use super::support::*;

#[tokio::test]
async fn failed_deliveries_are_listed_shown_and_sent_again() {
    let emulate = Emulate::start(&["--retry-delays", ""]).await;
    let way = Way::start().await;
    let url = format!("http://{}/hooks", way.address);
    let created = record(&mut emulate.command(&["webhooks", "create", "users", &url])).await;
    let webhook = created["id"].as_str().unwrap();
    for _ in 0..3 {
        record(&mut emulate.trigger(&["user.created"])).await;
    }
    emulate.until_over("user.created").await;
    let list = [
        "deliveries",
        "list",
        webhook,
        "--status",
        "failed",
        "--type",
        "user.created",
        "--after",
        "1h",
    ];
    let failed = records(&mut emulate.command(&list)).await;
    assert_eq!(failed.len(), 3);
    let (id, event) = (
        failed[0]["id"].as_str().unwrap(),
        failed[0]["event_id"].as_str().unwrap(),
    );
    for by in [id, event] {
        let shown = record(&mut emulate.command(&["deliveries", "get", webhook, by])).await;
        assert_eq!(shown["id"], id);
    }
    fails(
        &mut emulate.command(&["deliveries", "get", webhook, "whd_none"]),
        3,
        "whd_none",
    )
    .await;

    let done = run(&mut emulate.command(&["deliveries", "redeliver", webhook, id])).await;
    assert_eq!(done.status.code(), Some(1), "it is still refused");
    assert!(
        text(&done.stderr).contains("did not accept"),
        "{}",
        text(&done.stderr)
    );

    way.lead_to(&Receiver::start().await.url);
    let sent = record(&mut emulate.command(&["deliveries", "redeliver", webhook, id])).await;
    assert_eq!(sent["success"], true);
    let again = ["deliveries", "redeliver-failed", webhook, "--wait", "1m"];
    let count = record(&mut emulate.command(&again)).await;
    assert_eq!(
        count,
        json!({"total": 2, "succeeded": 2, "failed": 0, "pending": 0})
    );
    let left = records(&mut emulate.command(&list)).await;
    assert!(left.is_empty(), "{left:?}");
}
