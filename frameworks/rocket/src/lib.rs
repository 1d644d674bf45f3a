#![doc = include_str!("../README.md")]

use std::io::{self, Cursor};

use authpi_sdk::{Event, Receiver, receiver::Authenticator, signature::Verified};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use rocket::{
    Data, Request, Response, Route,
    data::{self, ByteUnit, FromData},
    http::{Header, Method as RouteMethod, Status},
    outcome::Outcome,
    response::{self, Responder},
    route::{self, Handler},
};
use tokio_util::io::ReaderStream;

/// A receiver as routes, for `mount`. It also answers methods other than POST.
#[derive(Clone, Debug)]
pub struct Hook {
    receiver: Receiver,
}

impl Hook {
    /// Mounts this receiver.
    pub fn new(receiver: Receiver) -> Self {
        Self { receiver }
    }

    /// Refuses new deliveries with 503 and waits for running handlers. Call it after `launch` has
    /// returned.
    pub async fn drain(&self) {
        self.receiver.drain().await;
    }
}

/// Without a route for a method, Rocket would answer with 404.
const METHODS: [RouteMethod; 9] = [
    RouteMethod::Get,
    RouteMethod::Put,
    RouteMethod::Post,
    RouteMethod::Delete,
    RouteMethod::Options,
    RouteMethod::Head,
    RouteMethod::Trace,
    RouteMethod::Connect,
    RouteMethod::Patch,
];

impl From<Hook> for Vec<Route> {
    fn from(hook: Hook) -> Self {
        let route = |method| Route::new(method, "/", hook.clone());
        METHODS.map(route).into()
    }
}

#[rocket::async_trait]
impl Handler for Hook {
    async fn handle<'r>(&self, head: &'r Request<'_>, data: Data<'r>) -> route::Outcome<'r> {
        let answer = self.receiver.receive(request(head, data)).await;
        route::Outcome::from(head, Answer::from(answer).await)
    }
}

/// The event of an authentic delivery, as a data guard. A handler that answers 200 acknowledges the
/// event, but may still receive it again.
///
/// Put the [`Authenticator`] into Rocket's managed state.
///
/// ```no_run
/// use authpi_rocket::{Refusal, VerifiedEvent};
/// use rocket::{post, routes};
///
/// #[post("/hooks/authpi", data = "<event>")]
/// fn hook(event: Result<VerifiedEvent, Refusal>) -> Result<String, Refusal> {
///     let VerifiedEvent(event) = event?;
///     Ok(event.id().to_owned())
/// }
/// # fn build(authenticator: authpi_sdk::receiver::Authenticator) -> rocket::Rocket<rocket::Build> {
/// rocket::build().manage(authenticator).mount("/", routes![hook])
/// # }
/// ```
///
/// If the argument is `event: VerifiedEvent`, a refused delivery gets the same status, but an error
/// catcher replaces body and headers, such as `Retry-After`.
#[derive(Debug)]
pub struct VerifiedEvent(pub Verified<Event>);

/// The answer to a delivery that was refused, as a responder.
#[derive(Debug)]
pub struct Refusal(Box<Answer>);

/// A receiver's answer, with its whole body.
#[derive(Debug)]
struct Answer {
    status: Status,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn from(response: http::Response<Full<Bytes>>) -> Self {
        let (head, body) = response.into_parts();
        let Ok(body) = body.collect().await;
        Self {
            status: Status::new(head.status.as_u16()),
            headers: head.headers,
            body: body.to_bytes(),
        }
    }
}

#[rocket::async_trait]
impl<'r> FromData<'r> for VerifiedEvent {
    type Error = Refusal;

    async fn from_data(head: &'r Request<'_>, data: Data<'r>) -> data::Outcome<'r, Self> {
        let Some(authenticator) = head.rocket().state::<Authenticator>() else {
            tracing::error!("no `Authenticator` is managed by Rocket");
            let answer = Answer {
                status: Status::InternalServerError,
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            return Outcome::Error((answer.status, Refusal(answer.into())));
        };
        match authenticator.authenticate(request(head, data)).await {
            Ok(event) => Outcome::Success(Self(event)),
            Err(answer) => {
                let answer = Answer::from(answer).await;
                Outcome::Error((answer.status, Refusal(answer.into())))
            }
        }
    }
}

impl<'r> Responder<'r, 'static> for Refusal {
    fn respond_to(self, head: &'r Request<'_>) -> response::Result<'static> {
        self.0.respond_to(head)
    }
}

impl<'r> Responder<'r, 'static> for Answer {
    fn respond_to(self, _: &'r Request<'_>) -> response::Result<'static> {
        let mut answer = Response::new();
        answer.set_status(self.status);
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            answer.adjoin_header(Header::new(name.to_string(), value));
        }
        answer.set_sized_body(self.body.len(), Cursor::new(self.body));
        Ok(answer)
    }
}

/// The same request in the types of `http` 1.
fn request<'r>(
    head: &Request<'_>,
    data: Data<'r>,
) -> http::Request<impl Body<Data = Bytes, Error = io::Error> + Send + use<'r>> {
    // The receiver's limit applies. With a limit of Rocket's, a longer body would seem to end at
    // that limit.
    let body = ReaderStream::new(data.open(ByteUnit::max_value()));
    let mut request = http::Request::new(StreamBody::new(body.map_ok(Frame::data)));
    // Rocket's methods and headers are valid in `http` too.
    if let Ok(method) = Method::from_bytes(head.method().as_str().as_bytes()) {
        *request.method_mut() = method;
    }
    let headers = head.headers().iter().filter_map(|header| {
        let name = HeaderName::from_bytes(header.name().as_str().as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(header.value()).ok()?))
    });
    for (name, value) in headers {
        request.headers_mut().append(name, value);
    }
    request
}
