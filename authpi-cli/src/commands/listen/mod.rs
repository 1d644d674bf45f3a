//! `authpi listen`: deliveries to this machine, without a tunnel.
//!
//! `session` keeps the latest deliveries, which `page` shows.

mod page;
mod session;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use authpi_inspector::SignatureView;
use authpi_sdk::{
    client::LoggedEvent,
    event::EventType,
    signature::{Secret, SignatureScheme},
    testing::{RecordedAnswer, Recording},
};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, header};
use jiff::{SignedDuration, Timestamp};
use owo_colors::{OwoColorize as _, Stream};
use serde::Serialize;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use self::session::{Session, Tracked};
use super::sign::scheme;
use crate::{
    arguments::{Durations, durations, event_type, time},
    connect::Connect,
    failure::{Failure, Result},
    files,
    follow::{Follower, Position},
    forward::{Answer, Target},
    output::{self, Output, Record, time as time_text, visible},
    profile, recordings, secret,
    stop::Stop,
};

/// Deliver the account's events to a receiver on this machine, without a tunnel.
///
/// It reads the event log, wraps each new event as a delivery, signs it, and posts it. Each attempt
/// is a line. An answer other than 200 is followed by further attempts, with the pauses that AuthPI
/// is assumed to make. It works with AuthPI and with the emulator, and changes nothing there.
///
/// It serves an inspector page with the latest deliveries of this run, up to 1,000: their attempts,
/// bodies and signatures. There, a delivery is sent again, copied as a curl command, or saved as a
/// fixture. The page needs no credentials, so it is only served on a loopback address, which is
/// printed to standard error.
///
/// The secret is this machine's own, not a webhook's: give it to the receiver with
/// `export AUTHPI_WEBHOOK_SECRET=$(authpi listen --print-secret)`.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    authpi listen --forward-to http://127.0.0.1:8080/hooks/authpi --events user.created")]
pub(crate) struct Listen {
    /// The receiver's address
    #[arg(long, value_name = "URL", required_unless_present = "print_secret")]
    forward_to: Option<String>,

    /// Print the secret that signs deliveries, and end
    #[arg(long)]
    print_secret: bool,

    /// A file with another secret to sign with, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "print_secret")]
    secret_file: Option<PathBuf>,

    /// Only events of these types, with commas between them
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = event_type)]
    events: Vec<EventType>,

    /// Begin at this time instead of now, such as 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,

    /// Save each attempt in this folder, one file each. They contain personal data
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,

    /// Pauses between the attempts of a delivery, such as 100ms,5s,2m,1h; empty for a single attempt
    #[arg(long, value_name = "DELAYS", default_value = "5s,30s,2m,15m,1h", value_parser = durations)]
    retry_delays: Durations,

    /// The address of the inspector page, a loopback one; port 0 selects a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = loopback)]
    inspector: SocketAddr,

    /// Open the inspector page in a browser
    #[arg(long)]
    open: bool,

    /// How to sign: authpi, timestamped or standard-webhooks
    #[arg(long, value_name = "SCHEME", default_value = "authpi", value_parser = scheme)]
    scheme: SignatureScheme,

    #[command(flatten)]
    connect: Connect,
}

/// How many deliveries are posted at the same time.
const AT_ONCE: usize = 8;
/// No more of the log is read while this many deliveries wait for their turn.
const MAX_WAITING: usize = 1_000;
/// A delivery whose first attempt comes later than this after its event is late.
const LATE: SignedDuration = SignedDuration::from_secs(30);
/// How much of an answer the inspector shows.
const SHOWN_ANSWER: usize = 4 * 1024;
/// How often lateness is said.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// One attempt, as it is printed.
#[derive(Serialize)]
pub(crate) struct Attempt {
    time: String,
    #[serde(rename = "type")]
    event_type: String,
    event_id: String,
    #[serde(rename = "attempt")]
    number: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    millis: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Attempt {
    /// The only attempt, or the first one.
    pub(crate) fn new(
        at: Timestamp,
        event_type: &str,
        event_id: &str,
        answer: Option<&RecordedAnswer>,
        error: Option<String>,
    ) -> Self {
        Self {
            time: time_text(at.into()),
            event_type: event_type.to_owned(),
            event_id: event_id.to_owned(),
            number: 1,
            status: answer.map(|answer| answer.status),
            millis: answer.map_or(0, |answer| answer.millis),
            error,
        }
    }

    /// The attempt as a line without colors.
    pub(crate) fn text(&self) -> String {
        let mut cells = self.cells();
        cells[5].push_str(" ms");
        if self.number == 1 {
            cells.remove(3);
        } else {
            cells[3].insert_str(0, "attempt ");
        }
        cells.extend(self.error.clone());
        visible(&cells.join("  "))
    }
}

impl Record for Attempt {
    const COLUMNS: &[&str] = &["time", "type", "event", "attempt", "status", "ms"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.time.clone(),
            self.event_type.clone(),
            self.event_id.clone(),
            self.number.to_string(),
            self.status
                .map_or_else(|| "-".to_owned(), |status| status.to_string()),
            self.millis.to_string(),
        ]
    }

