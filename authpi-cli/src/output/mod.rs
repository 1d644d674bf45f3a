//! What a command prints: records to standard output, in the format that the user chose, and
//! everything else to standard error.

mod record;
mod stdio;

use std::io::IsTerminal as _;

use authpi_sdk::client::{Items, Paged};
use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use record::{Record, time, visible};
pub(crate) use stdio::{Lines, note, print};

use crate::failure::{Failure, Result};

/// How records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, for people
    Table,
    /// One JSON document
    Json,
    /// One JSON document per line
    Ndjson,
}

/// The options of the output.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// The output format. Default: table on a terminal, ndjson otherwise
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT")]
    output: Option<Format>,

    /// Print results and errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

impl Output {
    pub(crate) fn format(self) -> Format {
        self.output.unwrap_or_else(|| {
            if std::io::stdout().is_terminal() {
                Format::Table
            } else {
                Format::Ndjson
            }
        })
    }

    /// Whether JSON was asked for by name, so that even texts for people are JSON.
    pub(crate) fn wants_json(self) -> bool {
        matches!(self.output, Some(Format::Json | Format::Ndjson))
    }

    /// Writes a line to standard error, unless `--quiet`.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            note(text);
        }
    }

    /// Prints one record: its members, or the JSON document.
    pub(crate) fn one(self, record: &impl Serialize) -> Result {
        print(&match self.format() {
            Format::Table => record::members(&written(serde_json::to_value(record))?),
            Format::Json => pretty(record)?,
            Format::Ndjson => one_line(record)?,
        })
    }

    /// Prints a record on a line of its own, immediately: for commands that run on.
    pub(crate) fn line(self, record: &impl Record) -> Result {
        print(&match self.format() {
            Format::Table => record.line() + "\n",
            Format::Json | Format::Ndjson => one_line(record)?,
        })
    }

    /// Prints a list of AuthPI's, up to a limit, and says if there is more.
    pub(crate) async fn items<O>(self, mut items: Items<O>, limit: usize) -> Result
    where
        O: Paged,
        O::Item: Record,
    {
        let mut list = self.list();
        let mut listed = 0;
        while let Some(item) = items.next().await {
            if listed == limit {
                self.note(&format!("there are more than {listed}; raise --limit"));
                break;
            }
            list.push(item?)?;
            listed += 1;
        }
        list.finish()
    }

    /// Starts a list of records.
    pub(crate) fn list<R: Record>(self) -> List<R> {
        List {
            format: self.format(),
            records: Vec::new(),
        }
    }
}

/// A list of records. NDJSON is printed record by record, the other formats at the end.
#[must_use = "the list ends with `finish`"]
pub(crate) struct List<R> {
    format: Format,
    records: Vec<R>,
}

impl<R: Record> List<R> {
    pub(crate) fn push(&mut self, record: R) -> Result {
        if self.format == Format::Ndjson {
            return print(&one_line(&record)?);
        }
        self.records.push(record);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result {
        match self.format {
            Format::Ndjson => Ok(()),
            Format::Json => print(&pretty(&self.records)?),
            Format::Table => print(&record::table(&self.records)),
        }
    }
}

fn one_line(record: &impl Serialize) -> Result<String> {
    written(serde_json::to_string(record)).map(|text| text + "\n")
}

fn pretty(record: &impl Serialize) -> Result<String> {
    written(serde_json::to_string_pretty(record)).map(|text| text + "\n")
}

fn written<T>(record: serde_json::Result<T>) -> Result<T> {
    record.map_err(|error| Failure::because("cannot write the record", &error))
}
