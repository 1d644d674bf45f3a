//! A service that declares its webhook at start-up, then receives its deliveries.
//!
//! ```text
//! AUTHPI_KEY_ID=key_… AUTHPI_KEY_SECRET=… PUBLIC_URL=https://example.com/hooks/authpi cargo run --example ensure_webhook
//! ```
//!
//! AuthPI delivers to `PUBLIC_URL`; the service listens on `LISTEN` (default 127.0.0.1:8080).
//! AuthPI returns the webhook's secret once, so it is stored in a file in `DATA_DIR` (default: the
//! current folder) that only its owner may read. Any number of replicas can start at the same time.
//! With several machines, replace the file with `PostgresSecretStore`.

mod shutdown;

use std::{env, error::Error, path::PathBuf, time::Duration};

use authpi_sdk::{
    client::{Client, WebhookSpec},
    endpoint::{FileSecretStore, SecretStore as _},
    event::{Event, EventType, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::Receiver,
    signature::Verifier,
    stores::Sqlite,
};
use axum::Router;
use tokio::net::TcpListener;

/// The endpoint's name: of the webhook, of its secrets and in the ledger.
const ENDPOINT: &str = "users";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = PathBuf::from(env::var("DATA_DIR").unwrap_or_else(|_| ".".into()));
    let listener =
        TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;

    let spec = WebhookSpec::new(ENDPOINT, env::var("PUBLIC_URL")?).events([EventType::UserCreated]);
    let secrets = FileSecretStore::new(data.join("authpi-secrets.json"));
    match Client::from_env()?.webhooks().ensure(&spec, &secrets).await {
        Ok(ensured) => println!("{ensured}"),
        Err(error) if error.is_permanent() => return Err(chain(&error).into()),
        // AuthPI's API may be unavailable while its deliveries arrive. With a stored secret, the
        // service can start anyway.
        Err(error) if secrets.keys(ENDPOINT).await?.signatures.is_empty() => {
            return Err(chain(&error).into());
        }
        Err(error) => {
            eprintln!(
                "serving with the secret that is kept, since the webhook could not be looked at: {}",
                chain(&error)
            );
        }
    }

    let keys = secrets.keys(ENDPOINT).await?;
    let verifier = Verifier::authpi(keys.signatures.clone());
    let handlers = Handlers::new(()).on(async |event: Event<UserCreated>, _: Context<()>| {
        println!(
            "created {}",
            event.subject().user_id().unwrap_or("unknown user")
        );
        Ok(())
    });
    let hook = Receiver::inline(
        ENDPOINT,
        verifier,
        Sqlite::open(data.join("hooks.db")).await?,
        handlers,
    )
    .build()?;
    // A secret that another replica has rotated is loaded within ten seconds.
    tokio::spawn(async move {
        keys.follow(&secrets, ENDPOINT, Duration::from_secs(10))
            .await
    });

    println!(
        "listening on http://{}/hooks/authpi",
        listener.local_addr()?
    );
    let app = Router::new().route_service("/hooks/authpi", hook.clone());
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown::shutdown_signal())
        .await?;
    hook.drain().await;
    Ok(())
}

/// An error and its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
