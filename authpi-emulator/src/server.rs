//! HTTP connections, and the steps from a request to its response.
//!
//! ```text
//! request -> operation -> credentials -> account -> headers -> body (cap, timeout) -> idempotency key -> query, body -> operation -> answer
//! ```

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    answer::{Answer, ServerBody},
    assumptions,
    credentials::Caller,
    error::ApiError,
    faults::{self, CallFault},
    idempotency::Claim,
    openapi::Operation,
    operations,
    state::State,
    trigger,
};

/// How long a stopping server waits for requests in progress, and how long a response waits for the
/// rest of the request's body.
const GRACE: Duration = Duration::from_secs(1);

/// What is served.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) world: Arc<State>,
    /// The page, if it is on.
    #[cfg(feature = "inspector")]
    pub(crate) page: Option<Arc<crate::inspector::InspectorPage>>,
}

/// Serves until stopped. Then it waits briefly for requests in progress, and cancels the rest.
pub(crate) async fn run(served: Served, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let for_connections = stop.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < assumptions::MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    // Small responses should not wait for an acknowledgement. Without this they are
                    // only slower.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(served.clone(), TokioIo::new(stream), for_connections.clone()));
                }
                // The process has no file descriptors left, or the peer has gone: the next one may
                // succeed.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    #[cfg(feature = "inspector")]
    if let Some(page) = &served.page {
        page.close();
    }
    let all_over = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, all_over).await;
}

/// Also resolves when the sender is dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve(
    served: Served,
    io: TokioIo<tokio::net::TcpStream>,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let served = served.clone();
        async move { respond(served, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopped(&mut stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Connection errors are ignored.
    let _ = connection.await;
}

/// The emulator's own endpoints.
enum Control {
    Events,
    Faults,
}

/// What is known of a request without its body.
enum Admitted {
    Control(Control),
    Call {
        operation: &'static Operation,
        path: BTreeMap<String, String>,
        caller: Caller,
    },
}

/// An error closes the connection without a response: a fault.
async fn respond(
    served: Served,
    request: Request<Incoming>,
) -> Result<Response<ServerBody>, io::Error> {
    let (parts, body) = request.into_parts();
    #[cfg(feature = "inspector")]
    if let Some(page) = &served.page
        && page.takes(&parts)
    {
        if let Err(refused) = page.admit(&parts) {
            tokio::spawn(discard(body));
            return Ok(*refused);
        }
        return Ok(match read_in_time(&served.world, body).await {
            Ok(body) => page.answer(&parts, body).await,
            Err(problem) => Answer::from(problem).into_response(),
        });
    }
    let Handled { answer, fault } = handle(served.world, parts, body).await;
    match fault {
        Some(CallFault::DropAnswer) => Err(io::Error::other("the fault plan drops the response")),
        Some(CallFault::CutAnswer) => Ok(answer.into_cut_response()),
        _ => Ok(answer.into_response()),
    }
}

/// A response, and the fault that it meets on its way.
struct Handled {
    answer: Answer,
    fault: Option<CallFault>,
}

impl<A: Into<Answer>> From<A> for Handled {
    fn from(answer: A) -> Self {
        Self {
            answer: answer.into(),
            fault: None,
        }
    }
}

async fn handle(world: Arc<State>, parts: request::Parts, body: Incoming) -> Handled {
    // Only bodies of authenticated callers are kept.
    let admitted = match admit(&world, &parts) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tokio::spawn(discard(body));
            return (*refusal).into();
        }
    };
    let fault = match &admitted {
        Admitted::Call { operation, .. } => world.faults.of_call(&operation.id),
        Admitted::Control(_) => None,
    };
    if let Some(answer) = fault.as_ref().and_then(instead) {
        tokio::spawn(discard(body));
        return answer.into();
    }
    if fault == Some(CallFault::Stall) {
        // Until the caller gives up, or the emulator stops.
        return std::future::pending().await;
    }
    let body = match read_in_time(&world, body).await {
        Ok(body) => body,
        Err(problem) => return problem.into(),
    };
    // In its own task, so that a caller that hangs up does not leave its call half done.
    let answered = tokio::spawn(async move { answer(&world, admitted, &parts, body).await }).await;
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(problem)) => problem.into(),
        Err(_) => ApiError::internal("the emulator has a defect: the operation panicked").into(),
    };
    Handled { answer, fault }
}

/// The response of a fault that performs nothing.
fn instead(fault: &CallFault) -> Option<Answer> {
    let (status, json) = match fault {
        CallFault::TooManyRequests { json, .. } => (StatusCode::TOO_MANY_REQUESTS, *json),
        CallFault::Error { status, json } => (StatusCode::from_u16(*status).ok()?, *json),
        CallFault::Redirect { to } => {
            let answer = Answer::empty(StatusCode::TEMPORARY_REDIRECT);
            let to = HeaderValue::from_str(to).ok()?;
            return Some(answer.with_header(header::LOCATION, to));
        }
        _ => return None,
    };
    let answer = if json {
        ApiError::new(status, "injected_fault", "the fault plan says so").into()
    } else {
        Answer::text(status, "<html><body>the fault plan says so</body></html>\n")
    };
    Some(match fault {
        CallFault::TooManyRequests { retry_after, .. } => {
            answer.with_header(header::RETRY_AFTER, HeaderValue::from(*retry_after))
        }
        _ => answer,
    })
}

