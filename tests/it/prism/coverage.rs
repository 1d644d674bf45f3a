//! What of the description was asked for: each operation, and each parameter and each member of a body that it can have.
//!
//! Requests go through a [`Recorder`] to the mock, so that what nobody thought of trying shows.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use serde_json::Value;
use tokio::net::TcpListener;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// `openapi/authpi.yaml`, as far as it says what a request may hold.
pub(super) struct Description(Value);

impl Description {
    pub(super) fn read() -> Self {
        let text = include_str!("../../../openapi/authpi.yaml");
        Self(serde_norway::from_str(text).expect("the description is YAML"))
    }

    /// One line for whatever can be asked for: `webhooks.list`, `webhooks.list query limit`, `webhooks.create body auth.type=bearer`.
    pub(super) fn can_be_asked(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for (_, method, operation, shared) in self.operations() {
            let id = id(operation);
            all.insert(id.to_owned());
            for parameter in parameters(operation).chain(parameters(shared)).map(|parameter| self.resolved(parameter)) {
                let (kind, name) = (text(parameter, "in"), text(parameter, "name"));
                match kind {
                    "path" => {}
                    "header" => drop(all.insert(format!("{id} header {}", name.to_lowercase()))),
                    _ => drop(all.insert(format!("{id} {kind} {name}"))),
                }
            }
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            assert!(body.is_null() || method != "get");
            self.members(body, &format!("{id} body "), &mut all);
        }
        all
    }

    fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value, &Value)> {
        let paths = self.0["paths"].as_object().expect("there are paths");
        paths.iter().flat_map(|(path, item)| {
            METHODS.iter().filter_map(move |method| Some((&**path, *method, item.get(*method)?, item)))
        })
    }

    fn members(&self, schema: &Value, prefix: &str, all: &mut BTreeSet<String>) {
        let schema = self.resolved(schema);
        for combined in ["allOf", "anyOf", "oneOf"] {
            for part in schema[combined].as_array().into_iter().flatten() {
                self.members(part, prefix, all);
            }
        }
        if schema.get("items").is_some() {
            self.members(&schema["items"], prefix, all);
        }
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            all.insert(match member.get("const") {
                Some(value) => format!("{prefix}{name}={}", value.as_str().expect("a tag is text")),
                None => format!("{prefix}{name}"),
            });
            self.members(member, &format!("{prefix}{name}."), all);
        }
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
            Some(pointer) => self.resolved(self.0.pointer(pointer).expect("the reference leads somewhere")),
            None => value,
        }
    }

    /// What a request has asked for, in the same lines; members of objects that the description does not look into are left out.
    fn asked(&self, request: &axum::http::request::Parts, body: &[u8]) -> BTreeSet<String> {
        let (method, path) = (request.method.as_str().to_lowercase(), request.uri.path());
        let found = self.operations().find(|(template, of, ..)| *of == method && is_of(path, template));
        let Some((.., operation, _)) = found else { return [format!("{method} {path}")].into() };
        let id = id(operation);
        let mut asked = BTreeSet::from([id.to_owned()]);
        for pair in request.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            asked.insert(format!("{id} query {}", pair.split('=').next().unwrap_or(pair)));
        }
        for name in request.headers.keys() {
            asked.insert(format!("{id} header {name}"));
        }
        if !body.is_empty() {
            written(&serde_json::from_slice(body).expect("a body is JSON"), &format!("{id} body "), &mut asked);
        }
        asked
    }
}

fn written(value: &Value, prefix: &str, asked: &mut BTreeSet<String>) {
    for (name, member) in value.as_object().into_iter().flatten() {
        asked.insert(format!("{prefix}{name}"));
        if let Some(tag) = member.as_str() {
            asked.insert(format!("{prefix}{name}={tag}"));
        }
        written(member, &format!("{prefix}{name}."), asked);
    }
}

fn id(operation: &Value) -> &str {
    text(operation, "operationId")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn parameters(of: &Value) -> impl Iterator<Item = &Value> {
    of["parameters"].as_array().into_iter().flatten()
}

fn is_of(path: &str, template: &str) -> bool {
    let (path, template) = (path.split('/'), template.split('/'));
    path.clone().count() == template.clone().count()
        && path.zip(template).all(|(step, wanted)| wanted.starts_with('{') || step == wanted)
}

/// Passes requests on, and writes down what they ask for.
pub(super) struct Recorder {
    pub(super) base_url: String,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    http: reqwest::Client,
    description: Description,
    asked: Mutex<BTreeSet<String>>,
}

impl Recorder {
    pub(super) async fn before(to: &str) -> Self {
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            http: reqwest::Client::new(),
            description: Description::read(),
            asked: Mutex::default(),
        });
        let app = Router::new().fallback(pass_on).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let base_url = format!("http://{}", listener.local_addr().expect("it has an address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { base_url, shared }
    }

    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

async fn pass_on(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (request, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("the body comes");
    let asked = shared.description.asked(&request, &body);
    shared.asked.lock().unwrap().extend(asked);
    let url = format!("{}{}", shared.to, request.uri);
    let passed = shared.http.request(request.method, url).headers(request.headers).body(body);
    let answer: axum::http::Response<reqwest::Body> = passed.send().await.expect("the mock answers").into();
    answer.map(Body::new)
}
