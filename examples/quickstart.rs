//! A complete demonstration in one process: an emulated AuthPI, a webhook, and the outcome of each
//! delivery.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! It needs no account and no network. It exits with an error if an outcome differs from the
//! expected one.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use authpi_emulator::{Emulator, NewEvent};
use authpi_sdk::{
    client::{Client, WebhookSpec},
    event::{
        Event, EventType,
        types::{UserCreated, UserDeleted, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    receiver::Receiver,
    signature::{KeyRing, Secret, SignatureScheme, Verifier},
    stores::Sqlite,
    testing::Fixture,
};
use axum::{
    Router,
    body::to_bytes,
    extract::Request,
    middleware::{self, Next},
    response::Response,
};
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};
use tokio::net::TcpListener;

/// The handlers' shared state: whether the handler that fails once has failed.
#[derive(Default)]
struct App {
    failed: AtomicBool,
}

async fn user_created(event: Event<UserCreated>, cx: Context<App>) -> authpi_sdk::HandlerResult {
    println!(
        "    handler: {:?} was created (attempt {})",
        event.data()?.username.unwrap_or_default(),
        cx.attempt()
    );
    Ok(())
}

async fn user_updated(event: Event<UserUpdated>, cx: Context<App>) -> authpi_sdk::HandlerResult {
    println!(
        "    handler: {} was updated (attempt {})",
        event.subject().user_id().unwrap_or("?"),
        cx.attempt()
    );
    Ok(())
}

async fn user_deleted(_event: Event<UserDeleted>, cx: Context<App>) -> authpi_sdk::HandlerResult {
    if !cx.state().failed.swap(true, Ordering::SeqCst) {
        println!(
            "    handler: the database is away (attempt {})",
            cx.attempt()
        );
        return Err(HandlerError::retryable("the database is away"));
    }
    println!(
        "    handler: the user was deleted (attempt {})",
        cx.attempt()
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A local AuthPI. It retries after 0.2 s, to keep the demonstration short.
    let authpi = Emulator::builder()
        .retry_delays([Duration::from_millis(200)])
        .start()
        .await?;
    println!("AuthPI's emulator listens on {}", authpi.base_url());

    // The typed client creates the webhook; the secret is returned once.
    let client = Client::builder()
        .api_key(authpi.key_id(), Secret::new(authpi.key_secret()))
        .base_url(authpi.base_url())
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/hooks/authpi", listener.local_addr()?);
    let spec = WebhookSpec::new("quickstart", &url).events([
        EventType::UserCreated,
        EventType::UserUpdated,
        EventType::UserDeleted,
    ]);
    let made = client.webhooks().create(&spec).await?;
    let secret = made.secret.ok_or("AuthPI made no secret")?;
    println!("created the webhook {} for {url}", made.webhook.id);

    // The receiver: verify, claim, handle, respond.
    let handlers = Handlers::new(App::default())
        .on(user_created)
        .on(user_updated)
        .on(user_deleted);
    let verifier = Verifier::authpi(KeyRing::new().with("quickstart", secret));
    let hook =
        Receiver::inline("quickstart", verifier, Sqlite::in_memory().await?, handlers).build()?;
    let answers = Answers::default();
    let app = Router::new()
        .route_service("/hooks/authpi", hook.clone())
        .layer(middleware::from_fn({
            let answers = answers.clone();
            move |request, next| answers.clone().watch(request, next)
        }));
    tokio::spawn(async move { axum::serve(listener, app).await });

    println!("\nuser.created and user.updated happen");
    authpi.trigger("user.created").await?;
    authpi.deliveries_finished().await;
    authpi.trigger("user.updated").await?;
    authpi.deliveries_finished().await;
    answers.expect(&["200", "200"])?;

    println!("\nuser.created happens, and AuthPI delivers it twice");
    authpi
        .trigger(NewEvent::new("user.created").copies(2))
        .await?;
    authpi.deliveries_finished().await;
    answers.expect_in_any_order(&["200", "200 duplicate"])?;

    println!("\na forged user.created arrives, signed with another secret");
    forge(&url).await?;
    answers.expect(&["401 unauthorized"])?;

    println!("\nuser.deleted happens, and the handler fails once");
    authpi.trigger("user.deleted").await?;
    authpi.deliveries_finished().await;
    answers.expect(&["503 try again later", "200"])?;

    hook.drain().await;
    println!("\neverything worked as described");
    Ok(())
}

/// Sends a delivery that AuthPI did not make.
async fn forge(url: &str) -> Result<(), Box<dyn Error>> {
    let forged = Fixture::of::<UserCreated>().id("evt_forged");
    let mut request = forged.request(&SignatureScheme::authpi(), &"whs_not_the_secret".into())?;
    *request.uri_mut() = url.parse()?;
    HttpClient::builder(TokioExecutor::new())
        .build_http()
        .request(request)
        .await?;
    Ok(())
}

/// Prints each response, and compares it with the expected one.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<String>>>);

impl Answers {
    async fn watch(self, request: Request, next: Next) -> Response {
        let (head, body) = next.run(request).await.into_parts();
        let text = to_bytes(body, 1024).await.unwrap_or_default();
        let answer = format!(
            "{} {}",
            head.status.as_u16(),
            String::from_utf8_lossy(&text)
        );
        // An event that was handled is acknowledged without a text.
        let answer = answer.trim_end().to_owned();
        println!("  delivery answered: {answer}");
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(answer);
        Response::from_parts(head, text.into())
    }

    fn expect(&self, reported: &[&str]) -> Result<(), String> {
        Self::compare(&self.take(), reported)
    }

    /// For concurrent deliveries: they may be answered in any order. `reported` is sorted.
    fn expect_in_any_order(&self, reported: &[&str]) -> Result<(), String> {
        let mut given = self.take();
        given.sort_unstable();
        Self::compare(&given, reported)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn compare(given: &[String], reported: &[&str]) -> Result<(), String> {
        if given == reported {
            Ok(())
        } else {
            Err(format!("answered {given:?} instead of {reported:?}"))
        }
    }
}
