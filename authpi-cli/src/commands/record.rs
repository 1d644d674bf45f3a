//! `authpi record`: a proxy that saves the deliveries that pass.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use authpi_sdk::{event::Event, testing::Recording};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
};
use clap::Args;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jiff::Timestamp;
use tokio::{net::TcpListener, time::timeout};

use super::listen::Attempt;
use crate::{
    failure::{Failure, Result},
    forward::{NOT_FORWARDED, Target},
    output::{self, Output},
    recordings,
    stop::Stop,
};

/// Save deliveries on their way to a receiver.
///
/// A proxy: it forwards each request unchanged, passes the answer back, and writes both to a file.
/// The values of Authorization, cookies and tokens are replaced by REDACTED there; the signature and
/// the exact body are kept. The files contain personal data, so only their owner can read them.
///
/// `authpi verify`, `diagnose` and `replay` read them, and so does `Fixture::from_file` in tests.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    authpi record --listen 127.0.0.1:9000 --forward-to http://127.0.0.1:8080 --dir recordings")]
pub(crate) struct Record {
    /// The address to listen on; port 0 selects a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// The receiver's address. If it has no path, the path of each request is used
    #[arg(long, value_name = "URL")]
    forward_to: String,

    /// The folder for the files
    #[arg(long, value_name = "DIR", default_value = "recordings")]
    dir: PathBuf,
}

/// The largest body that is accepted; a receiver's default is 1 MiB.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// The time limit for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests in progress may take after a signal.
const GRACE: Duration = Duration::from_secs(1);

struct Proxy {
    target: Target,
    folder: PathBuf,
    output: Output,
}

impl Record {
    pub(crate) async fn run(self, output: Output) -> Result {
        let mut stop = Stop::listen()?;
        let target = Target::parse(&self.forward_to)?;
        recordings::create(&self.dir)?;
        let failed = |error| Failure::because(format!("cannot listen on {}", self.listen), &error);
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // The address is a result: with port 0 it is not known before.
        output::print(&format!("http://{address}\n"))?;
        output.note(&format!(
            "forwarding to {}, recording into {}",
            target.shown(),
            self.dir.display()
        ));
        let proxy = Arc::new(Proxy {
            target,
            folder: self.dir,
            output,
        });
        let app = Router::new().fallback(forward).with_state(proxy);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let serving = axum::serve(listener, app).with_graceful_shutdown(async {
            let _ = ended.await;
        });
        let serving = tokio::spawn(serving.into_future());
        stop.requested().await;
        let _ = end.send(());
        let _ = timeout(GRACE, serving).await;
        Ok(())
    }
}

/// Forwards one request, and records it.
async fn forward(State(proxy): State<Arc<Proxy>>, request: Request) -> Response<Body> {
    let received_at = Timestamp::now();
    let (parts, body) = request.into_parts();
    let body = match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return plain(StatusCode::PAYLOAD_TOO_LARGE);
        }
        // The sender has hung up.
        Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let path = parts
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let sent = proxy
        .target
        .send(
            parts.method.clone(),
            Some(&path),
            parts.headers.clone(),
            body.clone(),
        )
        .await;
    let event = Event::from_json(body.clone()).ok();
    let event_id = event.as_ref().map(|event| event.id().to_owned());
    let (answer, recorded, error) = match sent {
        Ok(sent) => {
            let recorded = sent.recorded();
            (
                answer(sent.status, sent.headers, sent.body.into()),
                Some(recorded),
                None,
            )
        }
        Err(why) => (plain(StatusCode::BAD_GATEWAY), None, Some(why)),
    };
    let recording = Recording::new(&parts.headers, body);
    let mut recording = recording.request(parts.method.as_str(), &path);
    recording.received_at = received_at;
    recording.answer.clone_from(&recorded);
    let line = Attempt::new(
        received_at,
        event
            .as_ref()
            .map_or("-", |event| event.event_type().as_str()),
        event_id.as_deref().unwrap_or("-"),
        recorded.as_ref(),
        error,
    );
    if !proxy.output.quiet {
        output::note(&line.text());
    }
    let (folder, output) = (proxy.folder.clone(), proxy.output);
    let save = tokio::task::spawn_blocking(move || {
        if let Err(error) = recordings::save(&folder, &recording, event_id.as_deref()) {
            output.note(&format!("cannot record into {}: {error}", folder.display()));
        }
    });
    // The file is saved before the sender gets its answer.
    let _ = save.await;
    answer
}

fn answer(status: StatusCode, mut headers: HeaderMap, body: Body) -> Response<Body> {
    for name in &NOT_FORWARDED {
        headers.remove(name);
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn plain(status: StatusCode) -> Response<Body> {
    answer(status, HeaderMap::new(), Body::empty())
}
