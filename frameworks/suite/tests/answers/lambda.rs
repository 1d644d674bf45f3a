//! AWS Lambda: the function runs against a stand-in of Lambda's runtime API.
//!
//! The stand-in is also the gateway. It turns an HTTP request into an event of API Gateway's HTTP
//! API (payload format 2.0), which the function asks for, and the function's response into an
//! answer.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use frameworks::scenarios::{MAX_BODY, SCENARIOS, Scenario};
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use crate::{
    assert_scenario,
    servers::{Server, Task, serve_axum},
};

/// What Lambda itself accepts: 6 MB.
const MOST: usize = 6_000_000;

/// Where the function's response is awaited; its error is a text.
type Answered = oneshot::Sender<Result<Value, String>>;

/// A request that waits for the function, or for its response.
struct Invocation {
    event: Value,
    answer: Answered,
}

#[derive(Clone)]
struct Lambda {
    queue: mpsc::Sender<Invocation>,
    waiting: Arc<AsyncMutex<mpsc::Receiver<Invocation>>>,
    /// One at a time, as in Lambda.
    running: Arc<Mutex<Option<Answered>>>,
}

async fn next(State(lambda): State<Lambda>) -> Response {
    let Some(invocation) = lambda.waiting.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    *lambda.running.lock().unwrap() = Some(invocation.answer);
    let deadline = jiff::Timestamp::now().as_millisecond() + 60_000;
    let headers = [
        ("lambda-runtime-aws-request-id", "request-1".to_owned()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-central-1:1:function:hook".to_owned(),
        ),
        ("lambda-runtime-trace-id", "Root=1-0-0".to_owned()),
    ];
    (headers, invocation.event.to_string()).into_response()
}

async fn ended(
    State(lambda): State<Lambda>,
    Path((_, end)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    let answer = lambda
        .running
        .lock()
        .unwrap()
        .take()
        .expect("a response without an invocation");
    let result = match &*end {
        "response" => serde_json::from_slice(&body).map_err(|error| error.to_string()),
        _ => Err(String::from_utf8_lossy(&body).into_owned()),
    };
    // The sender of the request may have gone.
    let _ = answer.send(result);
    StatusCode::ACCEPTED
}

async fn gateway(State(lambda): State<Lambda>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MOST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let headers: serde_json::Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    let event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": head.uri.path(),
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "accountId": "1", "apiId": "api", "domainName": "localhost", "domainPrefix": "api",
            "http": {
                "method": head.method.as_str(), "path": head.uri.path(), "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1", "userAgent": "test",
            },
            "requestId": "request-1", "routeKey": "$default", "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000", "timeEpoch": 1_767_225_600_000_i64,
        },
        "body": String::from_utf8(body.to_vec()).unwrap(),
        "isBase64Encoded": false,
    });
    let (answer, answered) = oneshot::channel();
    lambda
        .queue
        .send(Invocation { event, answer })
        .await
        .unwrap();
    let response = match answered.await.unwrap() {
        Ok(response) => response,
        Err(error) => return (StatusCode::BAD_GATEWAY, error).into_response(),
    };
    assert_eq!(response["isBase64Encoded"], false, "a text is sent as one");
    let status = u16::try_from(response["statusCode"].as_u64().unwrap()).unwrap();
    let headers: HeaderMap = response["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            (
                name.parse().unwrap(),
                value.as_str().unwrap().parse().unwrap(),
            )
        })
        .collect::<Vec<_>>()
        .into_iter()
        .collect();
    // Not a `String`, for which axum would add a content type.
    let body = Body::from(response["body"].as_str().unwrap_or_default().to_owned());
    (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
}

/// A function with its stand-in.
struct Function {
    stand_in: Task,
    child: Child,
}

impl Function {
    async fn start(scenario: &Scenario) -> Self {
        let (queue, waiting) = mpsc::channel(16);
        let lambda = Lambda {
            queue,
            waiting: Arc::new(AsyncMutex::new(waiting)),
            running: Arc::default(),
        };
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{end}", post(ended))
            .fallback(gateway)
            .with_state(lambda);
        let stand_in = serve_axum(app).await;
        let child = Command::new(env!("CARGO_BIN_EXE_lambda_scenario"))
            .arg(scenario.name)
            .env("AWS_LAMBDA_RUNTIME_API", stand_in.address().to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "hook")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "stream")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "group")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { stand_in, child }
    }
}

impl Server for Function {
    fn address(&self) -> SocketAddr {
        self.stand_in.address()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers() {
    const { assert!(MAX_BODY < MOST, "the receiver's limit is reached first") };
    for scenario in SCENARIOS {
        let function = Function::start(scenario).await;
        assert_scenario(scenario, &function).await;
    }
}
