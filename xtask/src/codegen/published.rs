//! Compares AuthPI's own published document with ours: which of our statements does it contradict?
//!
//! Ours is written from pages and from an SDK, so parts of it are assumed. With AuthPI's document,
//! this tells which of them were wrong, by operation and member. Both are read into the same model
//! first, so that style (inline or by reference, names of schemas) does not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Result;

use super::{
    document::{Documents, Place, read as read_file},
    model::{Definition, Kind, Member, Named, Object, Reader, Shape, Type, Variant},
    operations::{self, Operation},
};

/// Whether the SDK covers operations at this path.
pub(crate) fn is_of_interest(path: &str) -> bool {
    path.split('/')
        .any(|step| ["webhooks", "events", "me"].contains(&step))
}

/// The event types in our description.
pub(crate) fn event_types(folder: &Path) -> Result<BTreeSet<String>> {
    let names = read_file(&folder.join("event-type.json"))?;
    Ok(names["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect())
}

/// One side of the comparison.
struct Side<'a> {
    reader: Reader<'a>,
    operations: Vec<Operation>,
    /// All relevant routes, including operations that cannot be read.
    routes: BTreeSet<String>,
}

impl<'a> Side<'a> {
    fn new(documents: &'a Documents) -> Self {
        let mut reader = Reader::new(documents, true);
        let operations = operations::read(&mut reader, documents, &is_of_interest);
        let mut routes = BTreeSet::new();
        for (path, item) in documents.root()["paths"].as_object().into_iter().flatten() {
            let methods = operations::METHODS
                .iter()
                .filter(|method| is_of_interest(path) && item.get(method).is_some());
            routes.extend(methods.map(|method| route(method, path)));
        }
        Self {
            reader,
            operations,
            routes,
        }
    }

    /// The document's errors, each once, however many operations it affects.
    fn problems(&self, whose: &str) -> BTreeSet<String> {
        self.reader
            .problems
            .iter()
            .map(|problem| format!("{whose} cannot be read: {problem}"))
            .collect()
    }

    fn definition(&self, name: &str) -> Option<&Definition> {
        self.reader.definitions.get(name)
    }

    fn at_route(&self, wanted: &str) -> Option<&Operation> {
        self.operations
            .iter()
            .find(|operation| route(&operation.method, &operation.path) == wanted)
    }
}

/// A member, or a constant member.
enum Part<'o> {
    Constant(&'o str),
    Member(&'o Member),
}

impl<'o> Part<'o> {
    fn of(object: &'o Object, name: &str) -> Option<Self> {
        let constant = object
            .constants
            .iter()
            .find(|(constant, _)| constant == name);
        let member = || object.members.iter().find(|member| member.name == name);
        constant
            .map(|(_, value)| Self::Constant(value))
            .or_else(|| member().map(Self::Member))
    }

    /// Its possible texts, if they are listed: a constant is an enumeration of one.
    fn values(&self, side: &Side<'_>) -> Option<BTreeSet<String>> {
        match self {
            Self::Constant(value) => Some([(*value).to_owned()].into()),
            Self::Member(Member {
                ty:
                    Type {
                        shape: Shape::Named(name),
                        ..
                    },
                ..
            }) => match &side.definition(name)?.kind {
                Kind::Enum { values, .. } => Some(wires(values)),
                _ => None,
            },
            Self::Member(_) => None,
        }
    }

    fn is_raw(&self) -> bool {
        matches!(
            self,
            Self::Member(Member {
                ty: Type {
                    shape: Shape::Raw,
                    ..
                },
                ..
            })
        )
    }

    fn tell(&self, side: &Side<'_>) -> String {
        match self {
            Self::Constant(value) => format!("always {value:?}"),
            Self::Member(member) => tell(side, &member.ty.shape).to_owned(),
        }
    }
}

fn wires(values: &[Named]) -> BTreeSet<String> {
    values.iter().map(|value| value.wire.clone()).collect()
}

/// Method and path; the names of parameters do not matter to a server.
fn route(method: &str, path: &str) -> String {
    let steps = path
        .split('/')
        .map(|step| if step.starts_with('{') { "{}" } else { step });
    format!(
        "{} {}",
        method.to_uppercase(),
        steps.collect::<Vec<_>>().join("/")
    )
}

/// The contradictions, one per line.
pub(crate) fn contradictions(
    ours: &Documents,
    theirs: &Documents,
    our_events: &BTreeSet<String>,
) -> Vec<String> {
    let (our_side, their_side) = (Side::new(ours), Side::new(theirs));
    let mut found = Vec::new();
    found.extend(our_side.problems("ours"));
    found.extend(their_side.problems("theirs"));
    for route in our_side.routes.union(&their_side.routes) {
        let named = |operation: Option<&Operation>| {
            operation.map_or_else(
                || route.clone(),
                |operation| format!("{}: {route}", operation.id),
            )
        };
        let (our, their) = (our_side.at_route(route), their_side.at_route(route));
        match (our, their) {
            (Some(our), Some(their)) => compare((&our_side, our), (&their_side, their), &mut found),
            _ if !their_side.routes.contains(route) => {
                found.push(format!("{} is not in theirs", named(our)));
            }
            _ if !our_side.routes.contains(route) => {
                found.push(format!("{} is not in ours", named(their)));
            }
            (our, their) => {
                let whose = match (our, their) {
                    (None, None) => "either",
                    (None, _) => "ours",
                    (_, _) => "theirs",
                };
                found.push(format!(
                    "{} is not compared: it cannot be read in {whose}",
                    named(our.or(their))
                ));
            }
        }
    }
    let schemas = theirs.root_place().at("components").at("schemas");
    let their_events = enumerated(theirs, &schemas.at("WebhookEventType"));
    if !their_events.is_empty() {
        found.extend(
            our_events
                .difference(&their_events)
                .map(|name| format!("event {name}: not in theirs")),
        );
        found.extend(
            their_events
                .difference(our_events)
                .map(|name| format!("event {name}: not in ours")),
        );
    }
    found
}

/// The values of the schema at `place`, if it or one of its choices is an enumeration.
fn enumerated(documents: &Documents, place: &Place) -> BTreeSet<String> {
    let schema = documents
        .get(place)
        .and_then(|schema| documents.resolve(schema, place).ok());
    let Some((schema, place)) = schema else {
        return BTreeSet::new();
    };
    let own = schema["enum"].as_array().into_iter().flatten();
    let mut values: BTreeSet<String> = own
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    for choice in ["anyOf", "oneOf"] {
        for n in 0..schema[choice].as_array().map_or(0, Vec::len) {
            values.extend(enumerated(documents, &place.at(choice).at(n)));
        }
    }
    values
}

fn compare(
    (ours, our): (&Side<'_>, &Operation),
    (theirs, their): (&Side<'_>, &Operation),
    found: &mut Vec<String>,
) {
    let id = &our.id;
    if our.id != their.id {
        found.push(format!("{id}: theirs is called {}", their.id));
    }
    // A path's parameters are matched by position, the others by name.
    let named = |operation: &Operation| -> BTreeMap<String, (bool, String)> {
        let parameters = operation
            .parameters
            .iter()
            .filter(|parameter| parameter.location != "path");
        parameters
            .map(|parameter| {
                // Only headers are case-insensitive.
                let is_header = parameter.location == "header";
                let name = if is_header {
                    parameter.name.to_lowercase()
                } else {
                    parameter.name.clone()
                };
                let name = format!("{} {name}", parameter.location);
                let list = if parameter.repeated { "list of " } else { "" };
                (
                    name,
                    (parameter.required, format!("{list}{}", parameter.kind)),
                )
            })
            .collect()
    };
    let (our_parameters, their_parameters) = (named(our), named(their));
    for name in our_parameters
        .keys()
        .chain(their_parameters.keys())
        .collect::<BTreeSet<_>>()
    {
        match (our_parameters.get(name), their_parameters.get(name)) {
            (Some(_), None) => found.push(format!("{id}: {name} is not in theirs")),
            (None, Some((required, _))) => {
                found.push(format!(
                    "{id}: {name} is not in ours{}",
                    if *required { ", and required" } else { "" }
                ));
            }
            (Some(our), Some(their)) if our != their => {
                let tell = |(required, kind): &(bool, String)| {
                    format!("{}{kind}", if *required { "required " } else { "" })
                };
                found.push(format!(
                    "{id}: {name} is {} in ours, {} in theirs",
                    tell(our),
                    tell(their)
                ));
            }
            _ => {}
        }
    }
    let mut pairs = Pairs {
        ours,
        theirs,
        seen: BTreeSet::new(),
        found,
    };
    for (what, our, their) in [
        ("request", &our.body, &their.body),
        ("answer", &our.answer, &their.answer),
    ] {
        match (our, their) {
            (Some(our), Some(their)) => pairs.types(&format!("{id} {what}"), our, their),
            (Some(_), None) => pairs
                .found
                .push(format!("{id}: the {what} has no body in theirs")),
            (None, Some(_)) => pairs
                .found
                .push(format!("{id}: the {what} has no body in ours")),
            (None, None) => {}
        }
    }
    let theirs: BTreeSet<_> = their.errors.iter().collect();
    let ours: BTreeSet<_> = our.errors.iter().collect();
    for (first, last) in theirs.difference(&ours) {
        if !ours.iter().any(|(from, to)| from <= first && last <= to) {
            found.push(format!(
                "{id}: error {} is not in ours",
                status(*first, *last)
            ));
        }
    }
}

fn status(first: u16, last: u16) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{}XX", first / 100)
    }
}

/// Compares two types recursively.
struct Pairs<'a, 'd> {
    ours: &'a Side<'d>,
    theirs: &'a Side<'d>,
    seen: BTreeSet<(String, String)>,
    found: &'a mut Vec<String>,
}

impl Pairs<'_, '_> {
    fn types(&mut self, at: &str, our: &Type, their: &Type) {
        // A side that does not specify the type cannot contradict.
        if our.shape == Shape::Raw || their.shape == Shape::Raw {
            return;
        }
        if our.nullable != their.nullable {
            let word = |ty: &Type| {
                if ty.nullable {
                    "may be null"
                } else {
                    "is never null"
                }
            };
            self.found.push(format!(
                "{at}: {} in ours, {} in theirs",
                word(our),
                word(their)
            ));
        }
        match (&our.shape, &their.shape) {
            (Shape::List(our), Shape::List(their)) | (Shape::Map(our), Shape::Map(their)) => {
                self.types(&format!("{at}[]"), our, their);
            }
            (Shape::Named(our), Shape::Named(their)) => self.definitions(at, our, their),
            (our, their) if kind(our) == kind(their) => {}
            (our, their) => {
                let (our, their) = (tell(self.ours, our), tell(self.theirs, their));
                if our != their {
                    self.found
                        .push(format!("{at}: {our} in ours, {their} in theirs"));
                }
            }
        }
    }

    fn definitions(&mut self, at: &str, our: &str, their: &str) {
        if !self.seen.insert((our.to_owned(), their.to_owned())) {
            return;
        }
        let (Some(our), Some(their)) = (self.ours.definition(our), self.theirs.definition(their))
        else {
            return;
        };
        match (our.kind.clone(), their.kind.clone()) {
            (Kind::Object(our), Kind::Object(their)) => self.objects(at, &our, &their),
            (Kind::Enum { values: our, .. }, Kind::Enum { values: their, .. }) => {
                self.sets(at, "value", &wires(&our), &wires(&their));
            }
            (
                Kind::Union { variants: our, .. },
                Kind::Union {
                    variants: their, ..
                },
            ) => {
                let map = |variants: &[Variant]| -> BTreeMap<String, String> {
                    variants
                        .iter()
                        .map(|variant| (variant.tag.wire.clone(), variant.definition.clone()))
                        .collect()
                };
                let (our, their) = (map(&our), map(&their));
                self.sets(
                    at,
                    "case",
                    &our.keys().cloned().collect(),
                    &their.keys().cloned().collect(),
                );
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
                self.found.push(format!(
                    "{at}: {} in ours, {} in theirs",
                    tell(&our),
                    tell(&their)
                ));
            }
        }
    }

    fn sets(&mut self, at: &str, what: &str, our: &BTreeSet<String>, their: &BTreeSet<String>) {
        self.found.extend(
            our.difference(their)
                .map(|name| format!("{at}: the {what} {name:?} is not in theirs")),
        );
        self.found.extend(
            their
                .difference(our)
                .map(|name| format!("{at}: the {what} {name:?} is not in ours")),
        );
    }

    fn objects(&mut self, at: &str, our: &Object, their: &Object) {
        let names = |object: &Object| -> BTreeSet<String> {
            let members = object.members.iter().map(|member| &member.name);
            members
                .chain(object.constants.iter().map(|(name, _)| name))
                .cloned()
                .collect()
        };
        for name in names(our).union(&names(their)) {
            let here = format!("{at}.{name}");
            match (Part::of(our, name), Part::of(their, name)) {
                (Some(_), None) => self.found.push(format!("{here}: not in theirs")),
                (None, Some(Part::Member(member))) if member.required => {
                    self.found
                        .push(format!("{here}: not in ours, and required"));
                }
                (None, Some(_)) => self.found.push(format!("{here}: not in ours")),
                (Some(Part::Member(our)), Some(Part::Member(their))) => {
                    let word = |required: bool| if required { "required" } else { "optional" };
                    if our.required != their.required {
                        let (our, their) = (word(our.required), word(their.required));
                        self.found
                            .push(format!("{here}: {our} in ours, {their} in theirs"));
                    }
                    self.types(&here, &our.ty, &their.ty);
                }
                (Some(our), Some(their)) => {
                    match (our.values(self.ours), their.values(self.theirs)) {
                        (Some(our), Some(their)) => self.sets(&here, "value", &our, &their),
                        _ if our.is_raw() || their.is_raw() => {}
                        _ => {
                            let (our, their) = (our.tell(self.ours), their.tell(self.theirs));
                            self.found
                                .push(format!("{here}: {our} in ours, {their} in theirs"));
                        }
                    }
                }
                (None, None) => {}
            }
        }
    }
}

fn tell(side: &Side<'_>, shape: &Shape) -> &'static str {
    match shape {
        // Text with known values is text.
        Shape::Named(name)
            if side
                .definition(name)
                .is_some_and(|of| matches!(of.kind, Kind::Enum { .. })) =>
        {
            "text"
        }
        other => kind(other),
    }
}

/// The wire type of a shape.
fn kind(shape: &Shape) -> &'static str {
    match shape {
        Shape::Text | Shape::Secret | Shape::EventType => "text",
        Shape::Flag => "a flag",
        Shape::Integer | Shape::UnixMillis => "an integer",
        Shape::Number => "a number",
        Shape::Raw => "anything",
        Shape::List(_) => "a list",
        Shape::Map(_) => "a map",
        Shape::Named(_) => "an object",
    }
}

/// The list as text.
pub(crate) fn report(contradictions: &[String]) -> String {
    if contradictions.is_empty() {
        return "It contradicts nothing of our description.".to_owned();
    }
    let lines = contradictions
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n");
    format!(
        "It differs from our description in {} places:\n{lines}",
        contradictions.len()
    )
}
