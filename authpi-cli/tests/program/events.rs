//! `authpi events`.

use std::fs;

use super::support::*;

#[tokio::test]
async fn the_log_is_listed_filtered_counted_and_exported() {
    let emulate = Emulate::start(&[]).await;
    let made = records(&mut emulate.trigger(&["user.created", "--count", "120"])).await;
    record(&mut emulate.trigger(&["user.deleted"])).await;
    let id = made[0]["id"].as_str().unwrap();
    assert_eq!(
        record(&mut emulate.command(&["events", "get", id])).await["id"],
        id
    );
    let list = ["events", "list", "--types", "user.deleted", "--after", "1h"];
    assert_eq!(records(&mut emulate.command(&list)).await.len(), 1);
    let count =
        record(&mut emulate.command(&["events", "aggregate", "--types", "user.created"])).await;
    assert!(count.to_string().contains("120"), "{count}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let export = [
        "events",
        "export",
        file.to_str().unwrap(),
        "--types",
        "user.created",
    ];
    let done = run(&mut emulate.command(&export)).await;
    assert!(
        text(&done.stderr).contains("120 events"),
        "{}",
        text(&done.stderr)
    );
    let exported = fs::read_to_string(&file).unwrap();
    assert_eq!(exported.lines().count(), 120);
    // An export does not overwrite a file, and its `.cursor` file does not remain.
    fails(&mut emulate.command(&export), 1, "cannot create").await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    // Interrupted after a page and in the middle of the next one.
    let lines: Vec<_> = exported.lines().collect();
    let page = lines[..100].join("\n") + "\n";
    fs::write(&file, format!("{page}{{\"half")).unwrap();
    let cursor = |filter: &str| {
        let next = next_page(&emulate);
        let filter = filter.to_owned();
        let bytes = page.len();
        async move {
            json!({"filter": filter, "next": next.await, "bytes": bytes, "events": 100}).to_string()
        }
    };
    let at = folder.path().join("events.ndjson.cursor");
    fs::write(&at, cursor("other").await).unwrap();
    fails(&mut emulate.command(&export), 2, "other filters").await;
    let filter = r#"["user.created"] None None None None None"#;
    fs::write(&at, cursor(filter).await).unwrap();
    let done = run(&mut emulate.command(&export)).await;
    assert!(
        text(&done.stderr).contains("continuing after 100 events"),
        "{}",
        text(&done.stderr)
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), exported);
}

/// The cursor of the second page.
async fn next_page(emulate: &Emulate) -> String {
    let page = emulate
        .get("/events?event_types=user.created&limit=100")
        .await;
    page["next_cursor"].as_str().unwrap().to_owned()
}

#[cfg(unix)]
#[tokio::test]
async fn tail_prints_each_event_once_and_continues_from_its_cursor() {
    let emulate = Emulate::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let cursor = folder.path().join("cursor");
    let cursor = cursor.to_str().unwrap();
    let mut printed = Vec::new();
    for _ in 0..2 {
        let mut tail = emulate.command(&[
            "events",
            "tail",
            "--types",
            "user.created",
            "--cursor",
            cursor,
        ]);
        let mut child = tail.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // `tail` misses an event that is triggered before it has started, so events are triggered
        // until it prints one.
        let expected = loop {
            let made = record(&mut emulate.trigger(&["user.created"])).await;
            if let Ok(line) = timeout(FEW_SECONDS, lines.next_line()).await {
                let event: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
                printed.push(event["id"].clone());
                break made["id"].clone();
            }
        };
        while *printed.last().unwrap() != expected {
            let line = timeout(TEST_TIMEOUT, lines.next_line())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            printed.push(event["id"].clone());
        }
        // The position is written after the line.
        let saved = async {
            while !fs::read_to_string(cursor)
                .is_ok_and(|text| text.contains(expected.as_str().unwrap()))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, saved)
            .await
            .expect("the position is not saved");
        child.kill().await.unwrap();
        // This one happens while nothing follows the log.
        record(&mut emulate.trigger(&["user.created"])).await;
    }
    let mut once = printed.clone();
    once.sort_by_key(Value::to_string);
    once.dedup();
    assert_eq!(once.len(), printed.len(), "an event was printed twice");
    assert!(
        printed.len() >= 3,
        "the event in between is missing: {printed:?}"
    );
}
