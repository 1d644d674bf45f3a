//! `authpi emulate`: runs the emulator until a signal stops it.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf};

use authpi_emulator::{Emulator, LogLine};
use authpi_sdk::signature::SignatureScheme;
use clap::Args;
use serde_json::json;

use super::{faults, sign::scheme};
use crate::{
    arguments::{Durations, durations},
    failure::{Failure, Result, chain},
    output::{self, Lines, Output},
    profile::{Profile, Profiles},
    stop::Stop,
};

/// Run AuthPI's webhooks API, event log and deliveries in this process, in memory.
///
/// It prints its address and its credentials, which are new each time without --state or --seed,
/// and runs until SIGINT or SIGTERM. For each delivery attempt, it prints a line to standard error,
/// unless --quiet.
///
/// With --state, a restart continues with the same credentials, webhooks and secrets, event log,
/// deliveries and idempotency keys; pending deliveries are sent when they are due. The address,
/// settings and faults are not saved: give the flags again, with a fixed port in --listen. The file
/// is replaced as a whole after changes and at the end. A process that is killed loses the changes
/// of about a fifth of a second, or of ten times the duration of a write if that is longer. The
/// file has mode 0600, because it contains secrets, and begins with its format and version. A file
/// with another format or version, a damaged file, and one that another emulator uses are refused
/// and stay unchanged.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi emulate --save-profile dev
  authpi emulate --state dev.json --listen 127.0.0.1:4000")]
pub(crate) struct Emulate {
    /// The address to listen on; port 0 selects a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Print one line of JSON, with base_url, account_id, key_id, key_secret, access_token and
    /// inspector_url
    #[arg(long)]
    json: bool,

    /// Also deliver to this host, such as app or host.docker.internal. By default, only this
    /// machine is allowed. May be repeated
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,

    /// The maximum number of pending deliveries; further events are refused with 503
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = parse_count)]
    max_pending: usize,

    /// Save the address and the key as a profile with this name
    #[arg(long, value_name = "NAME")]
    save_profile: Option<String>,

    /// Pauses between the attempts of a delivery, such as 100ms,5s,2m,1h; empty for a single
    /// attempt
    #[arg(long, value_name = "DELAYS", default_value = "5s,30s,2m,15m,1h", value_parser = durations)]
    retry_delays: Durations,

    /// Open the inspector page in a browser
    #[arg(long)]
    open: bool,

    /// A fault, such as duplicate,copies=1,rate=0.5; see `authpi faults set --help`. May be repeated
    #[arg(long, value_name = "FAULT", value_parser = faults::rule, conflicts_with = "faults")]
    fault: Vec<faults::Rule>,

    /// A file with faults as JSON, as `authpi faults show` prints them
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,

    /// Make credentials and the draws of faults the same each time. Whoever knows the number knows
    /// the credentials
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Keep the state in this file, to continue after a restart. It is created if it is missing
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// How many events, and how many finished deliveries, to keep. An event and its delivery use
    /// about 5 kB of memory
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = parse_count)]
    keep: usize,

    /// Let a receiver's Retry-After replace the pause before the next attempt; what AuthPI does is
    /// not documented
    #[arg(long)]
    honor_retry_after: bool,

    /// How to sign deliveries: authpi, timestamped or standard-webhooks
    #[arg(long, value_name = "SCHEME", default_value = "authpi", value_parser = scheme)]
    signature_scheme: SignatureScheme,
}

impl Emulate {
    pub(crate) async fn run(self, output: Output) -> Result {
        // Before anything is printed: a reader of that output may send a signal immediately.
        let mut stop = Stop::listen()?;
        let lines = Lines::start();
        let (print, quiet) = (lines.sender(), output.quiet);
        let plan = match &self.faults {
            Some(file) => faults::plan_in(file)?,
            None => faults::plan(&self.fault),
        };
        let mut builder = Emulator::builder()
            .listen(self.listen)
            .retry_delays(self.retry_delays.0)
            .signature_scheme(self.signature_scheme)
            .max_pending(self.max_pending)
            .keep(self.keep)
            .honor_retry_after(self.honor_retry_after)
            .faults(plan)
            .log(move |line| {
                if !(quiet && matches!(line, LogLine::Attempt(_))) {
                    print(line.to_string());
                }
            });
        if let Some(seed) = self.seed {
            builder = builder.seed(seed);
        }
        if let Some(file) = &self.state {
            builder = builder.state_file(file);
        }
        for host in &self.allow_host {
            builder = builder.allow_host(host);
        }
        let emulator = builder
            .start()
            .await
            .map_err(|error| Failure::new(chain(&error)))?;
        if let Some(name) = &self.save_profile {
            let profile = Profile {
                base_url: Some(emulator.base_url().to_owned()),
                account_id: Some(emulator.account_id().to_owned()),
                key_id: Some(emulator.key_id().to_owned()),
                key_secret: Some(emulator.key_secret().to_owned()),
                ..Profile::default()
            };
            Profiles::load()?.add(name, profile)?;
        }
        output::print(&announcement(&emulator, self.json || output.wants_json()))?;
        if let (true, Some(url)) = (self.open, emulator.inspector_url())
            && let Err(error) = open::that_detached(url)
        {
            output.note(&format!("cannot open a browser: {error}"));
        }
        stop.requested().await;
        let saved = emulator.try_stop().await;
        lines.finish();
        saved.map_err(|error| Failure::because("cannot save the state", &error))
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
            "inspector_url": emulator.inspector_url(),
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
    if let Some(url) = emulator.inspector_url() {
        let _ = writeln!(text, "The inspector, for a browser: {url}");
    }
    text.push_str("`authpi trigger user.created` makes an event happen. Ctrl-C ends it.\n");
    text
}

fn parse_count(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| "must be a whole number from 1 on".to_owned())
}
