//! Verification, and verification with parsing, beside the crates that services use for it today.
//!
//! Each verifies deliveries signed in its own scheme, as documented; bodies are JSON of 1, 4 and 64
//! KiB. The limit is the HMAC alone, with a prepared key.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use authpi_sdk::{
    event::types::UserUpdated,
    signature::{KeyRing, SignatureScheme, Verifier},
    testing::Fixture,
};
use benches::{Case, Made, Taken, interleaved, quick, table, write_json};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::Sha256;

const SIZES: [(&str, usize); 3] = [("1 KiB", 1 << 10), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10)];
/// A prefix and base64 of 24 bytes, which all schemes accept.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Serialize)]
struct Figures {
    made: Made,
    /// For each size: the cases, and what each is compared with.
    sizes: BTreeMap<&'static str, Vec<Row>>,
    aims: Vec<Aim>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    taken: Taken,
    /// Its time over the bare HMAC's.
    over_bare_hmac: f64,
    /// Its time over ours for the same work: verify, or verify and parse.
    over_ours: Option<f64>,
}

#[derive(Serialize)]
struct Aim {
    what: String,
    figure: f64,
    met: bool,
}

fn main() {
    let made = Made::here(&[
        "authpi-sdk",
        "svix",
        "standardwebhooks",
        "workos",
        "async-stripe-webhook",
        "hmac",
        "sha2",
        "hmac-sha256",
        "aws-lc-rs",
        "serde_json",
    ]);
    println!("{made}");
    let (rounds, round) = if quick() {
        (21, Duration::from_millis(1))
    } else {
        (301, Duration::from_millis(2))
    };
    let mut sizes = BTreeMap::new();
    for (name, size) in SIZES {
        let rows = measure(size, rounds, round);
        print(name, &rows);
        sizes.insert(name, rows);
    }
    let aims = aims(&sizes);
    for aim in &aims {
        println!(
            "{}: {:.2} ({})",
            aim.what,
            aim.figure,
            if aim.met { "met" } else { "missed" }
        );
    }
    write_json("verify", &Figures { made, sizes, aims });
}

const BARE: &str = "bare HMAC (hmac + sha2, key kept)";
const OURS: &str = "authpi-sdk";
const OURS_STANDARD: &str = "authpi-sdk, Standard Webhooks scheme";
const OURS_EVENT: &str = "authpi-sdk + event";
const OURS_DATA: &str = "authpi-sdk + event + typed data";
const SVIX: &str = "svix";
const STANDARD: &str = "standardwebhooks";
const WORKOS: &str = "workos";

fn measure(size: usize, rounds: usize, round: Duration) -> Vec<Row> {
    let delivery = delivery(size);
    let text = std::str::from_utf8(&delivery).expect("JSON");

    let bare = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    let signature = bare.clone().chain_update(&delivery).finalize().into_bytes();

    let ours = Verifier::authpi(KeyRing::new().with("bench", SECRET));
    let headers = signed(&SignatureScheme::authpi(), &delivery);
    let ours_standard = Verifier::new(
        SignatureScheme::standard_webhooks(),
        KeyRing::new().with("bench", SECRET),
    );
    let standard_headers = signed(&SignatureScheme::standard_webhooks(), &delivery);

    let svix = svix::webhooks::Webhook::new(SECRET).expect("the secret");
    let standard = standardwebhooks::Webhook::new(SECRET).expect("the secret");

    let workos = workos::WebhookVerifier::new(SECRET).with_tolerance(Duration::from_hours(24));
    let workos_body = workos_delivery(size);
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis()
        .to_string();
    let workos_header = format!(
        "t={millis}, v1={}",
        workos::compute_webhook_signature(SECRET, &millis, &workos_body)
    );

    let stripe_body = stripe_delivery(size);
    let stripe_header = stripe_webhook::Webhook::generate_test_header(&stripe_body, SECRET, None);

    let value = |bytes: &[u8]| {
        serde_json::from_slice::<Value>(bytes)
            .expect("JSON")
            .as_object()
            .map_or(0, serde_json::Map::len)
    };
    let mut cases = [
        Case::new(BARE, || {
            let mac = bare.clone().chain_update(&delivery);
            mac.verify(&signature).expect("authentic");
            1
        }),
        Case::new(OURS, || {
            ours.verify(&headers, delivery.clone())
                .expect("authentic")
                .len()
        }),
        Case::new(OURS_STANDARD, || {
            ours_standard
                .verify(&standard_headers, delivery.clone())
                .expect("authentic")
                .len()
        }),
        Case::new(SVIX, || {
            svix.verify(&delivery, &standard_headers)
                .map(|()| 1)
                .expect("authentic")
        }),
        Case::new(STANDARD, || {
            standard
                .verify(&delivery, &standard_headers)
                .map(|()| 1)
                .expect("authentic")
        }),
        Case::new(WORKOS, || {
            workos
                .verify_payload(&workos_header, &workos_body)
                .expect("authentic")
                .len()
        }),
        Case::new(OURS_EVENT, || {
            let verified = ours.verify(&headers, delivery.clone()).expect("authentic");
            verified.event().expect("an event").id().len()
        }),
        Case::new(OURS_DATA, || {
            let verified = ours.verify(&headers, delivery.clone()).expect("authentic");
            let event = verified
                .event()
                .expect("an event")
                .into_inner()
                .downcast::<UserUpdated>()
                .expect("its type");
            event.data().expect("its data").id.map_or(0, |id| id.len())
        }),
        Case::new("svix + serde_json::Value", || {
            svix.verify(&delivery, &standard_headers)
                .expect("authentic");
            value(text.as_bytes())
        }),
        Case::new("standardwebhooks + serde_json::Value", || {
            standard
                .verify(&delivery, &standard_headers)
                .expect("authentic");
            value(text.as_bytes())
        }),
        Case::new("workos + its event", || {
            workos
                .construct_event(&workos_header, &workos_body)
                .expect("authentic")
                .id
                .len()
        }),
        Case::new("async-stripe-webhook + its event", || {
            let event =
                stripe_webhook::Webhook::construct_event(&stripe_body, &stripe_header, SECRET);
            event.expect("authentic").id.as_str().len()
        }),
    ];
    let taken = interleaved(&mut cases, rounds, round);
    let p10 = |name: &str| {
        taken
            .iter()
            .find(|taken| taken.name == name)
            .map_or(f64::NAN, |taken| taken.p10_ns)
    };
    let row = |taken: &Taken| {
        let ours = match taken.name.as_str() {
            name if name == BARE => None,
            name if name.starts_with(OURS) => None,
            name if name.contains('+') => Some(OURS_DATA),
            // Against the same scheme.
            SVIX | STANDARD => Some(OURS_STANDARD),
            _ => Some(OURS),
        };
        Row {
            over_bare_hmac: taken.p10_ns / p10(BARE),
            over_ours: ours.map(|ours| taken.p10_ns / p10(ours)),
            taken: taken.clone(),
        }
    };
    taken.iter().map(row).collect()
}

