//! Event types, their markers, their payloads, and which type carries which payload.
//!
//! Payloads are read leniently: what members `data` has is deduced, not documented, so one of
//! another shape must not make an event fail. A generated payload only says which members it has;
//! the loop that reads them is written once, by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

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

/// What `openapi/events/` says.
pub(crate) struct Catalogue {
    description: String,
    types: Vec<EventType>,
    payloads: BTreeMap<String, Definition>,
}

impl Catalogue {
    /// Reads `event-type.json`, `catalogue.json`, and the payloads that it names.
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

/// A payload's members are plain, so that each can be kept raw when it is not as deduced.
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
        // Payloads never show their members, so a secret needs no type of its own there.
        Shape::Secret => Some(quote! { String }),
        Shape::EventType | Shape::Named(_) => None,
        Shape::List(items) if !plain(items) => None,
        Shape::Map(values) if !plain(values) => None,
        other => Some(types::shape(other)),
    }
}

pub(crate) fn generate(catalogue: &Catalogue) -> TokenStream {
    let values: Vec<Named> = catalogue
        .types
        .iter()
        .map(|event_type| event_type.name.clone())
        .collect();
    let event_type = types::open_enum(
        &ident("EventType"),
        &docs::attributes(&catalogue.description),
        &values,
    );
    let markers = catalogue.types.iter().map(marker);
    let payloads = catalogue.payloads.values().filter_map(payload);
    let data = event_data(catalogue);
    quote! {
        //! The events of AuthPI: their types, what they carry, and which carries what.

        use std::fmt;

        use serde::{Deserialize, Deserializer, Serialize, Serializer};
        use serde_json::value::RawValue;

        use crate::event::extra;

        #event_type

        #data

        /// A marker for each event type: a handler of `Event<UserCreated>` is called for
        /// `user.created` only.
        pub mod types {
            use super::{EventType, payload};
            use crate::event::{EventKind, KnownEvent, extra};

            #(#markers)*
        }

        /// What the `data` of an event holds.
        ///
        /// AuthPI does not document the members; they are deduced from the resources of its Core
        /// API. So each is optional, and what has another shape, or no field, is in `extra`.
        /// `Debug` shows no member.
        pub mod payload {
            use std::fmt;

            use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap as _};
            use serde_json::value::RawValue;

            use crate::event::{
                Extra,
                extra::{self, Fit, Payload, fit},
            };

            #(#payloads)*
        }
    }
}

fn marker(event_type: &EventType) -> TokenStream {
    let (name, payload) = (ident(&event_type.name.rust), ident(&event_type.payload));
    let docs = docs::attributes(&format!(
        "`{}`: {}",
        event_type.name.wire, event_type.description
    ));
    quote! {
        #docs
        #[derive(Clone, Copy, Debug)]
        pub enum #name {}

        impl EventKind for #name {}

        impl KnownEvent for #name {
            const TYPE: EventType = EventType::#name;
            type Data = payload::#payload;

            fn read(data: &str) -> Result<Self::Data, serde_json::Error> {
                extra::read(data)
            }
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
    let names: Vec<_> = object
        .members
        .iter()
        .map(|member| ident(&member.rust))
        .collect();
    let wires: Vec<_> = object.members.iter().map(|member| &member.name).collect();
    let fields = object.members.iter().map(|member| {
        let (field_name, ty) = (ident(&member.rust), field(member));
        let docs = docs::attributes(member.description.as_deref().unwrap_or(&member.name));
        let rename = (member.rust != member.name).then(|| {
            let name = &member.name;
            quote! { #[cfg_attr(feature = "schemars", schemars(rename = #name))] }
        });
        quote! { #docs #rename pub #field_name: Option<#ty>, }
    });
    Some(quote! {
        #docs
        #[derive(Clone, Default, PartialEq)]
        #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
        #[non_exhaustive]
        pub struct #name {
            #(#fields)*
            /// Members without a field, and members of another shape than deduced, as they came.
            #[cfg_attr(feature = "schemars", schemars(flatten))]
            pub extra: Extra,
        }

        impl Payload for #name {
            fn take(&mut self, name: &str, raw: &RawValue) -> Fit {
                match name {
                    #(#wires => fit(&mut self.#names, raw),)*
                    _ => Fit::Unknown,
                }
            }

            fn extra_mut(&mut self) -> &mut Extra {
                &mut self.extra
            }
        }

        impl fmt::Debug for #name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!(#name)).finish_non_exhaustive()
            }
        }

        impl<'de> Deserialize<'de> for #name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                extra::deserialize(deserializer)
            }
        }

        impl Serialize for #name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                #(if let Some(value) = &self.#names {
                    map.serialize_entry(#wires, value)?;
                })*
                for (name, value) in self.extra.iter() {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    })
}

/// The payloads of all types as one type, and the way from a type to its payload.
fn event_data(catalogue: &Catalogue) -> TokenStream {
    let used: BTreeSet<&str> = catalogue
        .types
        .iter()
        .map(|event_type| event_type.payload.as_str())
        .collect();
    let names: Vec<_> = used.iter().map(|payload| ident(payload)).collect();
    let docs_of = used.iter().map(|payload| {
        let first = catalogue
            .payloads
            .get(*payload)
            .and_then(|definition| definition.description.as_deref());
        docs::attributes(first.unwrap_or(payload))
    });
    let arms = used.iter().map(|payload| {
        let name = ident(payload);
        let types = catalogue
            .types
            .iter()
            .filter(|event_type| event_type.payload == *payload)
            .map(|event_type| ident(&event_type.name.rust));
        quote! { #(EventType::#types)|* => extra::read(data).map(|payload| Self::#name(Box::new(payload))) }
    });
    quote! {
        /// What an event carries, one case per kind of payload.
        #[derive(Clone)]
        #[non_exhaustive]
        pub enum EventData {
            #(#docs_of #names(Box<payload::#names>),)*
            /// What an event of a type that this version does not know carries, byte for byte.
            Unknown(Box<RawValue>),
        }

        impl EventData {
            /// Reads `data` as what an event of this type carries, without trying others.
            ///
            /// # Errors
            /// When the type is known and `data` is neither an object nor `null`.
            pub fn decode(event_type: &EventType, data: &RawValue) -> Result<Self, serde_json::Error> {
                Self::read(event_type, data.get())
            }

            /// The same for text that is known to be JSON.
            pub(crate) fn read(event_type: &EventType, data: &str) -> Result<Self, serde_json::Error> {
                match event_type {
                    #(#arms,)*
                    EventType::Unknown(_) => RawValue::from_string(data.to_owned()).map(Self::Unknown),
                }
            }

            /// Members without a field, and of another shape than deduced; `None` for an unknown
            /// type.
            pub fn extra(&self) -> Option<&extra::Extra> {
                match self {
                    #(Self::#names(payload) => Some(&payload.extra),)*
                    Self::Unknown(_) => None,
                }
            }
        }

        impl fmt::Debug for EventData {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    #(Self::#names(payload) => payload.fmt(f),)*
                    Self::Unknown(raw) => write!(f, "Unknown({} bytes)", raw.get().len()),
                }
            }
        }

        impl Serialize for EventData {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    #(Self::#names(payload) => payload.serialize(serializer),)*
                    Self::Unknown(raw) => raw.serialize(serializer),
                }
            }
        }
    }
}
