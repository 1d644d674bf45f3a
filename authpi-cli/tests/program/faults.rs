//! `authpi faults`, and the faults of `authpi emulate`.

use super::support::*;

#[tokio::test]
async fn faults_are_shown_set_and_cleared() {
    let emulate = Emulate::start(&["--fault", "hang_up,times=1", "--seed", "7"]).await;
    let again = Emulate::start(&["--seed", "7"]).await;
    assert_eq!(emulate.output("key_secret"), again.output("key_secret"));
    let shown = record(&mut emulate.command(&["faults", "show"])).await;
    assert_eq!(shown["deliveries"][0]["fault"]["kind"], "hang_up");
    let set = [
        "faults",
        "set",
        "delay,millis=1",
        "error,status=503,operation=webhooks.list",
    ];
    let set = record(&mut emulate.command(&set)).await;
    assert_eq!(set["calls"][0]["operation"], "webhooks.list");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faults.json");
    std::fs::write(&file, set.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let read = record(&mut emulate.command(&["faults", "set", "--file", file])).await;
    assert_eq!(read, set);
    fails(
        &mut emulate.command(&["faults", "set", "explode"]),
        2,
        "explode",
    )
    .await;
    fails(
        &mut emulate.command(&["faults", "set", "hang_up,rate=3"]),
        1,
        "rate",
    )
    .await;
    assert_eq!(record(&mut emulate.command(&["faults", "show"])).await, set);
    assert!(
        run(&mut emulate.command(&["faults", "clear"]))
            .await
            .status
            .success()
    );
    let cleared = record(&mut emulate.command(&["faults", "show"])).await;
    assert_eq!(cleared, json!({"deliveries": [], "calls": []}));
}