    fn line(&self) -> String {
        let text = self.text();
        if self.status == Some(200) {
            text.if_supports_color(Stream::Stdout, |text| text.green())
                .to_string()
        } else {
            text.if_supports_color(Stream::Stdout, |text| text.red())
                .to_string()
        }
    }
}

impl Listen {
    pub(crate) async fn run(self, output: Output) -> Result {
        if self.print_secret {
            return output::print(&format!("{}\n", own_secret()?.expose()));
        }
        let mut stop = Stop::listen()?;
        let target = Target::parse(self.forward_to.as_deref().unwrap_or_default())?;
        let secret = match &self.secret_file {
            Some(file) => secret::read(file)?,
            None => own_secret()?,
        };
        if let Some(folder) = &self.record {
            recordings::create(folder)?;
        }
        let start = self.since.unwrap_or_else(Timestamp::now);
        let client = self.connect.client()?;
        let mut follower = Follower::new(&client, self.events.clone(), Position::new(start));
        let sender = Arc::new(Sender {
            target,
            secret,
            scheme: self.scheme,
            delays: self.retry_delays.0,
            record: self.record,
            places: Semaphore::new(AT_ONCE),
            session: Session::default(),
            said_late: Mutex::new(None),
            output,
        });
        let page = page::serve(self.inspector, sender.clone()).await?;
        output.note(&format!(
            "delivering to {}; the inspector is at {page}",
            sender.target.shown()
        ));
        if self.open
            && let Err(error) = open::that_detached(&page)
        {
            output.note(&format!("cannot open a browser: {error}"));
        }
        let mut deliveries: JoinSet<Result> = JoinSet::new();
        loop {
            let (events, pause) = tokio::select! {
                polled = follower.poll(output) => polled?,
                () = stop.requested() => return Ok(()),
            };
            for event in events {
                deliveries.spawn(Arc::clone(&sender).deliver(event));
            }
            let mut pause = std::pin::pin!(sleep(pause));
            loop {
                let waiting = deliveries.len() > MAX_WAITING;
                tokio::select! {
                    () = &mut pause, if !waiting => break,
                    Some(ended) = deliveries.join_next() => match ended {
                        Ok(delivered) => delivered?,
                        Err(panic) => return Err(Failure::because("a delivery failed", &panic)),
                    },
                    () = stop.requested() => return Ok(()),
                }
            }
        }
    }
}

/// What all deliveries share.
struct Sender {
    target: Target,
    secret: Secret,
    scheme: SignatureScheme,
    delays: Vec<Duration>,
    record: Option<PathBuf>,
    places: Semaphore,
    session: Session,
    /// When lateness was said last.
    said_late: Mutex<Option<Instant>>,
    output: Output,
}

impl Sender {
    /// Posts an event until it is acknowledged or given up.
    async fn deliver(self: Arc<Self>, event: LoggedEvent) -> Result {
        let body = delivery(&event);
        let tracked = self.session.begin(event, body);
        let mut delays = self.delays.iter();
        loop {
            if self.attempt(&tracked, false).await? {
                return Ok(());
            }
            let delay = delays.next();
            self.session.planned(&tracked, delay.copied());
            let Some(delay) = delay else {
                self.output
                    .note(&format!("gave up on {}", tracked.event.id));
                return Ok(());
            };
            sleep(*delay).await;
            // Meanwhile, a resend from the inspector's page may have succeeded.
            if tracked.has_succeeded() {
                return Ok(());
            }
        }
    }

