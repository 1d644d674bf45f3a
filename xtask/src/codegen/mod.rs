//! `cargo xtask codegen`: from the description in `openapi/` to `authpi-sdk/src/generated/`.
//!
//! `document` reads the files, `model` and `operations` find in them the few shapes that we write code for, and name every
//! place that is none of them. From the model, `types` writes what is sent and received, `client` has progenitor write the
//! methods, `events` writes event types and payloads. `output` formats, `drift` compares with what is checked in, and
//! `published` compares AuthPI's own document with ours.

mod client;
mod docs;
mod document;
mod events;
mod model;
mod naming;
mod operations;
mod output;
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

/// Write the Rust code that follows from the description in `openapi/`.
///
/// Reads openapi/authpi.yaml and openapi/events/, and writes api.rs (the typed client) and events.rs (event types and
/// payloads) in authpi-sdk/src/generated/. What cannot be turned into code is an error that names its place.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if the code that is checked in is not what the description says, and tell what differs.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args, repository: &Path) -> Result<()> {
    let description = repository.join("openapi/authpi.yaml");
    let generated = repository.join("authpi-sdk/src/generated");
    let files = [
        ("api.rs", output::file(api(&Documents::load(&description)?, false)?, repository)?),
        ("events.rs", output::file(events::generate(&Catalogue::load(&repository.join("openapi/events"))?), repository)?),
    ];
    for (name, new) in &files {
        let path: PathBuf = generated.join(name);
        if args.check {
            if std::fs::read_to_string(&path).ok().as_ref() != Some(new) {
                bail!("{} is not what the description says", path.display());
            }
        } else {
            std::fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// The code of the typed client and its types.
fn api(documents: &Documents, forgiving: bool) -> Result<TokenStream> {
    let version = documents.root()["info"]["version"].as_str().unwrap_or("0").to_owned();
    let openapi = documents.root()["openapi"].as_str().unwrap_or_default();
    if !openapi.starts_with("3.1.") {
        let here = documents.root_place().at("openapi");
        bail!(Problems(vec![here.problem(format!("the description must be OpenAPI 3.1, not {openapi:?}"))]));
    }
    let mut reader = Reader::new(documents, forgiving);
    let operations = operations::read(&mut reader, documents, &|_| true);

    let received = reader.reached(operations.iter().flat_map(|operation| operation.answer.iter().chain(&operation.error_bodies)));
    reader.open_what_is_received(&received);
    if !reader.problems.is_empty() {
        let mut problems = std::mem::take(&mut reader.problems);
        problems.sort_by(|a, b| (&a.place, &a.message).cmp(&(&b.place, &b.message)));
        problems.dedup();
        bail!(Problems(problems));
    }
    let sent = reader.reached(operations.iter().filter_map(|operation| operation.body.as_ref()));
    let patches = operations
        .iter()
        .filter(|operation| operation.is_partial_update())
        .filter_map(|operation| operation.body.as_ref().and_then(named_in).map(str::to_owned))
        .collect();
    let used: BTreeSet<String> = received.union(&sent).cloned().collect();
    let context = types::Context::new(&reader.definitions, sent, patches);
    let definitions =
        reader.definitions.values().filter(|definition| used.contains(&definition.name)).map(|definition| context.definition(definition));

    let client = client::generate(&operations, &version)?;
    let table = operations::table(&operations);
    Ok(quote! {
        //! The typed client for AuthPI's API: types of what is sent and received, a method per operation, and a table of the
        //! operations.

        /// What is sent and received.
        pub mod types {
            use std::fmt;

            use serde::{
                Deserialize, Deserializer, Serialize, Serializer,
                de::Error as _,
                ser::SerializeMap as _,
            };
            use serde_json::value::RawValue;

            use crate::{RawJson, client::Patch, event::Extra, json::members};

            #(#definitions)*
        }

        #table

        #client
    })
}
