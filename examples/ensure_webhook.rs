//! A service that declares its webhook when it starts, and then receives what it delivers. To be
//! copied.
//!
//! ```text
//! AUTHPI_KEY_ID=key_… AUTHPI_KEY_SECRET=… PUBLIC_URL=https://example.com/hooks/authpi cargo run --example ensure_webhook
//! ```
//!
//! It listens at `LISTEN` (127.0.0.1:8080 unless set) for what AuthPI sends to `PUBLIC_URL`. The
//! webhook's secret, which AuthPI shows once, is kept in a file in `DATA_DIR` (this folder unless
//! set), which only its owner may read. Any number of replicas may start at once; on several
//! machines, put `PostgresSecretStore` in the place of the file.

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

/// The service's own name for the endpoint: of the webhook, of its secrets and in the ledger.
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
        // AuthPI may be out of reach while its deliveries are not. With a secret at hand, there is
        // no reason not to serve.
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
            event.subject().user_id().unwrap_or("somebody")
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
    // A secret that another replica rotates is known here within ten seconds.
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

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