fn admit(world: &State, parts: &request::Parts) -> Result<Admitted, Box<Answer>> {
    let refusal = |problem| Box::new(Answer::from(problem));
    let path = parts.uri.path();
    let control = match path {
        trigger::PATH => Some((Control::Events, &[Method::POST][..])),
        faults::PATH => Some((
            Control::Faults,
            &[Method::GET, Method::PUT, Method::DELETE][..],
        )),
        _ => None,
    };
    if let Some((control, methods)) = control {
        operations::control::admit(world, parts, methods).map_err(refusal)?;
        return Ok(Admitted::Control(control));
    }
    let (operation, path) = world
        .description
        .find(&parts.method, path)
        .map_err(refusal)?;
    let within = || -> Result<Caller, ApiError> {
        let caller = world.account.authenticate(&parts.headers)?;
        if let Some(account_id) = path.get("account_id") {
            world.account.check_account(account_id)?;
        }
        operation.check_headers(&parts.headers)?;
        Ok(caller)
    };
    match within() {
        Ok(caller) => Ok(Admitted::Call {
            operation,
            path,
            caller,
        }),
        Err(problem) => Err(checked(operation, problem.into())
            .unwrap_or_else(Answer::from)
            .into()),
    }
}

/// Reads a body, up to the limits of its size and time.
async fn read_in_time(world: &State, body: Incoming) -> Result<Bytes, ApiError> {
    let Ok(body) = tokio::time::timeout(world.body_timeout, read(body)).await else {
        let text = format!("the body did not arrive within {:?}", world.body_timeout);
        let status = StatusCode::REQUEST_TIMEOUT;
        return Err(ApiError::new(status, "invalid_request", text));
    };
    body
}

/// Reads a body, up to the size limit.
async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    let too_large = || {
        let text = format!("a body may have {} bytes", assumptions::MAX_REQUEST);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", text)
    };
    if body.size_hint().lower() > assumptions::MAX_REQUEST as u64 {
        return Err(too_large());
    }
    match Limited::new(body, assumptions::MAX_REQUEST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::malformed("the body was cut off", Vec::new())),
    }
}

/// Discards a body for a moment: a caller that is still sending may not read the response
/// otherwise.
async fn discard(mut body: Incoming) {
    let all = async {
        let mut left = assumptions::MAX_REQUEST;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else {
                return;
            };
            left = rest;
        }
    };
    let _ = tokio::time::timeout(GRACE, all).await;
}

async fn answer(
    world: &Arc<State>,
    admitted: Admitted,
    parts: &request::Parts,
    body: Bytes,
) -> Result<Answer, ApiError> {
    match admitted {
        Admitted::Control(Control::Events) => operations::control::answer(world, parts, &body),
        Admitted::Control(Control::Faults) => faults::answer(&world.faults, parts, &body),
        Admitted::Call {
            operation,
            path,
            caller,
        } => {
            let answer = perform(world, operation, caller, path, parts, body).await;
            checked(operation, answer.unwrap_or_else(Answer::from))
        }
    }
}

/// The emulator must not return what AuthPI never would. (A replay was checked when it was stored.)
fn checked(operation: &Operation, answer: Answer) -> Result<Answer, ApiError> {
    let replayed = answer.headers().contains_key("idempotent-replayed");
    match operation.check_answer(answer.status(), answer.body()) {
        Some(defect) if !replayed => Err(ApiError::internal(format!(
            "the emulator has a defect: {defect}"
        ))),
        _ => Ok(answer),
    }
}

async fn perform(
    world: &Arc<State>,
    operation: &Operation,
    caller: Caller,
    path: BTreeMap<String, String>,
    parts: &request::Parts,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let key = match parts.headers.get("idempotency-key") {
        Some(key) if operation.takes_idempotency_key() => {
            Some(String::from_utf8_lossy(key.as_bytes()).into_owned())
        }
        _ => None,
    };
    let ticket = match key {
        None => None,
        Some(key) => {
            match world
                .replays
                .claim(&key, parts.uri.path(), &body, world.clock.millis())?
            {
                Claim::Run(ticket) => Some(ticket),
                Claim::Replay(answer) => return Ok(answer),
            }
        }
    };
    let request = operations::Request {
        caller,
        query: operation.check_query(parts.uri.query().unwrap_or_default())?,
        body: operation.check_body(&parts.headers, &body)?,
        headers: &parts.headers,
        path,
    };
    let answer = operations::perform(world, operation.call, request).await?;
    if let Some(ticket) = ticket {
        ticket.answered(&answer);
        // The state file also holds the answers to calls with an idempotency key, so it is written
        // again.
        world.changed();
    }
    Ok(answer)
}
