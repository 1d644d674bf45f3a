//! `cargo xtask codegen`: from the description in `openapi/` to `authpi-sdk/src/generated/`.
//!
//! `document` reads the files. `model` and `operations` extract the supported constructs, and
//! report the location of every other one. From the model, `types` writes the types of requests and
//! responses, `client` lets progenitor write the methods, and `events` writes event types and
//! payloads. `output` formats the code, `drift` compares it with the checked-in code, and
//! `published` compares AuthPI's own document with ours.

mod client;
mod docs;
mod document;
mod drift;
mod events;
#[cfg(test)]
mod golden;
mod model;
mod naming;
mod operations;
mod output;
mod published;
mod types;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use proc_macro2::TokenStream;
use quote::quote;

use self::{
    document::{Documents, Problems},
    events::Catalogue,
    model::{Reader, named_in},
};

/// Generate Rust code from the description in `openapi/`.
///
/// Reads openapi/authpi.yaml and openapi/events/, and writes api.rs (the typed client) and
/// events.rs (event types and payloads) to authpi-sdk/src/generated/. Then prints what changed and
/// whether it breaks users. A construct that cannot be translated is an error with its file and
/// JSON pointer.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if the checked-in code differs from the description
    #[arg(long)]
    check: bool,
    /// Use AuthPI's own OpenAPI document (JSON or YAML) instead of ours, and list its
    /// contradictions with ours.
    ///
    /// Only operations under `webhooks`, `events` and `me` are read. api.rs is generated from that
    /// document, events.rs does not change. With --check, nothing is written, and contradictions
    /// are a failure.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, repository: &Path) -> Result<()> {
    let ours = Documents::load(&repository.join("openapi/authpi.yaml"))?;
    let generated = repository.join("authpi-sdk/src/generated");
    let mut files = Vec::new();
    if let Some(published) = &args.from {
        let theirs = Documents::load(published)?;
        let contradictions = published::contradictions(
            &ours,
            &theirs,
            &published::event_types(&repository.join("openapi/events"))?,
        );
        println!("{}", published::report(&contradictions));
        if args.check {
            anyhow::ensure!(
                contradictions.is_empty(),
                "{} contradicts our description",
                published.display()
            );
            return Ok(());
        }
        files.push(("api.rs", output::file(api(&theirs, Dialect::Published)?)?));
    } else {
        files.push(("api.rs", output::file(api(&ours, Dialect::Ours)?)?));
        let catalogue = Catalogue::load(&repository.join("openapi/events"))?;
        files.push(("events.rs", output::file(events::generate(&catalogue))?));
    }

    let mut changes = Vec::new();
    let mut stale = Vec::new();
    for (name, new) in &files {
        let path = generated.join(name);
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        if old != *new {
            stale.push(*name);
            changes.extend(
                drift::changes(&old, new)
                    .unwrap_or_else(|error| vec![drift::Change::unreadable(name, &error)]),
            );
            if !args.check {
                std::fs::write(&path, new)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    if stale.is_empty() {
        println!("The code in authpi-sdk/src/generated is what the description says.");
        return Ok(());
    }
    let report = drift::report(&changes);
    if args.check {
        bail!(
            "{} in authpi-sdk/src/generated {} not what the description says:\n{report}\nRun `cargo xtask codegen` and check its \
             output in.",
            stale.join(" and "),
            if stale.len() == 1 { "is" } else { "are" }
        );
    }
    println!(
        "wrote {} in authpi-sdk/src/generated:\n{report}",
        stale.join(" and ")
    );
    Ok(())
}

/// The document's origin, which determines how much of it is read, and how strictly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Every operation; responses must be open.
    Ours,
    /// The relevant operations; closed enums and unions in responses are treated as open.
    Published,
}

/// The code of the typed client and its types.
fn api(documents: &Documents, dialect: Dialect) -> Result<TokenStream> {
    let version = documents.root()["info"]["version"]
        .as_str()
        .unwrap_or("0")
        .to_owned();
    let openapi = documents.root()["openapi"].as_str().unwrap_or_default();
    if dialect == Dialect::Ours && !openapi.starts_with("3.1.") {
        let here = documents.root_place().at("openapi");
        bail!(Problems(vec![here.problem(format!(
            "the description must be OpenAPI 3.1, not {openapi:?}"
        ))]));
    }
    let mut reader = Reader::new(documents, dialect == Dialect::Published);
    let operations = operations::read(&mut reader, documents, &|path| {
        dialect == Dialect::Ours || published::is_of_interest(path)
    });

    let received = reader.reached(
        operations
            .iter()
            .flat_map(|operation| operation.answer.iter().chain(&operation.error_bodies)),
    );
    reader.open_what_is_received(&received);
    reader.check();
    if !reader.problems.is_empty() {
        let mut problems = std::mem::take(&mut reader.problems);
        problems.sort_by(|a, b| (&a.place, &a.message).cmp(&(&b.place, &b.message)));
        problems.dedup();
        bail!(Problems(problems));
    }
    let sent = reader.reached(
        operations
            .iter()
            .filter_map(|operation| operation.body.as_ref()),
    );
    let patches = operations
        .iter()
        .filter(|operation| operation.is_partial_update())
        .filter_map(|operation| {
            operation
                .body
                .as_ref()
                .and_then(named_in)
                .map(str::to_owned)
        })
        .collect();
    let used: BTreeSet<String> = received.union(&sent).cloned().collect();
    let context = types::Context::new(&reader.definitions, sent, received, patches);
    let definitions = reader
        .definitions
        .values()
        .filter(|definition| used.contains(&definition.name))
        .map(|definition| context.definition(definition));

    let client = client::generate(&operations, &version)?;
    let table = operations::table(&operations);
    Ok(quote! {
        //! The typed client for AuthPI's API: types of what is sent and received, a method per
        //! operation, and a table of the operations.

        /// What is sent and received.
        pub mod types {
            use serde::{Deserialize, Serialize};

            use crate::{
                client::Patch,
                macros::{closed_enum, envelope, object, open_enum, tagged, union},
            };

            #(#definitions)*
        }

        #table

        #client
    })
}
