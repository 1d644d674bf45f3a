#![doc = include_str!("../README.md")]

use authpi_sdk::Receiver;
use bytes::{Buf, Bytes};
use futures_util::{Stream, TryStreamExt as _};
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use warp::{Filter, Rejection};

/// A filter that passes requests of any method to the receiver. Combine it with a filter for the
/// path.
pub fn hook(
    receiver: Receiver,
) -> impl Filter<Extract = (Response<Bytes>,), Error = Rejection> + Clone + Send + Sync + 'static {
    warp::method()
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method, headers, body| receive(receiver.clone(), method, headers, body))
}

async fn receive(
    receiver: Receiver,
    method: Method,
    headers: HeaderMap,
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Response<Bytes> {
    let mut request = Request::new(StreamBody::new(body.map_ok(Frame::data)));
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    let (head, body) = receiver.receive(request).await.into_parts();
    let Ok(body) = body.collect().await;
    Response::from_parts(head, body.to_bytes())
}