fn print(size: &str, rows: &[Row]) {
    let mut cells = vec![
        [size, "p10 ns", "median ns", "over bare HMAC", "over ours"]
            .map(String::from)
            .to_vec(),
    ];
    for row in rows {
        cells.push(vec![
            row.taken.name.clone(),
            format!("{:.0}", row.taken.p10_ns),
            format!("{:.0}", row.taken.median_ns),
            format!("{:.2}", row.over_bare_hmac),
            row.over_ours
                .map_or(String::new(), |ratio| format!("{ratio:.2}")),
        ]);
    }
    println!("{}", table(&cells));
}

fn aims(sizes: &BTreeMap<&'static str, Vec<Row>>) -> Vec<Aim> {
    let find = |name: &str| {
        sizes["4 KiB"]
            .iter()
            .find(|row| row.taken.name == name)
            .expect("a case")
    };
    let over = |name: &str| find(name).over_ours.unwrap_or(f64::NAN);
    let at_most = |aim: &str, figure: f64, most: f64| Aim {
        what: aim.into(),
        figure,
        met: figure <= most,
    };
    let at_least = |aim: &str, figure: f64, least: f64| Aim {
        what: aim.into(),
        figure,
        met: figure >= least,
    };
    vec![
        at_most(
            "verify over the bare HMAC at 4 KiB (aim: at most 1.15)",
            find(OURS).over_bare_hmac,
            1.15,
        ),
        at_least("svix over ours at 4 KiB (aim: at least 5)", over(SVIX), 5.0),
        at_least(
            "standardwebhooks over ours at 4 KiB (aim: at least 5)",
            over(STANDARD),
            5.0,
        ),
        at_least(
            "workos over ours at 4 KiB (aim: above 1)",
            over(WORKOS),
            1.0,
        ),
    ]
}

fn signed(scheme: &SignatureScheme, body: &[u8]) -> HeaderMap {
    scheme
        .sign(
            &SECRET.into(),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            jiff::Timestamp::now(),
            body,
        )
        .expect("the secret")
}

/// Adds members to `body` until it is slightly larger than `size`.
fn filled(size: usize, body: impl Fn(Value) -> String) -> String {
    let member = |n: usize| {
        (
            format!("attribute_{n}"),
            json!(format!("the value of attribute number {n}")),
        )
    };
    let mut body_of = (0..size).map(|members| body((0..members).map(member).collect()));
    body_of
        .find(|body| body.len() >= size)
        .expect("a member is more than a byte")
}

fn delivery(size: usize) -> Bytes {
    let body = |extra: Value| {
        let data = json!({
            "id": "usr_0123456789abcdefghijklmno", "username": "ada@example.com", "issuer_id": "i_0123456789abcdef",
            "status": "active", "metadata": extra,
        });
        String::from_utf8(Fixture::of::<UserUpdated>().data(data).body().into()).expect("JSON")
    };
    filled(size, body).into()
}

fn workos_delivery(size: usize) -> String {
    filled(size, |extra| {
        json!({
            "object": "event", "id": "event_01HX", "event": "user.updated", "created_at": "2026-11-23T00:00:00Z",
            "data": { "id": "user_01HX", "email": "ada@example.com", "metadata": extra },
        })
        .to_string()
    })
}

fn stripe_delivery(size: usize) -> String {
    filled(size, |extra| {
        json!({
            "id": "evt_1", "object": "event", "api_version": "2017-05-25", "created": 1_492_774_577,
            "livemode": false, "pending_webhooks": 1, "type": "account.external_account.created",
            "data": { "object": {
                "object": "bank_account", "country": "us", "currency": "usd", "id": "ba_1", "last4": "6789",
                "status": "verified", "metadata": extra,
            } },
        })
        .to_string()
    })
}
