//! AuthPI's own published document beside ours: what of ours does it contradict?
//!
//! Ours is written from pages and from an SDK, so some of it is assumed. When AuthPI's document is at hand, this says which of
//! it was wrong, operation by operation and member by member. Both are read into the same model first, so that style (inline
//! or by reference, names of schemas) makes no difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Result;

use super::{
    document::{Documents, read as read_file},
    model::{Definition, Kind, Object, Reader, Shape, Type},
    operations::{self, Operation},
};

/// Whether an operation at this path is one that the SDK is about.
pub(crate) fn is_of_interest(path: &str) -> bool {
    path.split('/').any(|step| ["webhooks", "events", "me"].contains(&step))
}

/// The event types that our description knows.
pub(crate) fn event_types(folder: &Path) -> Result<BTreeSet<String>> {
    let names = read_file(&folder.join("event-type.json"))?;
    Ok(names["enum"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect())
}

/// One side of the comparison.
struct Side<'a> {
    reader: Reader<'a>,
    operations: Vec<Operation>,
}

impl<'a> Side<'a> {
    fn new(documents: &'a Documents) -> Self {
        let mut reader = Reader::new(documents, true);
        let operations = operations::read(&mut reader, documents, &is_of_interest);
        Self { reader, operations }
    }

    fn definition(&self, name: &str) -> Option<&Definition> {
        self.reader.definitions.get(name)
    }

    /// By method and path; what parameters are called does not matter to a server.
    fn by_route(&self) -> BTreeMap<String, &Operation> {
        let route = |operation: &Operation| {
            let steps = operation.path.split('/').map(|step| if step.starts_with('{') { "{}" } else { step });
            format!("{} {}", operation.method.to_uppercase(), steps.collect::<Vec<_>>().join("/"))
        };
        self.operations.iter().map(|operation| (route(operation), operation)).collect()
    }
}

/// What of ours theirs contradicts, a line each.
pub(crate) fn contradictions(ours: &Documents, theirs: &Documents, our_events: &BTreeSet<String>) -> Vec<String> {
    let (our_side, their_side) = (Side::new(ours), Side::new(theirs));
    let mut found = Vec::new();
    for problem in &their_side.reader.problems {
        found.push(format!("cannot be read: {problem}"));
    }
    let (our_routes, their_routes) = (our_side.by_route(), their_side.by_route());
    for route in our_routes.keys().chain(their_routes.keys()).collect::<BTreeSet<_>>() {
        match (our_routes.get(route), their_routes.get(route)) {
            (Some(our), Some(their)) => compare((&our_side, our), (&their_side, their), &mut found),
            (Some(our), None) => found.push(format!("{}: {route} is not in theirs", our.id)),
            (None, Some(their)) => found.push(format!("{}: {route} is not in ours", their.id)),
            (None, None) => {}
        }
    }
    let schemas = theirs.root_place().at("components").at("schemas");
    let names = theirs
        .get(&schemas.at("WebhookEventType"))
        .and_then(|names| theirs.resolve(names, &schemas.at("WebhookEventType")).ok())
        .map(|(names, _)| &names["enum"]);
    let their_events: BTreeSet<String> = names
        .and_then(|names| names.as_array())
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    if !their_events.is_empty() {
        found.extend(our_events.difference(&their_events).map(|name| format!("event {name}: not in theirs")));
        found.extend(their_events.difference(our_events).map(|name| format!("event {name}: not in ours")));
    }
    found
}

fn compare((ours, our): (&Side<'_>, &Operation), (theirs, their): (&Side<'_>, &Operation), found: &mut Vec<String>) {
    let id = &our.id;
    if our.id != their.id {
        found.push(format!("{id}: theirs is called {}", their.id));
    }
    // A path's parameters go by place, the others by name.
    let named = |operation: &Operation| -> BTreeMap<String, (bool, String)> {
        let parameters = operation.parameters.iter().filter(|parameter| parameter.location != "path");
        parameters
            .map(|parameter| {
                let name = format!("{} {}", parameter.location, parameter.name.to_lowercase());
                let list = if parameter.repeated { "list of " } else { "" };
                (name, (parameter.required, format!("{list}{}", parameter.kind)))
            })
            .collect()
    };
    let (our_parameters, their_parameters) = (named(our), named(their));
    for name in our_parameters.keys().chain(their_parameters.keys()).collect::<BTreeSet<_>>() {
        match (our_parameters.get(name), their_parameters.get(name)) {
            (Some(_), None) => found.push(format!("{id}: {name} is not in theirs")),
            (None, Some((required, _))) => {
                found.push(format!("{id}: {name} is not in ours{}", if *required { ", and required" } else { "" }));
            }
            (Some(our), Some(their)) if our != their => {
                let tell =
                    |(required, kind): &(bool, String)| format!("{}{kind}", if *required { "required " } else { "" });
                found.push(format!("{id}: {name} is {} in ours, {} in theirs", tell(our), tell(their)));
            }
            _ => {}
        }
    }
    let mut pairs = Pairs { ours, theirs, seen: BTreeSet::new(), found };
    for (what, our, their) in [("request", &our.body, &their.body), ("answer", &our.answer, &their.answer)] {
        match (our, their) {
            (Some(our), Some(their)) => pairs.types(&format!("{id} {what}"), our, their),
            (Some(_), None) => pairs.found.push(format!("{id}: the {what} has no body in theirs")),
            (None, Some(_)) => pairs.found.push(format!("{id}: the {what} has no body in ours")),
            (None, None) => {}
        }
    }
    let theirs: BTreeSet<_> = their.errors.iter().collect();
    let ours: BTreeSet<_> = our.errors.iter().collect();
    for (first, last) in theirs.difference(&ours) {
        if !ours.iter().any(|(from, to)| from <= first && last <= to) {
            found.push(format!("{id}: error {} is not in ours", status(*first, *last)));
        }
    }
}

