//! Receivers with requests, and the answer that each of them gets in every framework.
//!
//! The answers are the golden files of the SDK's own tests, `tests/golden/answers`.

use std::time::Duration;

use authpi_sdk::{
    HandlerError, HandlerResult, Handlers, KeyRing, Receiver, Verifier,
    event::{
        Event,
        types::{UserCreated, UserUpdated},
    },
    ledger::{
        Claim, Completion, Digest, EventKey, LeaseStatus, Ledger, LedgerError, LedgerErrorKind,
        Token,
    },
    receiver::{Inline, ReceiverBuilder},
    signature::SignatureScheme,
    stores::Memory,
    testing::{Fixture, signed_request},
};
use bytes::Bytes;
use http::Method;
use jiff::{SignedDuration, Timestamp};

/// The secret of all receivers.
pub const SECRET: &str = "whs_0123456789abcdef";
/// The largest body that they accept.
pub const MAX_BODY: usize = 64 << 10;

/// A request, and how it is sent.
pub struct Sent {
    /// The method.
    pub method: Method,
    /// Headers, besides those of the connection and of the body's length.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// How the body arrives.
    pub body_arrives: Arrives,
}

/// How a body arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrives {
    /// At once.
    Whole,
    /// In chunks of this size, without a `Content-Length`.
    Chunked(usize),
    /// Only this many bytes of it. The connection stays open.
    Stalls(usize),
    /// Only this many bytes of it. Then the sender hangs up.
    HangsUp(usize),
}

impl Sent {
    /// A signed delivery.
    ///
    /// # Panics
    /// Never: the secret suits the scheme.
    pub fn signed(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let request = signed_request(&SignatureScheme::authpi(), &SECRET.into(), body.clone());
        let (head, _) = request.expect("the secret suits the scheme").into_parts();
        let headers = head
            .headers
            .iter()
            .filter(|(name, _)| *name != "content-length");
        Self {
            method: head.method,
            headers: headers
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect(),
            body: body.to_vec(),
            body_arrives: Arrives::Whole,
        }
    }

    /// A `user.created` event with this id.
    pub fn created(id: &str) -> Self {
        Self::signed(Fixture::of::<UserCreated>().id(id).body())
    }

    /// A `user.created` event with a large body.
    pub fn large(id: &str, bytes: usize) -> Self {
        let data = serde_json::json!({ "username": "x".repeat(bytes) });
        Self::signed(Fixture::of::<UserCreated>().id(id).data(data).body())
    }

    /// Sets how the body arrives.
    #[must_use]
    pub fn arrives(mut self, body_arrives: Arrives) -> Self {
        self.body_arrives = body_arrives;
        self
    }

    fn method(method: Method) -> Self {
        Self {
            method,
            ..Self::created("evt_1")
        }
    }

    fn unsigned() -> Self {
        Self {
            headers: Vec::new(),
            ..Self::created("evt_1")
        }
    }

    fn forged() -> Self {
        let body = Fixture::of::<UserCreated>()
            .id("evt_forged")
            .body()
            .to_vec();
        Self {
            body,
            ..Self::created("evt_1")
        }
    }

    fn days_ago(days: i64) -> Self {
        let time = Timestamp::now() - SignedDuration::from_hours(24 * days);
        Self::signed(
            Fixture::of::<UserCreated>()
                .id(format!("evt_{days}"))
                .time(time)
                .body(),
        )
    }
}

/// A receiver, and requests that are sent to it one after another.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    receiver: fn() -> ReceiverBuilder<Inline>,
    drained: bool,
    /// The requests, each with the name of the golden file of its answer.
    pub steps: fn() -> Vec<(Sent, &'static str)>,
}

impl Scenario {
    /// The scenario of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Builds the receiver.
    ///
    /// # Panics
    /// Never: the settings are valid.
    pub async fn receiver(&self) -> Receiver {
        let receiver = (self.receiver)().build().expect("the settings are valid");
        if self.drained {
            receiver.drain().await;
        }
        receiver
    }
}

