#![doc = include_str!("../README.md")]

use std::{
    future::{Future, ready},
    pin::Pin,
};

use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse,
    dev::Payload,
    error::{InternalError, PayloadError},
    http::StatusCode,
    web,
};
use authpi_sdk::{Event, Receiver, receiver::Authenticator, signature::Verified};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::runtime::Handle;

/// A future that stays on its worker's thread.
type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// A receiver as a handler, for `web::to`. It also answers methods other than POST.
#[derive(Clone, Debug)]
pub struct Hook {
    receiver: Receiver,
}

impl Hook {
    /// Mounts this receiver. Its handlers run on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(receiver: Receiver) -> Self {
        Self {
            receiver: receiver.on_runtime(Handle::current()),
        }
    }

    /// Refuses new deliveries with 503 and waits for running handlers. Call it after the server has
    /// ended.
    pub async fn drain(&self) {
        self.receiver.drain().await;
    }
}

impl Handler<(HttpRequest, web::Payload)> for Hook {
    type Output = HttpResponse;
    type Future = Local<HttpResponse>;

    fn call(&self, (head, payload): (HttpRequest, web::Payload)) -> Self::Future {
        let receiver = self.receiver.clone();
        Box::pin(async move { answer(receiver.receive(request(&head, payload)).await).await })
    }
}

/// The event of an authentic delivery, as an extractor. A handler that answers 200 acknowledges the
/// event, but may still receive it again.
///
/// Put the [`Authenticator`] into `app_data`, as it is or in a [`web::Data`].
///
/// ```
/// use actix_web::{App, HttpServer, web};
/// use authpi_actix_web::VerifiedEvent;
///
/// async fn hook(VerifiedEvent(event): VerifiedEvent) -> String {
///     event.id().to_owned()
/// }
/// # async fn serve(authenticator: authpi_sdk::receiver::Authenticator) -> std::io::Result<()> {
/// let app = move || App::new().app_data(authenticator.clone()).route("/hooks/authpi", web::post().to(hook));
/// HttpServer::new(app).bind("0.0.0.0:8080")?.run().await
/// # }
/// ```
#[derive(Debug)]
pub struct VerifiedEvent(pub Verified<Event>);

impl FromRequest for VerifiedEvent {
    type Error = actix_web::Error;
    type Future = Local<Result<Self, Self::Error>>;

    fn from_request(head: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let data = head.app_data::<web::Data<Authenticator>>();
        let found = data.map(web::Data::get_ref);
        let Some(authenticator) = found.or_else(|| head.app_data()).cloned() else {
            tracing::error!("no `Authenticator` is in `app_data`");
            let error = "no `Authenticator` is in `app_data`";
            return Box::pin(ready(Err(actix_web::error::ErrorInternalServerError(
                error,
            ))));
        };
        let request = request(head, payload.take());
        Box::pin(async move {
            match authenticator.authenticate(request).await {
                Ok(event) => Ok(Self(event)),
                Err(refusal) => Err(InternalError::from_response(
                    "the delivery was refused",
                    answer(refusal).await,
                )
                .into()),
            }
        })
    }
}

/// The same request in the types of `http` 1.
fn request<S>(
    head: &HttpRequest,
    payload: S,
) -> Request<StreamBody<impl Stream<Item = Result<Frame<Bytes>, PayloadError>> + use<S>>>
where
    S: Stream<Item = Result<Bytes, PayloadError>>,
{
    let mut request = Request::new(StreamBody::new(payload.map_ok(Frame::data)));
    // Both versions of `http` accept the same methods and headers.
    if let Ok(method) = Method::from_bytes(head.method().as_str().as_bytes()) {
        *request.method_mut() = method;
    }
    let headers = head.headers().iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    });
    for (name, value) in headers {
        request.headers_mut().append(name, value);
    }
    request
}

/// The same response in actix-web's types.
async fn answer(response: Response<Full<Bytes>>) -> HttpResponse {
    let (head, body) = response.into_parts();
    let status = StatusCode::from_u16(head.status.as_u16());
    let mut answer = HttpResponse::build(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    for (name, value) in &head.headers {
        answer.append_header((name.as_str(), value.as_bytes()));
    }
    let Ok(body) = body.collect().await;
    answer.body(body.to_bytes())
}