fn status(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{}XX", first / 100) }
}

/// Walks two types side by side.
struct Pairs<'a, 'd> {
    ours: &'a Side<'d>,
    theirs: &'a Side<'d>,
    seen: BTreeSet<(String, String)>,
    found: &'a mut Vec<String>,
}

impl Pairs<'_, '_> {
    fn types(&mut self, at: &str, our: &Type, their: &Type) {
        // What one side does not look into, the other cannot contradict.
        match (&our.shape, &their.shape) {
            (Shape::Raw, _) | (_, Shape::Raw) => {}
            (Shape::List(our), Shape::List(their)) | (Shape::Map(our), Shape::Map(their)) => {
                self.types(&format!("{at}[]"), our, their);
            }
            (Shape::Named(our), Shape::Named(their)) => self.definitions(at, our, their),
            (our, their) if kind(our) == kind(their) => {}
            (our, their) => {
                let (our, their) = (tell(self.ours, our), tell(self.theirs, their));
                if our != their {
                    self.found.push(format!("{at}: {our} in ours, {their} in theirs"));
                }
            }
        }
    }

    fn definitions(&mut self, at: &str, our: &str, their: &str) {
        if !self.seen.insert((our.to_owned(), their.to_owned())) {
            return;
        }
        let (Some(our), Some(their)) = (self.ours.definition(our), self.theirs.definition(their)) else { return };
        match (our.kind.clone(), their.kind.clone()) {
            (Kind::Object(our), Kind::Object(their)) => self.objects(at, &our, &their),
            (Kind::Enum { values: our, .. }, Kind::Enum { values: their, .. }) => {
                let set = |values: &[super::model::Named]| {
                    values.iter().map(|value| value.wire.clone()).collect::<BTreeSet<_>>()
                };
                self.sets(at, "value", &set(&our), &set(&their));
            }
            (Kind::Union { variants: our, .. }, Kind::Union { variants: their, .. }) => {
                let map = |variants: &[super::model::Variant]| -> BTreeMap<String, String> {
                    variants.iter().map(|variant| (variant.tag.wire.clone(), variant.definition.clone())).collect()
                };
                let (our, their) = (map(&our), map(&their));
                self.sets(at, "case", &our.keys().cloned().collect(), &their.keys().cloned().collect());
                for (tag, our) in &our {
                    if let Some(their) = their.get(tag) {
                        self.definitions(&format!("{at}({tag})"), our, their);
                    }
                }
            }
            (our, their) => {
                let tell = |kind: &Kind| match kind {
                    Kind::Object(_) => "an object",
                    Kind::Enum { .. } => "text",
                    Kind::Union { .. } => "a union",
                };
                self.found.push(format!("{at}: {} in ours, {} in theirs", tell(&our), tell(&their)));
            }
        }
    }

    fn sets(&mut self, at: &str, what: &str, our: &BTreeSet<String>, their: &BTreeSet<String>) {
        self.found.extend(our.difference(their).map(|name| format!("{at}: the {what} {name:?} is not in theirs")));
        self.found.extend(their.difference(our).map(|name| format!("{at}: the {what} {name:?} is not in ours")));
    }

    fn objects(&mut self, at: &str, our: &Object, their: &Object) {
        let names: BTreeSet<_> = our.members.iter().chain(&their.members).map(|member| member.name.clone()).collect();
        for name in names {
            let here = format!("{at}.{name}");
            let find = |object: &Object| object.members.iter().find(|member| member.name == name).cloned();
            match (find(our), find(their)) {
                (Some(_), None) => self.found.push(format!("{here}: not in theirs")),
                (None, Some(member)) if member.required => {
                    self.found.push(format!("{here}: not in ours, and required"));
                }
                (None, Some(_)) => self.found.push(format!("{here}: not in ours")),
                (Some(our), Some(their)) => {
                    let word = |required: bool| if required { "required" } else { "optional" };
                    if our.required != their.required {
                        self.found.push(format!(
                            "{here}: {} in ours, {} in theirs",
                            word(our.required),
                            word(their.required)
                        ));
                    }
                    if our.ty.nullable != their.ty.nullable {
                        let word = |nullable: bool| if nullable { "may be null" } else { "is never null" };
                        let (our, their) = (word(our.ty.nullable), word(their.ty.nullable));
                        self.found.push(format!("{here}: {our} in ours, {their} in theirs"));
                    }
                    self.types(&here, &our.ty, &their.ty);
                }
                (None, None) => {}
            }
        }
    }
}

fn tell(side: &Side<'_>, shape: &Shape) -> &'static str {
    match shape {
        // Text of which some values are known is text.
        Shape::Named(name) if side.definition(name).is_some_and(|of| matches!(of.kind, Kind::Enum { .. })) => "text",
        other => kind(other),
    }
}

/// Shapes by what is on the wire.
fn kind(shape: &Shape) -> &'static str {
    match shape {
        Shape::Text | Shape::Secret | Shape::EventType => "text",
        Shape::Flag => "a flag",
        Shape::Integer | Shape::Number | Shape::UnixMillis => "a number",
        Shape::Raw => "anything",
        Shape::List(_) => "a list",
        Shape::Map(_) => "a map",
        Shape::Named(_) => "an object",
    }
}

/// The list for people.
pub(crate) fn report(contradictions: &[String]) -> String {
    if contradictions.is_empty() {
        return "It contradicts nothing of our description.".to_owned();
    }
    let lines = contradictions.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    format!("It differs from our description in {} places:\n{lines}", contradictions.len())
}
