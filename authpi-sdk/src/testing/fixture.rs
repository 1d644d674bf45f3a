use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Recording, RecordingError};
use crate::{
    UnixMillis,
    event::{Event, EventType, KnownEvent},
    signature::{Secret, SignError, SignatureScheme, Verified},
};

/// A delivery for tests: the example of AuthPI's guide, with an event of the given type.
///
/// The same fixture always has the same bytes. The event id is `evt_` and the type's name.
#[derive(Debug, Clone)]
#[must_use]
pub struct Fixture {
    event_type: EventType,
    id: String,
    time: Timestamp,
    subject: Map<String, Value>,
    data: Value,
    /// The bytes of a recorded delivery, as long as nothing is changed.
    recorded: Option<Bytes>,
}

/// A verified event of type `K`, as created by [`Fixture::of`].
pub fn fixture<K: KnownEvent>() -> Verified<Event> {
    Fixture::of::<K>().verified()
}

impl Fixture {
    /// An event of type `K`.
    pub fn of<K: KnownEvent>() -> Self {
        Self::new(K::TYPE)
    }

    /// An event of any type, known or not, with plausible data and a subject. Its time is now, to
    /// the second.
    pub fn new(event_type: impl Into<EventType>) -> Self {
        let event_type = event_type.into();
        let name = event_type.as_str().to_owned();
        let about = name.split('.').next().unwrap_or_default();
        let (member, prefix) = match about {
            "user" | "auth" | "email" => ("user_id", "usr"),
            "session" => ("session_id", "ses"),
            "organization" => ("org_id", "org"),
            "client" | "machine" => ("client_id", "c"),
            "issuer" => ("issuer_id", "i"),
            "api-key" => ("key_id", "key"),
            "agent" => ("agent_id", "agt"),
            "webhook" => ("webhook_id", "wh"),
            _ => ("account_id", "acc"),
        };
        let id = format!("{prefix}_0123456789abcdefghijklmno");
        let data = match about {
            "user" => {
                json!({ "id": id, "username_type": "email", "username": "ada@example.com", "status": "active" })
            }
            _ => json!({ "id": id, "name": "Example", "status": "active" }),
        };
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        Self {
            id: format!("evt_{name}"),
            event_type,
            time: now,
            subject: Map::from_iter([(member.to_owned(), id.into())]),
            data,
            recorded: None,
        }
    }

    /// A recorded delivery ([`Recording`]): its exact bytes, until something is changed.
    ///
    /// # Errors
    /// When the file cannot be read, is not a recording, or does not hold a readable event.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let body = Recording::read(path)?.body;
        let event = Event::from_json(body.clone())
            .map_err(|error| RecordingError::new(format!("it does not hold an event: {error}")))?;
        let data = event
            .raw_data()
            .and_then(|data| serde_json::from_str(data).ok());
        let subject = event
            .subject()
            .iter()
            .map(|(name, id)| (name.to_owned(), Value::from(id)))
            .collect();
        Ok(Self {
            event_type: event.event_type().clone(),
            id: event.id().to_owned(),
            time: event.time(),
            subject,
            data: data.unwrap_or_default(),
            recorded: Some(body),
        })
    }

    /// Sets the event's id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.recorded = None;
        self.id = id.into();
        self
    }

    /// Sets the time of the event and of the delivery.
    pub fn time(mut self, time: Timestamp) -> Self {
        self.recorded = None;
        self.time = time;
        self
    }

    /// Sets a member of the subject.
    pub fn subject(mut self, member: impl Into<String>, id: impl Into<String>) -> Self {
        self.recorded = None;
        self.subject.insert(member.into(), Value::String(id.into()));
        self
    }

    /// Replaces `data`.
    pub fn data(mut self, data: Value) -> Self {
        self.recorded = None;
        self.data = data;
        self
    }

    /// The body of the delivery.
    pub fn body(&self) -> Bytes {
        if let Some(recorded) = &self.recorded {
            return recorded.clone();
        }
        let delivery = json!({
            "id": format!("delivery-of-{}", self.id),
            "specversion": "1.0",
            "source": "com.authpi.webhooks/v1/wh_fixture",
            "type": "event",
            "datacontenttype": "application/json",
            "time": self.time.to_string(),
            "data": {
                "id": self.id,
                "type": self.event_type.as_str(),
                "trace": "trace-of-a-fixture",
                "source": "com.authpi/v1",
                "timestamp": UnixMillis::from(self.time),
                "subject": self.subject,
                "data": self.data,
            },
        });
        delivery.to_string().into()
    }

    /// The event, as if it came through a verifier.
    ///
    /// # Panics
    /// When the fixture has an empty id or type.
    #[expect(clippy::expect_used, reason = "for tests, as documented")]
    pub fn verified(&self) -> Verified<Event> {
        let event = Event::from_json(self.body())
            .expect("a fixture with an id and a type is a readable event");
        Verified::new(event, Some("fixture".into()))
    }

    /// The delivery as a signed POST of `/`.
    ///
    /// # Errors
    /// When the secret does not have the form that the scheme requires.
    pub fn request(
        &self,
        scheme: &SignatureScheme,
        secret: &Secret,
    ) -> Result<Request<Full<Bytes>>, SignError> {
        signed_request(scheme, secret, self.body())
    }
}

/// A signed POST of `/` with any body.
///
/// # Errors
/// When the secret does not have the form that the scheme requires.
pub fn signed_request(
    scheme: &SignatureScheme,
    secret: &Secret,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, SignError> {
    let signature = scheme.sign(secret, "msg_fixture", Timestamp::now(), &body)?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    request.headers_mut().extend(signature);
    request.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/cloudevents+json"),
    );
    Ok(request)
}