/// The scenarios that need nothing but a sender.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "handled",
        receiver: || handling(Odd::new(), || Ok(())),
        drained: false,
        steps: || {
            vec![
                (Sent::created("evt_1"), "handled"),
                (Sent::created("evt_1"), "duplicate"),
                (
                    Sent::created("evt_2").arrives(Arrives::Chunked(7)),
                    "handled",
                ),
                (Sent::large("evt_3", 50_000), "handled"),
                (
                    Sent::large("evt_4", 50_000).arrives(Arrives::Chunked(4096)),
                    "handled",
                ),
            ]
        },
    },
    Scenario {
        name: "not handled",
        receiver: || handling(Odd::new(), || Ok(())),
        drained: false,
        steps: || {
            vec![(
                Sent::signed(Fixture::of::<UserUpdated>().body()),
                "unhandled",
            )]
        },
    },
    Scenario {
        name: "failing",
        receiver: || handling(Odd::new(), || Err(HandlerError::retryable("busy"))),
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "failed")],
    },
    Scenario {
        name: "failing with a pause",
        receiver: || {
            let pause = Duration::from_millis(61_500);
            handling(Odd::new(), move || {
                Err(HandlerError::retryable("busy").after(pause))
            })
        },
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "failed-with-a-pause")],
    },
    Scenario {
        name: "panicking",
        receiver: || handling(Odd::new(), || panic!("a bug in a handler")),
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "failed")],
    },
    Scenario {
        name: "dead letters",
        receiver: || {
            handling(Odd::new().keeping(), || {
                Err(HandlerError::terminal("no such user"))
            })
        },
        drained: false,
        steps: || {
            vec![
                (Sent::created("evt_1"), "dead-letter"),
                (Sent::created("evt_1"), "duplicate"),
                (Sent::signed("not json"), "dead-letter"),
            ]
        },
    },
    Scenario {
        name: "no dead letters",
        receiver: || handling(Odd::new(), || Err(HandlerError::terminal("no such user"))),
        drained: false,
        steps: || {
            vec![
                (Sent::created("evt_1"), "cannot-keep"),
                (Sent::signed("not json"), "unreadable"),
                (Sent::signed(""), "unreadable"),
            ]
        },
    },
    Scenario {
        name: "dropping",
        receiver: || {
            handling(Odd::new(), || Err(HandlerError::terminal("no such user")))
                .drop_terminal_failures()
        },
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "dropped")],
    },
    Scenario {
        name: "claimed by another",
        receiver: || {
            handling(Odd::new().refusing(Claims::InFlight), || Ok(()))
                .in_flight_wait(Duration::ZERO)
        },
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "in-flight")],
    },
    Scenario {
        name: "losing its lease",
        receiver: || handling(Odd::new().losing(), || Ok(())),
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "lease-lost")],
    },
    Scenario {
        name: "store unreachable",
        receiver: || {
            handling(
                Odd::new().refusing(Claims::Fail(LedgerErrorKind::Unreachable)),
                || Ok(()),
            )
        },
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "store-down")],
    },
    Scenario {
        name: "content refused",
        receiver: || {
            handling(
                Odd::new().refusing(Claims::Fail(LedgerErrorKind::Content)),
                || Ok(()),
            )
        },
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "content-refused")],
    },
    Scenario {
        name: "old deliveries",
        receiver: || handling(Odd::new(), || Ok(())),
        drained: false,
        steps: || {
            vec![
                (Sent::days_ago(40), "clock-unsure"),
                (Sent::days_ago(0), "handled"),
                (Sent::days_ago(40), "expired"),
            ]
        },
    },
    Scenario {
        name: "drained",
        receiver: || handling(Odd::new(), || Ok(())),
        drained: true,
        steps: || vec![(Sent::created("evt_1"), "draining")],
    },
    Scenario {
        name: "refusing",
        receiver: || handling(Odd::new(), || panic!("a refused delivery was handled")),
        drained: false,
        steps: || {
            vec![
                (Sent::unsigned(), "unauthorized"),
                (Sent::forged(), "unauthorized"),
                (Sent::method(Method::GET), "not-post"),
                (Sent::method(Method::PUT), "not-post"),
                (Sent::method(Method::DELETE), "not-post"),
                (Sent::large("evt_1", MAX_BODY), "too-large"),
                (
                    Sent::large("evt_1", MAX_BODY).arrives(Arrives::Chunked(4096)),
                    "too-large",
                ),
            ]
        },
    },
    Scenario {
        name: "without a secret",
        receiver: || {
            let expired = KeyRing::new().with_during("gone", SECRET, ..Timestamp::UNIX_EPOCH);
            receiving(Odd::new(), Verifier::authpi(expired), || Ok(()))
        },
        drained: false,
        steps: || vec![(Sent::created("evt_1"), "no-secret")],
    },
];

/// A receiver whose only handler returns this result.
pub fn handling(
    ledger: impl Ledger,
    result: impl Fn() -> HandlerResult + Send + Sync + 'static,
) -> ReceiverBuilder<Inline> {
    receiving(ledger, verifier(), result)
}

/// The verifier of all receivers.
pub fn verifier() -> Verifier {
    Verifier::authpi(KeyRing::new().with("test", SECRET)).max_body(MAX_BODY)
}

fn receiving(
    ledger: impl Ledger,
    verifier: Verifier,
    result: impl Fn() -> HandlerResult + Send + Sync + 'static,
) -> ReceiverBuilder<Inline> {
    let handlers = Handlers::new(()).on(move |_: Event<UserCreated>, _| {
        let result = result();
        async move { result }
    });
    Receiver::inline("users", verifier, ledger, handlers)
}

/// A ledger in memory that can be told to misbehave.
#[derive(Clone)]
pub struct Odd {
    memory: Memory,
    keeps_dead_letters: bool,
    refuses: Option<Claims>,
    loses: bool,
}

#[derive(Clone, Copy)]
enum Claims {
    InFlight,
    Fail(LedgerErrorKind),
}

impl Odd {
    /// One that behaves well.
    #[expect(clippy::new_without_default, reason = "for tests")]
    pub fn new() -> Self {
        Self {
            memory: Memory::new(),
            keeps_dead_letters: false,
            refuses: None,
            loses: false,
        }
    }

    fn keeping(self) -> Self {
        Self {
            keeps_dead_letters: true,
            ..self
        }
    }

    fn refusing(self, claims: Claims) -> Self {
        Self {
            refuses: Some(claims),
            ..self
        }
    }

    fn losing(self) -> Self {
        Self {
            loses: true,
            ..self
        }
    }
}

impl Ledger for Odd {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        match self.refuses {
            None => self.memory.claim(key, digest, lease).await,
            Some(Claims::InFlight) => Ok(Claim::InFlight { lease_left: lease }),
            Some(Claims::Fail(kind)) => Err(LedgerError::new("claim", "refused").with_kind(kind)),
        }
    }
    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.memory.renew(key, token, lease).await
    }
    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        if self.loses {
            self.memory.forget(key).await?;
        }
        self.memory.complete(key, token, completion).await
    }
    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.memory.release(key, token, pause).await
    }
    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        self.memory.forget(key).await
    }
    fn keeps_dead_letters(&self) -> bool {
        self.keeps_dead_letters
    }
    fn retention(&self) -> Duration {
        Ledger::retention(&self.memory)
    }
}
