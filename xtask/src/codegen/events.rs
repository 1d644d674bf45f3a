//! Event types, their markers, their payloads, and the payload of each type.
//!
//! Payloads are read leniently: the members of `data` are deduced, not documented, so an unexpected
//! one must not make an event fail. A generated payload only lists its members; the hand-written
//! loop that reads them exists once.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, bail};
use proc_macro2::TokenStream;
use quote::quote;
use serde_json::Value;

use super::{
    docs,
    document::{Documents, Place, Problem, Problems, read},
    model::{Definition, Kind, Member, Named, Reader, Shape, Type},
    naming::{self, Scope, ident},
    types,
};

/// One event type of the catalogue.
struct EventType {
    name: Named,
    description: String,
    payload: String,
}

/// The content of `openapi/events/`.
pub(crate) struct Catalogue {
    description: String,
    types: Vec<EventType>,
    payloads: BTreeMap<String, Definition>,
}

impl Catalogue {
    /// Reads `event-type.json`, `catalogue.json`, and their payloads.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let names = read(&folder.join("event-type.json"))?;
        let documents = Documents::load(&folder.join("catalogue.json"))?;
        Self::read(&names, &documents)
    }

    pub(crate) fn read(names: &Value, documents: &Documents) -> Result<Self> {
        let mut reader = Reader::new(documents, false);
        let mut problems = Vec::new();
        let mut scope = Scope::new("event type").without(&["Unknown"]);
        let names_place = Place::of("event-type.json").at("enum");

        let mut entries = entries(documents, &mut problems);
        let mut types = Vec::new();
        for (n, name) in names["enum"].as_array().into_iter().flatten().enumerate() {
            let here = names_place.at(n);
            let Some(wire) = name.as_str() else {
                problems.push(here.problem("an event type must be a string"));
                continue;
            };
            match entries.remove(wire) {
                Some((entry, place)) => match one(&mut reader, &mut scope, wire, entry, &place) {
                    Ok(event_type) => types.push(event_type),
                    Err(problem) => problems.push(problem),
                },
                None => problems.push(here.problem(format!("{wire:?} is not in the catalogue"))),
            }
        }
        for (name, (_, place)) in entries {
            problems.push(place.problem(format!("{name:?} is not in event-type.json")));
        }
        for definition in reader.definitions.values() {
            problems.extend(check(definition));
        }
        if !problems.is_empty() {
            problems.sort_by(|a, b| a.place.cmp(&b.place));
            bail!(Problems(problems));
        }
        let description = names["description"]
            .as_str()
            .unwrap_or("The type of an event.")
            .to_owned();
        Ok(Self {
            description,
            types,
            payloads: reader.definitions,
        })
    }
}

/// The catalogue's entries by event type.
fn entries<'d>(
    documents: &'d Documents,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, (&'d Value, Place)> {
    let mut entries = BTreeMap::new();
    let here = documents.root_place().at("oneOf");
    for (n, entry) in documents.root()["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let here = here.at(n);
        let name = entry["properties"]["type"]["const"].as_str();
        match name {
            None => problems.push(here.problem("an event needs `type` with a `const`")),
            Some(name) => {
                if entries
                    .insert(name.to_owned(), (entry, here.clone()))
                    .is_some()
                {
                    problems.push(here.problem(format!("{name:?} is in the catalogue twice")));
                }
            }
        }
    }
    entries
}

fn one(
    reader: &mut Reader<'_>,
    scope: &mut Scope,
    wire: &str,
    entry: &Value,
    place: &Place,
) -> Result<EventType, Problem> {
    let rust = scope.take(wire, place, naming::pascal)?;
    if let Some(title) = entry["title"].as_str().filter(|title| *title != rust) {
        return Err(place.at("title").problem(format!(
            "{title:?}, but {wire:?} is called `{rust}` in Rust"
        )));
    }
    let here = place.at("properties").at("data");
    let data = entry["properties"]
        .get("data")
        .ok_or_else(|| place.problem(format!("{wire:?} has no `data`")))?;
    let Type {
        shape: Shape::Named(payload),
        ..
    } = reader.read(data, &here, &format!("{rust}Data"))?
    else {
        return Err(here.problem("a payload must be an object with `properties`"));
    };
    let description = entry["description"].as_str().unwrap_or_default().to_owned();
    Ok(EventType {
        name: Named {
            wire: wire.to_owned(),
            rust,
        },
        description,
        payload,
    })
}

/// A payload's members are plain, so that each can be kept raw if its type is unexpected.
fn check(definition: &Definition) -> Vec<Problem> {
    let Kind::Object(object) = &definition.kind else {
        return vec![
            definition
                .place
                .problem("payloads are objects of plain members; leave what has a shape of its own an open object"),
        ];
    };
    let here = definition.place.at("properties");
    let mut problems = Vec::new();
    for member in &object.members {
        if member.required {
            problems.push(
                here.at(&member.name)
                    .problem("members of payloads are deduced, so none can be required"),
            );
        }
        if field(member).is_none() {
            problems.push(
                here.at(&member.name).problem(
                    "only text, numbers, flags, open objects, and lists of text or objects",
                ),
            );
        }
        if member.rust == "extra" {
            problems.push(
                here.at(&member.name)
                    .problem("`extra` is the field for members that have no field"),
            );
        }
    }
    problems
}

/// A member's type in a payload.
fn field(member: &Member) -> Option<TokenStream> {
    let plain = |ty: &Type| matches!(ty.shape, Shape::Text | Shape::Raw) && !ty.nullable;
    match &member.ty.shape {
        // Payloads never print their members, so a secret needs no special type there.
        Shape::Secret => Some(quote! { String }),
        Shape::EventType | Shape::Named(_) => None,
        Shape::List(items) if !plain(items) => None,
        Shape::Map(values) if !plain(values) => None,
        other => Some(types::shape(other)),
    }
}

pub(crate) fn generate(catalogue: &Catalogue) -> TokenStream {
    let docs = docs::attributes(&catalogue.description);
    let types = catalogue.types.iter().map(|event_type| {
        let (name, payload) = (ident(&event_type.name.rust), ident(&event_type.payload));
        let (wire, docs) = (
            &event_type.name.wire,
            docs::attributes(&event_type.description),
        );
        quote! { #docs #name(#payload) = #wire, }
    });
    let payloads = catalogue.payloads.values().filter_map(payload);
    quote! {
        //! The events of AuthPI: their types, their payloads, and which type has which payload.

        use crate::macros::{event_types, payloads};

        event_types! {
            #docs
            pub enum EventType {
                Unknown(UnknownEventType),
                #(#types)*
            }
        }

        payloads! {
            #(#payloads)*
        }
    }
}

fn payload(definition: &Definition) -> Option<TokenStream> {
    let Kind::Object(object) = &definition.kind else {
        return None;
    };
    let name = ident(&definition.name);
    let docs = docs::attributes(
        definition
            .description
            .as_deref()
            .unwrap_or(&definition.name),
    );
    let fields = object.members.iter().map(|member| {
        let (field_name, ty) = (ident(&member.rust), field(member));
        let docs = docs::attributes(member.description.as_deref().unwrap_or(&member.name));
        let wire = types::wire(member);
        quote! { #docs #wire pub #field_name: #ty, }
    });
    Some(quote! {
        #docs
        pub struct #name {
            #(#fields)*
        }
    })
}
