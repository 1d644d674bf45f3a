//! The examples as programs: each is run as a user would run it, against the emulator.

use std::{
    env,
    error::Error,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use authpi_emulator::{Emulator, NewEvent};
use authpi_sdk::{
    client::{Client, WebhookSpec},
    signature::Secret,
};
use serde_json::json;
use sqlx::{Row as _, SqlitePool};

type Outcome = Result<(), Box<dyn Error>>;

/// Cargo builds the examples before it runs tests, beside the folder of the tests.
fn example(name: &str) -> Command {
    let test = env::current_exe().expect("a test knows where it is");
    let target = test.ancestors().nth(2).expect("tests lie in target/<profile>/deps");
    Command::new(target.join("examples").join(name))
}

/// Ends the program with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder of its own below the target folder.
fn folder(name: &str) -> std::io::Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn client(authpi: &Emulator) -> Result<Client, Box<dyn Error>> {
    let secret = Secret::new(authpi.key_secret());
    Ok(Client::builder().api_key(authpi.key_id(), secret).base_url(authpi.base_url()).build()?)
}

#[test]
fn quickstart_ends_well_and_tells_of_every_delivery() -> Outcome {
    let output = example("quickstart").output()?;
    let told = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in ["200 handled", "200 duplicate", "401 unauthorized", "503 try again later", "all as told"] {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn create_webhook_prints_the_secret_once() -> Outcome {
    let authpi = Emulator::start().await?;
    let output = example("create_webhook")
        .arg("http://127.0.0.1:9/hooks/authpi")
        .env("AUTHPI_BASE_URL", authpi.base_url())
        .env("AUTHPI_KEY_ID", authpi.key_id())
        .env("AUTHPI_KEY_SECRET", authpi.key_secret())
        .output()?;
    let told = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.matches("whs_").count(), 1, "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_events_keeps_the_table_in_step_though_deliveries_come_out_of_order() -> Outcome {
    // A port that was free a moment ago: the webhook's secret has to be known before the program starts.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let authpi = Emulator::builder().retry_delays([Duration::from_millis(100); 20]).start().await?;
    let spec = WebhookSpec::new("users", format!("http://127.0.0.1:{port}/hooks/authpi")).all_events().signed();
    let made = client(&authpi)?.webhooks().create(&spec).await?;
    let data = folder("handle_events")?;
    let mut program = Running(
        example("handle_events")
            .env("AUTHPI_WEBHOOK_SECRET", made.secret.ok_or("no secret")?.expose())
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("DATA_DIR", &data)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    assert!(line.contains("listening"), "{line}");

    let about = |event_type: &str, user: &str, name: &str| {
        NewEvent::new(event_type).subject(json!({ "user_id": user })).data(json!({ "id": user, "username": name }))
    };
    for event in [
        about("user.created", "usr_1", "ada").copies(2),
        about("user.updated", "usr_1", "countess"),
        about("user.deleted", "usr_2", ""),
        about("user.updated", "usr_2", "back from the dead"),
        about("session.created", "usr_1", "nobody handles this"),
    ] {
        authpi.trigger(event).await?;
        authpi.deliveries_finished().await;
    }
    let users = SqlitePool::connect(&format!("sqlite:{}", data.join("users.db").display())).await?;
    let rows = sqlx::query("SELECT id, username, deleted FROM users ORDER BY id").fetch_all(&users).await?;
    let rows: Vec<(String, Option<String>, bool)> =
        rows.iter().map(|row| (row.get("id"), row.get("username"), row.get("deleted"))).collect();
    assert_eq!(rows, [("usr_1".into(), Some("countess".into()), false), ("usr_2".into(), None, true)]);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}
