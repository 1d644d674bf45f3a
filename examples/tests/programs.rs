//! The examples as programs: each is run as a user would run it, against the emulator.

use std::{
    env,
    error::Error,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
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
use tokio::time::timeout;

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

/// A service that was started, listens on `port`, and has its files in `data`.
fn serve(name: &str, port: u16, secret: &Secret, data: &Path) -> Result<Running, Box<dyn Error>> {
    let mut program = Running(
        example(name)
            .env("AUTHPI_WEBHOOK_SECRET", secret.expose())
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("DATA_DIR", data)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    assert!(line.contains("listening"), "{line}");
    Ok(program)
}

/// A port that was free a moment ago: the webhook's secret has to be known before the program starts.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_later_loses_no_event_though_it_is_killed_again_and_again() -> Outcome {
    const KILLS: usize = 8;
    const BETWEEN: usize = 20;
    let port = free_port()?;
    let authpi = Emulator::builder().retry_delays([Duration::from_millis(50); 200]).start().await?;
    let spec = WebhookSpec::new("audit", format!("http://127.0.0.1:{port}/hooks/authpi")).all_events().signed();
    let made = client(&authpi)?.webhooks().create(&spec).await?;
    let secret = made.secret.ok_or("no secret")?;
    let data = folder("handle_later")?;
    let mut program = serve("handle_later", port, &secret, &data)?;
    let audit = SqlitePool::connect(&format!("sqlite:{}", data.join("audit.db").display())).await?;
    let logged = async || -> Result<usize, sqlx::Error> {
        let count: i64 = sqlx::query("SELECT count(*) FROM audit").fetch_one(&audit).await?.get(0);
        Ok(usize::try_from(count).unwrap_or(0))
    };

    for kill in 0..KILLS {
        let before = logged().await?;
        for n in 0..BETWEEN {
            let user = format!("usr_{}", n % 5);
            authpi.trigger(NewEvent::new("user.updated").subject(json!({ "user_id": user })).copies(2)).await?;
        }
        // Somewhere within the round: another number of events is through each time.
        while logged().await? < before + kill * 2 % BETWEEN {
            tokio::task::yield_now().await;
        }
        program.0.kill()?;
        program.0.wait()?;
        program = serve("handle_later", port, &secret, &data)?;
    }
    timeout(Duration::from_mins(1), authpi.deliveries_finished()).await?;
    let all_logged = async {
        while logged().await? < KILLS * BETWEEN {
            tokio::task::yield_now().await;
        }
        Ok::<_, sqlx::Error>(())
    };
    timeout(Duration::from_mins(1), all_logged).await.map_err(|_| "acknowledged events never came through")??;
    assert_eq!(logged().await?, KILLS * BETWEEN);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_events_keeps_the_table_in_step_though_deliveries_come_out_of_order() -> Outcome {
    let port = free_port()?;
    let authpi = Emulator::builder().retry_delays([Duration::from_millis(100); 20]).start().await?;
    let spec = WebhookSpec::new("users", format!("http://127.0.0.1:{port}/hooks/authpi")).all_events().signed();
    let made = client(&authpi)?.webhooks().create(&spec).await?;
    let data = folder("handle_events")?;
    let _program = serve("handle_events", port, &made.secret.ok_or("no secret")?, &data)?;

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

#[cfg(unix)]
#[test]
fn a_service_that_is_sent_sigterm_ends_well() -> Outcome {
    use std::io::{Read as _, Write as _};
    for name in ["handle_events", "handle_later"] {
        let (port, data) = (free_port()?, folder(&format!("{name}-stopped"))?);
        let mut program = serve(name, port, &Secret::new("whs_0123456789abcdef"), &data)?;
        // When it answers, it also listens for signals.
        let mut request = std::net::TcpStream::connect(("127.0.0.1", port))?;
        request.write_all(b"GET /hooks/authpi HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        request.read_to_string(&mut answer)?;
        assert!(answer.contains("405"), "{answer}");
        assert!(Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status()?.success());
        assert!(program.0.wait()?.success(), "{name} was killed and did not end by itself");
        std::fs::remove_dir_all(&data)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ensure_webhook_makes_its_webhook_once_and_serves_what_it_delivers_also_without_authpi() -> Outcome {
    let port = free_port()?;
    let authpi = Emulator::builder().retry_delays([Duration::from_millis(100); 20]).start().await?;
    let data = folder("ensure_webhook")?;
    let start = |base_url: &str| -> Result<_, Box<dyn Error>> {
        let mut program = Running(
            example("ensure_webhook")
                .env("AUTHPI_BASE_URL", base_url)
                .env("AUTHPI_KEY_ID", authpi.key_id())
                .env("AUTHPI_KEY_SECRET", authpi.key_secret())
                .env("AUTHPI_ACCOUNT_ID", authpi.account_id())
                .env("PUBLIC_URL", format!("http://127.0.0.1:{port}/hooks/authpi"))
                .env("LISTEN", format!("127.0.0.1:{port}"))
                .env("DATA_DIR", &data)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let told = BufReader::new(program.0.stdout.take().ok_or("no output")?).lines();
        Ok((program, told))
    };
    // With AuthPI there, with the webhook there, and with AuthPI gone.
    let nowhere = format!("http://127.0.0.1:{}", free_port()?);
    for (base_url, first) in
        [(authpi.base_url(), Some(" created")), (authpi.base_url(), Some(" is as declared")), (&nowhere, None)]
    {
        let (mut program, mut told) = start(base_url)?;
        let mut line = || told.next().ok_or("it ended")?.map_err(Box::<dyn Error>::from);
        if let Some(first) = first {
            let told = line()?;
            assert!(told.ends_with(first), "{told}");
        }
        let told = line()?;
        assert!(told.starts_with("listening"), "{told}");
        authpi.trigger(NewEvent::new("user.created").subject(json!({ "user_id": "usr_1" }))).await?;
        assert_eq!(line()?, "created usr_1");
        timeout(Duration::from_mins(1), authpi.deliveries_finished()).await?;
        program.0.kill()?;
        program.0.wait()?;
    }
    assert_eq!(client(&authpi)?.webhooks().list().await?.items.len(), 1);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn catch_up_handles_what_was_missed_before_it_listens() -> Outcome {
    let port = free_port()?;
    let authpi = Emulator::builder().retry_delays([]).start().await?;
    let spec = WebhookSpec::new("users", format!("http://127.0.0.1:{port}/hooks/authpi"));
    let spec = spec.events(["user.created".into(), "user.updated".into(), "user.deleted".into()]).signed();
    let made = client(&authpi)?.webhooks().create(&spec).await?;
    let mut missed = Vec::new();
    for event in ["user.created", "user.updated", "user.deleted"] {
        missed.push(authpi.trigger(event).await?.id);
    }
    timeout(Duration::from_mins(1), authpi.deliveries_finished()).await?;
    let data = folder("catch_up")?;
    let mut program = Running(
        example("catch_up")
            .env("AUTHPI_BASE_URL", authpi.base_url())
            .env("AUTHPI_KEY_ID", authpi.key_id())
            .env("AUTHPI_KEY_SECRET", authpi.key_secret())
            .env("AUTHPI_WEBHOOK_ID", &made.webhook.id)
            .env("AUTHPI_WEBHOOK_SECRET", made.secret.ok_or("no secret")?.expose())
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("DATA_DIR", &data)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut lines = BufReader::new(program.0.stdout.take().ok_or("no output")?).lines();
    let mut handled = Vec::new();
    let told = loop {
        let line = lines.next().ok_or("it has ended")??;
        if line.starts_with("caught up") {
            break line;
        }
        handled.extend(line.split_once(' ').filter(|(id, _)| id.starts_with("evt_")).map(|(id, _)| id.to_owned()));
    };
    assert_eq!(told, "caught up: 3 events were new, 0 known");
    assert_eq!(handled, missed);
    assert!(lines.next().ok_or("it has ended")??.contains("listening"));
    // And now it serves.
    let live = authpi.trigger("user.created").await?.id;
    assert!(lines.next().ok_or("it has ended")??.starts_with(&live));
    std::fs::remove_dir_all(&data)?;
    Ok(())
}
