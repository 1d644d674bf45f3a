//! The inspector page: its server, and the session as its source.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use authpi_inspector::{
    Delivery, DeliveryFilter, DeliveryRow, Inspector, Page, Problem, Source, Tab,
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::{net::TcpListener, sync::watch, time::timeout};

use super::{Sender, session::MISSING};
use crate::failure::{Failure, Result};

/// The largest form.
const MAX_FORM: usize = 64 * 1024;
/// The time limit for a form.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the page until the program ends. Returns its URL.
pub(super) async fn serve(address: SocketAddr, sender: Arc<Sender>) -> Result<String> {
    let failed = |error| Failure::because(format!("cannot listen on {address}"), &error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let url = format!("http://{}/", listener.local_addr().map_err(failed)?);
    let inspector = Arc::new(Inspector::new(ListenSource(sender), ""));
    let app = Router::new().fallback(answer).with_state(inspector);
    // It ends with the program.
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}

async fn answer(
    State(inspector): State<Arc<Inspector<ListenSource>>>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Err(refused) = inspector.admit(&parts) {
        return refused.map(Body::new);
    }
    let body = timeout(FORM_TIMEOUT, Limited::new(body, MAX_FORM).collect()).await;
    let Ok(Ok(body)) = body else {
        // It is too long, too slow or cut off.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let answer = inspector.answer(&parts, body.to_bytes()).await;
    answer.map(Body::new)
}

/// The deliveries of this run.
struct ListenSource(Arc<Sender>);

impl Source for ListenSource {
    fn name(&self) -> String {
        "authpi listen".to_owned()
    }

    fn tabs(&self) -> &[Tab] {
        &[Tab::Deliveries]
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.0.session.changes()
    }

    fn event_types(&self) -> Vec<String> {
        self.0.session.event_types()
    }

    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<&str>,
    ) -> std::result::Result<Page<DeliveryRow>, Problem> {
        let Sender {
            session, target, ..
        } = &*self.0;
        Ok(session.list(filter, before, &target.shown()))
    }

    async fn delivery(&self, id: &str) -> std::result::Result<Delivery, Problem> {
        let tracked = self.0.session.get(id);
        let tracked = tracked.ok_or_else(|| Problem::not_found("delivery"))?;
        let row = tracked.row(&self.0.target.shown());
        let progress = tracked.progress();
        let ended = progress.attempts - progress.running as usize;
        let is_missing = ended > progress.recorded.len();
        Ok(Delivery {
            row,
            recorded: progress.recorded.iter().cloned().collect(),
            missing: is_missing.then(|| MISSING.to_owned()),
        })
    }

    async fn resend(&self, id: &str) -> std::result::Result<(), Problem> {
        let tracked = self.0.session.get(id);
        let tracked = tracked.ok_or_else(|| Problem::not_found("delivery"))?;
        let sender = self.0.clone();
        tokio::spawn(async move {
            // An error is ignored: if standard output is closed, the next planned attempt fails
            // too, and ends the program.
            let _ = sender.attempt(&tracked, true).await;
        });
        Ok(())
    }
}
