//! The inspector page, on the emulator's own listener.

mod faults;
mod source;

use std::{net::IpAddr, sync::Arc};

use authpi_inspector::Inspector;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Empty};

use self::source::EmulatorSource;
use crate::{answer::ServerBody, state::State};

/// The path of the page.
pub(crate) const PATH: &str = "/_inspector";

/// The page of one emulator.
pub(crate) struct InspectorPage(Inspector<EmulatorSource>);

impl InspectorPage {
    /// `address` is the one that the emulator listens on.
    pub(crate) fn new(world: Arc<State>, address: IpAddr) -> Self {
        let hosts = world.sender.hosts().names();
        let mut inspector = Inspector::new(EmulatorSource(world), PATH);
        for host in hosts {
            inspector = inspector.allow_host(&host);
        }
        if !address.is_unspecified() {
            inspector = inspector.allow_host(&address.to_string());
        }
        Self(inspector)
    }

    /// Whether it answers this request.
    pub(crate) fn takes(&self, head: &request::Parts) -> bool {
        let path = head.uri.path();
        self.0.has_path(path) || (path == "/" && head.method == Method::GET)
    }

    /// Checks a request before its body is read.
    pub(crate) fn admit(&self, head: &request::Parts) -> Result<(), Box<Response<ServerBody>>> {
        let admitted = self.0.admit(head);
        admitted.map_err(|refused| Box::new(into_server(*refused)))
    }

    pub(crate) async fn answer(&self, head: &request::Parts, body: Bytes) -> Response<ServerBody> {
        if head.uri.path() == "/" {
            let mut response = into_server(Response::new(Empty::new()));
            *response.status_mut() = StatusCode::SEE_OTHER;
            let to = HeaderValue::from_static("/_inspector/");
            response.headers_mut().insert(header::LOCATION, to);
            return response;
        }
        let response = self.0.answer(head, body).await;
        into_server(response)
    }

    /// Ends the event streams.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

/// The response of a body that cannot fail.
fn into_server<B>(response: Response<B>) -> Response<ServerBody>
where
    B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}