    /// Posts an event once, and prints the attempt. Returns whether it was acknowledged.
    async fn attempt(&self, tracked: &Tracked, is_resend: bool) -> Result<bool> {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let (event, body) = (&tracked.event, &tracked.body);
        let number = self.session.attempt(tracked);
        if number == 1 {
            self.say_if_late(event);
        }
        let now = Timestamp::now();
        let mut headers = self
            .scheme
            .sign(&self.secret, &format!("msg_{}", event.id), now, body)
            .map_err(|error| Failure::usage(error.to_string()))?;
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/cloudevents+json"),
        );
        let begun = Instant::now();
        let sent = self
            .target
            .send(Method::POST, None, headers.clone(), body.clone())
            .await;
        let took = begun.elapsed();
        self.note_attempt(tracked, (number, is_resend, now, took), &headers, &sent);
        let answer = sent.as_ref().ok().map(Answer::recorded);
        let mut printed = Attempt::new(now, &event.r#type, &event.id, answer.as_ref(), sent.err());
        printed.number = number;
        self.output.line(&printed)?;
        if let Some(folder) = &self.record {
            let mut recording = Recording::new(&headers, body.clone());
            recording.answer = answer;
            // If the recording cannot be saved, deliveries continue.
            if let Err(error) = recordings::save(folder, &recording, Some(&event.id)) {
                self.output
                    .note(&format!("cannot record into {}: {error}", folder.display()));
            }
        }
        Ok(printed.status == Some(200))
    }

    /// Records an attempt for the page.
    fn note_attempt(
        &self,
        tracked: &Tracked,
        (number, is_resend, at, took): (usize, bool, Timestamp, Duration),
        headers: &HeaderMap,
        sent: &std::result::Result<Answer, String>,
    ) {
        let answer = sent.as_ref().ok();
        let status = answer.map(|answer| answer.status.as_u16());
        let error = match sent {
            Ok(_) if status == Some(200) => None,
            Ok(answer) => Some(format!(
                "the receiver answered {}; only 200 is a receipt",
                answer.status.as_u16()
            )),
            Err(why) => Some(why.clone()),
        };
        let body = answer.map(|answer| answer.body.clone()).unwrap_or_default();
        let attempt = authpi_inspector::Attempt {
            number: number.try_into().unwrap_or(u32::MAX),
            at,
            took,
            is_resend,
            url: self.target.shown(),
            headers: headers.clone(),
            body: tracked.body.clone(),
            signature: SignatureView::of(&self.scheme, headers),
            status,
            error,
            answer_cut: body.len() > SHOWN_ANSWER,
            // A copy: a slice would keep the whole answer in memory.
            answer: Bytes::copy_from_slice(&body[..body.len().min(SHOWN_ANSWER)]),
        };
        self.session.attempted(tracked, attempt);
    }

    fn say_if_late(&self, event: &LoggedEvent) {
        let Some(age) = event.time().map(|at| Timestamp::now().duration_since(at)) else {
            return;
        };
        if age <= LATE {
            return;
        }
        let mut said = self
            .said_late
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
            *said = Some(Instant::now());
            let age = SignedDuration::from_secs(age.as_secs());
            self.output
                .note(&format!("deliveries are late: this event is {age:#} old"));
        }
    }
}

/// A delivery of the event, as in AuthPI's guide.
fn delivery(event: &LoggedEvent) -> Bytes {
    let time = event.time().unwrap_or_default().to_string();
    json!({
        "specversion": "1.0",
        "id": format!("listen-{}", event.id),
        "source": "com.authpi.webhooks/v1/wh_listen",
        "type": "event",
        "datacontenttype": "application/json",
        "time": time,
        "data": {
            "id": event.id,
            "type": event.r#type,
            "trace": event.trace,
            "source": event.source,
            "timestamp": event.timestamp,
            "subject": event.subject,
            "data": event.data,
        },
    })
    .to_string()
    .into()
}

fn loopback(text: &str) -> std::result::Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "must be an address and a port, such as 127.0.0.1:4040")?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("must be a loopback address, such as 127.0.0.1:4040".to_owned())
    }
}

/// This machine's secret, in a file beside the profiles. The first use makes it.
fn own_secret() -> Result<Secret> {
    let file = profile::path()
        .and_then(|path| Some(path.parent()?.join("listen-secret")))
        .ok_or_else(|| {
            Failure::new("the folder for the secret is not known").hint("give --secret-file")
        })?;
    if !file.exists() {
        if let Some(folder) = file.parent() {
            recordings::create(folder)?;
        }
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes)
            .map_err(|error| Failure::new(format!("cannot create a secret: {error}")))?;
        let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = Secret::from(format!("whs_{}", digits.concat()));
        files::write_first(&file, format!("{}\n", secret.expose()).as_bytes()).map_err(
            |error| Failure::because(format!("cannot write {}", file.display()), &error),
        )?;
    }
    secret::read(&file)
}
