//! `authpi emulate`: runs the emulator until a signal stops it.

use std::{error::Error, fmt::Write as _, io, net::SocketAddr, time::Duration};

use authpi_emulator::{Emulator, LogLine};
use authpi_sdk::signature::SignatureScheme;
use clap::Args;
use serde_json::json;

use crate::output::{self, Lines};

/// Run AuthPI's webhooks API, event log and deliveries in this process, in memory.
///
/// It prints its address and its credentials, which are new each time, and runs until SIGINT or
/// SIGTERM. For each delivery attempt, it prints a line to standard error.
#[derive(Args)]
#[expect(
    clippy::doc_markdown,
    reason = "the program prints these texts as they stand"
)]
pub(crate) struct Emulate {
    /// The address to listen on; port 0 selects a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Print one line of JSON, with base_url, account_id, key_id, key_secret and access_token
    #[arg(long)]
    json: bool,

    /// Also deliver to this host, such as app or host.docker.internal. By default, only this
    /// machine is allowed. May be repeated
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,

    /// The maximum number of pending deliveries; further events are refused with 503
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = parse_count)]
    max_pending: usize,

    /// Do not print deliveries; warnings are still printed
    #[arg(long, short)]
    quiet: bool,

    /// Pauses between the attempts of a delivery, such as 100ms,5s,2m,1h; empty for a single
    /// attempt
    #[arg(long, value_name = "DELAYS", default_value = "5s,30s,2m,15m,1h", value_parser = parse_delays)]
    retry_delays: Delays,

    /// How to sign deliveries: authpi, timestamped or standard-webhooks
    #[arg(long, value_name = "SCHEME", default_value = "authpi", value_parser = parse_scheme)]
    signature_scheme: SignatureScheme,
}

/// A separate type, since clap takes a `Vec` for a repeated argument.
#[derive(Clone, Debug, PartialEq)]
struct Delays(Vec<Duration>);

impl Emulate {
    pub(crate) async fn run(self) -> Result<(), Box<dyn Error>> {
        // Before anything is printed: a reader of that output may send a signal immediately.
        let stop = Stop::listen()?;
        let lines = Lines::start();
        let (print, quiet) = (lines.sender(), self.quiet);
        let mut builder = Emulator::builder()
            .listen(self.listen)
            .retry_delays(self.retry_delays.0)
            .signature_scheme(self.signature_scheme)
            .max_pending(self.max_pending)
            .log(move |line| {
                if !(quiet && matches!(line, LogLine::Attempt(_))) {
                    print(line.to_string());
                }
            });
        for host in &self.allow_host {
            builder = builder.allow_host(host);
        }
        let emulator = builder.start().await?;
        output::print(&announcement(&emulator, self.json))?;
        stop.requested().await;
        emulator.stop().await;
        lines.finish();
        Ok(())
    }
}

fn announcement(emulator: &Emulator, as_json: bool) -> String {
    if as_json {
        let line = json!({
            "base_url": emulator.base_url(),
            "account_id": emulator.account_id(),
            "key_id": emulator.key_id(),
            "key_secret": emulator.key_secret(),
            "access_token": emulator.access_token(),
        });
        return format!("{line}\n");
    }
    let mut text = format!(
        "AuthPI's emulator listens on {}. For this session's programs:\n\n",
        emulator.base_url()
    );
    for (name, value) in [
        ("AUTHPI_BASE_URL", emulator.base_url()),
        ("AUTHPI_ACCOUNT_ID", emulator.account_id()),
        ("AUTHPI_KEY_ID", emulator.key_id()),
        ("AUTHPI_KEY_SECRET", emulator.key_secret()),
    ] {
        let _ = writeln!(text, "export {name}={value}");
    }
    let _ = writeln!(
        text,
        "\nA bearer token, instead of the key: {}",
        emulator.access_token()
    );
    text.push_str("`authpi trigger user.created` makes an event happen. Ctrl-C ends it.\n");
    text
}

/// The signals that end the program.
struct Stop {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
}

#[cfg(unix)]
impl Stop {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            signals: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            ],
        })
    }

    async fn requested(mut self) {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Stop {
    #[expect(clippy::unnecessary_wraps, reason = "on Unix it can fail")]
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn requested(self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without signal handling, it runs until it is killed.
            std::future::pending::<()>().await;
        }
    }
}

fn parse_scheme(text: &str) -> Result<SignatureScheme, String> {
    text.parse()
        .map_err(|_| "must be authpi, timestamped or standard-webhooks".to_owned())
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| "must be a whole number from 1 on".to_owned())
}

fn parse_delays(text: &str) -> Result<Delays, String> {
    if text.trim().is_empty() {
        return Ok(Delays(Vec::new()));
    }
    text.split(',')
        .map(parse_delay)
        .collect::<Result<_, _>>()
        .map(Delays)
}

/// A whole number with a unit.
fn parse_delay(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is not a delay such as 100ms, 5s, 2m or 1h");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_with_their_units() {
        let millis = |text| {
            parse_delays(text)
                .map(|delays| delays.0.iter().map(Duration::as_millis).collect::<Vec<_>>())
        };
        assert_eq!(
            millis("100ms,5s, 2m ,1h").unwrap(),
            [100, 5_000, 120_000, 3_600_000]
        );
        assert_eq!(millis("").unwrap(), [0; 0]);
        for wrong in [
            "5",
            "s",
            "5d",
            "-1s",
            "1.5s",
            "1s,,2s",
            "99999999999999999999h",
            "9999999999999999999h",
        ] {
            assert!(millis(wrong).is_err(), "{wrong} was read");
        }
    }
}
