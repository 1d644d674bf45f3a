//! The description, reduced to the few constructs that we generate code for.
//!
//! The list of constructs is closed: any other schema is an error with its location, never a guess.
//! Constraints that a server checks (`maxLength`, `pattern`, `minimum`, `additionalProperties:
//! false`, …) are ignored on purpose: a client that enforced them would break when the server
//! relaxes them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    document::{Documents, Place, Problem},
    naming::{self, Scope},
};

/// The type of a member, an item or a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    /// Secret text: `crate::signature::Secret`.
    Secret,
    Flag,
    Integer,
    Number,
    /// `format: unix-ms`.
    UnixMillis,
    /// The open enum of event types, written by the events generator.
    EventType,
    /// JSON that is not interpreted.
    Raw,
    List(Box<Type>),
    Map(Box<Type>),
    /// One of the model's definitions.
    Named(String),
}

impl From<Shape> for Type {
    fn from(shape: Shape) -> Self {
        Self {
            shape,
            nullable: false,
        }
    }
}

/// A type with its own name and code.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) description: Option<String>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Object(Object),
    Enum {
        values: Vec<Named>,
        open: bool,
    },
    Union {
        tag: String,
        variants: Vec<Variant>,
        open: bool,
    },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) members: Vec<Member>,
    /// Members with a constant text, such as a union's tag; they need no field.
    pub(crate) constants: Vec<(String, String)>,
    /// Whether unknown members are kept.
    pub(crate) keeps_extra: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) rust: String,
    pub(crate) description: Option<String>,
    pub(crate) required: bool,
    pub(crate) ty: Type,
}

/// A value of the wire and its name in Rust.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) wire: String,
    pub(crate) rust: String,
}

/// One case of a union: the tag's value and its definition.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) tag: Named,
    pub(crate) definition: String,
}

/// Reads schemas, and collects definitions and problems.
pub(crate) struct Reader<'a> {
    documents: &'a Documents,
    /// Whether closed enums and unions in responses are treated as open, as a foreign description
    /// requires.
    forgiving: bool,
    scope: Scope,
    known: BTreeMap<Place, Known>,
    pub(crate) definitions: BTreeMap<String, Definition>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) notes: Vec<Problem>,
}

#[derive(Clone)]
enum Known {
    /// In progress; only a named type can refer to itself.
    Pending(String),
    Type(Type),
    Unreadable(Problem),
}

type Read<T> = Result<T, Problem>;

/// Keywords for people or servers that do not affect the type.
const WITHOUT_SHAPE: &[&str] = &[
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "externalDocs",
    "xml",
    "$schema",
    "$id",
    "$comment",
    "$anchor",
    "$defs",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "contentEncoding",
    "contentMediaType",
];
const WITH_SHAPE: &[&str] = &[
    "$ref",
    "type",
    "format",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "anyOf",
    "oneOf",
    "allOf",
    "discriminator",
    "nullable",
];

impl<'a> Reader<'a> {
    pub(crate) fn new(documents: &'a Documents, forgiving: bool) -> Self {
        Self {
            documents,
            forgiving,
            scope: Scope::new("schema").without(naming::OF_MODULES),
            known: BTreeMap::new(),
            definitions: BTreeMap::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn documents(&self) -> &'a Documents {
        self.documents
    }

    /// The type of the schema at `place`; `hint` names it if it needs a name and has none.
    pub(crate) fn read(&mut self, schema: &Value, place: &Place, hint: &str) -> Read<Type> {
        if let Value::Bool(true) = schema {
            return Ok(Shape::Raw.into());
        }
        let Some(members) = schema.as_object() else {
            return Err(place.problem("a schema must be an object"));
        };
        for word in members.keys() {
            if !WITHOUT_SHAPE.contains(&word.as_str())
                && !WITH_SHAPE.contains(&word.as_str())
                && !word.starts_with("x-")
            {
                return Err(place.at(word).problem(format!(
                    "`{word}` is not among the constructs that codegen knows"
                )));
            }
        }
        if let Some(reference) = members.get("$ref") {
            let reference = reference
                .as_str()
                .ok_or_else(|| place.at("$ref").problem("a reference must be a string"))?;
            if let Some(word) = members
                .keys()
                .find(|word| *word != "$ref" && WITH_SHAPE.contains(&word.as_str()))
            {
                return Err(place.at(word).problem(format!(
                    "`{word}` beside `$ref`; use `allOf` to combine them"
                )));
            }
            return self.referenced(&place.at("$ref"), &Documents::target(place, reference));
        }
        if let Some(word) = ["anyOf", "oneOf"]
            .into_iter()
            .find(|word| members.contains_key(*word))
        {
            return self.choice(schema, word, place, hint);
        }
        if members.contains_key("allOf") {
            return self.combined(schema, place, hint);
        }
        if let Some(constant) = members.get("const") {
            // Constant properties of an object are handled where its members are read. Anywhere
            // else, a constant is read as plain text; its value is not kept.
            return constant
                .is_string()
                .then(|| Shape::Text.into())
                .ok_or_else(|| place.at("const").problem("only a string can be a constant"));
        }
        let (kind, nullable) = type_of(schema, place)?;
        let nullable = nullable || schema["nullable"] == true;
        let shape = match kind {
            "string" if members.contains_key("enum") => {
                self.named(schema, place, hint, |_, _| {
                    Self::enumeration(&schema["enum"], &place.at("enum"), false)
                })?
            }
            _ if members.contains_key("enum") => {
                return Err(place.at("enum").problem("only strings can be enumerated"));
            }
            "string"
                if members
                    .get("format")
                    .is_some_and(|format| format == "password") =>
            {
                Shape::Secret
            }
            "string" => Shape::Text,
            "boolean" => Shape::Flag,
            "integer" | "number" => number(kind, schema, place)?,
            "array" => {
                let items = members.get("items").unwrap_or(&Value::Bool(true));
                Shape::List(Box::new(self.read(
                    items,
                    &place.at("items"),
                    &format!("{hint}Item"),
                )?))
            }
            "object" => self.object(schema, place, hint)?,
            "any" => Shape::Raw,
            other => {
                return Err(place
                    .at("type")
                    .problem(format!("{other:?} is not a type that codegen supports")));
            }
        };
        Ok(Type { shape, nullable })
    }

    /// The type of a `$ref`.
    fn referenced(&mut self, from: &Place, target: &Place) -> Read<Type> {
        let name = name_of(target, self.documents.get(target));
        if target.file.ends_with("events/event-type.json") || name == "WebhookEventType" {
            return Ok(Shape::EventType.into());
        }
        match self.known.get(target) {
            Some(Known::Type(ty)) => return Ok(ty.clone()),
            Some(Known::Unreadable(problem)) => return Err(problem.clone()),
            Some(Known::Pending(name)) if self.definitions.contains_key(name) => {
                return Ok(Shape::Named(name.clone()).into());
            }
            Some(Known::Pending(_)) => return Err(from.problem("`$ref`s that lead in a circle")),
            None => {}
        }
        let documents = self.documents;
        let schema = documents
            .get(target)
            .ok_or_else(|| from.problem(format!("nothing at {target}")))?;
        let rust = naming::pascal(&name)
            .ok_or_else(|| target.problem("a schema without a usable name"))?;
        self.known.insert(target.clone(), Known::Pending(rust));
        let read = self.read(schema, target, &name);
        let known = read.clone().map_or_else(Known::Unreadable, Known::Type);
        self.known.insert(target.clone(), known);
        read
    }

    /// Names the schema, then calls `define`.
    fn named(
        &mut self,
        schema: &Value,
        place: &Place,
        hint: &str,
        define: impl FnOnce(&mut Self, &str) -> Read<Kind>,
    ) -> Read<Shape> {
        let name = self.scope.take(hint, place, naming::pascal)?;
        let description = schema["description"].as_str().map(str::to_owned);
        // A placeholder, so that a schema can refer to itself.
        let kind = Kind::Object(Object::default());
        let definition = Definition {
            name: name.clone(),
            place: place.clone(),
            description,
            kind,
        };
        self.definitions.insert(name.clone(), definition);
        let kind = define(self, &name)?;
        if let Some(definition) = self.definitions.get_mut(&name) {
            definition.kind = kind;
        }
        Ok(Shape::Named(name))
    }

    fn object(&mut self, schema: &Value, place: &Place, hint: &str) -> Read<Shape> {
        let properties = schema.get("properties").and_then(Value::as_object);
        match (properties, schema.get("additionalProperties")) {
            (Some(properties), extra) if !properties.is_empty() => {
                let keeps_extra = matches!(extra, Some(Value::Bool(true) | Value::Object(_)));
                self.named(schema, place, hint, |reader, name| {
                    let mut object = Object {
                        keeps_extra,
                        ..Object::default()
                    };
                    reader.members(schema, place, name, &mut object)?;
                    Self::finish_object(object, place)
                })
            }
            (_, Some(values @ Value::Object(of))) if !of.is_empty() => {
                let values = self.read(
                    values,
                    &place.at("additionalProperties"),
                    &format!("{hint}Value"),
                )?;
                Ok(Shape::Map(Box::new(values)))
            }
            _ => Ok(Shape::Raw),
        }
    }

    /// Adds the members of one object schema to `object`; later members replace earlier ones.
    fn members(
        &mut self,
        schema: &Value,
        place: &Place,
        owner: &str,
        object: &mut Object,
    ) -> Read<()> {
        let required: BTreeSet<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let here = place.at("properties").at(name);
            // A required enumeration with one value is a constant too; older generators write tags
            // in this way.
            let constant = property.get("const").or_else(|| {
                let values = property["enum"]
                    .as_array()
                    .filter(|_| required.contains(name.as_str()))?;
                if let [only] = values.as_slice() {
                    Some(only)
                } else {
                    None
                }
            });
            if let Some(constant) = constant {
                let constant = constant
                    .as_str()
                    .ok_or_else(|| here.at("const").problem("only a string can be a constant"))?;
                object.members.retain(|member| member.name != *name);
                object.constants.push((name.clone(), constant.to_owned()));
                continue;
            }
            let hint = format!("{owner}{}", naming::pascal(name).unwrap_or_default());
            let mut ty = self.read(property, &here, &hint)?;
            if ty.shape == Shape::Text && is_secret(name) {
                ty.shape = Shape::Secret;
            }
            let description = property["description"].as_str().map(str::to_owned);
            // The Rust name that the schema requests; conflicts are resolved for the whole object.
            let rust = property["x-rust-name"].as_str().unwrap_or(name).to_owned();
            let member = Member {
                name: name.clone(),
                rust,
                description,
                required: required.contains(name.as_str()),
                ty,
            };
            match object.members.iter_mut().find(|other| other.name == *name) {
                Some(other) => *other = member,
                None => object.members.push(member),
            }
        }
        for member in &mut object.members {
            member.required |= required.contains(member.name.as_str());
        }
        Ok(())
    }

    fn finish_object(mut object: Object, place: &Place) -> Read<Kind> {
        object.keeps_extra |= !object.constants.is_empty();
        let mut scope = Scope::new("member");
        if object.keeps_extra {
            scope = scope.without(&["extra"]);
        }
        for member in &mut object.members {
            member.rust = scope.take(
                &member.rust,
                &place.at("properties").at(&member.name),
                naming::snake,
            )?;
        }
        Ok(Kind::Object(object))
    }

    /// `allOf`: several objects combined into one.
    fn combined(&mut self, schema: &Value, place: &Place, hint: &str) -> Read<Type> {
        let parts = schema["allOf"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if let ([only], None) = (parts, schema.get("properties")) {
            return self.read(only, &place.at("allOf").at(0), hint);
        }
        let shape = self.named(schema, place, hint, |reader, name| {
            let mut object = Object::default();
            reader.parts(schema, place, name, &mut object)?;
            Self::finish_object(object, place)
        })?;
        Ok(shape.into())
    }

    fn parts(
        &mut self,
        schema: &Value,
        place: &Place,
        name: &str,
        object: &mut Object,
    ) -> Read<()> {
        for (n, part) in schema["allOf"].as_array().into_iter().flatten().enumerate() {
            let documents = self.documents;
            let here = place.at("allOf").at(n);
            let (part, here) = if part.get("$ref").is_some() {
                let (_, found) = documents.resolve(part, &here)?;
                (documents.get(&found).cloned().unwrap_or_default(), found)
            } else {
                (part.clone(), here)
            };
            let object_like = part.get("properties").is_some()
                || part.get("allOf").is_some()
                || part.get("required").is_some();
            if !object_like || part.get("anyOf").is_some() || part.get("oneOf").is_some() {
                return Err(
                    here.problem("only objects with `properties` can be combined by `allOf`")
                );
            }
            self.parts(&part, &here, name, object)?;
        }
        object.keeps_extra |= schema["additionalProperties"] == true;
        self.members(schema, place, name, object)
    }

    /// `anyOf` and `oneOf`: a nullable type, an open enum, or a union with a tag.
    fn choice(&mut self, schema: &Value, word: &str, place: &Place, hint: &str) -> Read<Type> {
        let here = place.at(word);
        let all = schema[word]
            .as_array()
            .ok_or_else(|| here.problem("must be a list of schemas"))?;
        let is_null = |option: &Value| option["type"] == "null";
        let nullable = all.iter().any(is_null);
        let options: Vec<(usize, &Value)> = all
            .iter()
            .enumerate()
            .filter(|(_, option)| !is_null(option))
            .collect();
        let tag = self.tag(schema, &options, place)?;
        let mut ty: Type = match (options.as_slice(), tag) {
            ([(n, only)], _) => self.read(only, &here.at(n), hint)?,
            (_, Some(tag)) => self
                .union(schema, &tag, &here, &options, place, hint)?
                .into(),
            ([(n, first), (_, second)], None) => {
                let documents = self.documents;
                let (values, values_place) = documents.resolve(first, &here.at(n))?;
                if values.get("enum").is_none()
                    || second["type"] != "string"
                    || second.get("enum").is_some()
                {
                    return Err(here.problem(
                        "neither `X or null`, nor an open enum (a string with `enum`, then any string), nor a union with a \
                         `discriminator`",
                    ));
                }
                if is_event_type(&values_place, values) {
                    Shape::EventType.into()
                } else {
                    let place_of_values = values_place.at("enum");
                    self.named(schema, place, hint, |_, _| {
                        Self::enumeration(&values["enum"], &place_of_values, true)
                    })?
                    .into()
                }
            }
            (_, None) => {
                return Err(here.problem(
                    "a choice that only its shape tells apart; give it a `discriminator`",
                ));
            }
        };
        ty.nullable |= nullable;
        Ok(ty)
    }

    fn enumeration(values: &Value, place: &Place, open: bool) -> Read<Kind> {
        let mut scope = Scope::new("enum value").without(&["Unknown"]);
        let mut named = Vec::new();
        for (n, value) in values.as_array().into_iter().flatten().enumerate() {
            if value.is_null() {
                continue;
            }
            let here = place.at(n);
            let wire = value
                .as_str()
                .ok_or_else(|| here.problem("only strings can be enumerated"))?;
            named.push(Named {
                wire: wire.to_owned(),
                rust: scope.take(wire, &here, naming::pascal)?,
            });
        }
        Ok(Kind::Enum {
            values: named,
            open,
        })
    }

    /// The member that identifies the cases of a union: the `discriminator`, or a member that is
    /// constant in each case.
    fn tag(
        &self,
        schema: &Value,
        options: &[(usize, &Value)],
        place: &Place,
    ) -> Read<Option<String>> {
        if let Some(discriminator) = schema.get("discriminator") {
            let tag = discriminator["propertyName"].as_str();
            let tag = tag.ok_or_else(|| {
                place
                    .at("discriminator")
                    .problem("`propertyName` is missing")
            })?;
            return Ok(Some(tag.to_owned()));
        }
        let mut common: Option<BTreeSet<String>> = None;
        for (n, (_, option)) in options.iter().enumerate() {
            let (option, _) = self.documents.resolve(option, place)?;
            // The last case may be the open one, with any text as its tag.
            let is_last = n > 0 && n + 1 == options.len();
            let is_tag = |property: &Value| {
                property["const"].is_string()
                    || only_value(property).is_some()
                    || is_last && property["type"] == "string"
            };
            let properties = option["properties"].as_object().into_iter().flatten();
            let names: BTreeSet<_> = properties
                .filter(|(_, property)| is_tag(property))
                .map(|(name, _)| name.clone())
                .collect();
            common = Some(match common {
                Some(common) => common.intersection(&names).cloned().collect(),
                None => names,
            });
        }
        Ok(common.and_then(|names| names.into_iter().next()))
    }

    fn union(
        &mut self,
        schema: &Value,
        tag: &str,
        options_place: &Place,
        options: &[(usize, &Value)],
        place: &Place,
        hint: &str,
    ) -> Read<Shape> {
        self.named(schema, place, hint, |reader, name| {
            let mut scope = Scope::new("union case").without(&["Unknown"]);
            let (mut variants, mut open) = (Vec::new(), false);
            for (position, &(n, option)) in options.iter().enumerate() {
                let here = options_place.at(n);
                let documents = reader.documents;
                let (target, target_place) = documents.resolve(option, &here)?;
                let property = &target["properties"][tag];
                let Some(value) = property["const"].as_str().or_else(|| only_value(property))
                else {
                    // The open case: an object with any tag.
                    if position + 1 == options.len() && property["type"] == "string" {
                        open = true;
                        continue;
                    }
                    return Err(target_place
                        .problem(format!("a case of a union needs `{tag}` with a `const`")));
                };
                let rust = scope.take(value, &target_place, naming::pascal)?;
                let ty = reader.read(option, &here, &format!("{name}{rust}"))?;
                let Shape::Named(definition) = ty.shape else {
                    return Err(
                        here.problem("a case of a union must be an object with `properties`")
                    );
                };
                variants.push(Variant {
                    tag: Named {
                        wire: value.to_owned(),
                        rust,
                    },
                    definition,
                });
            }
            Ok(Kind::Union {
                tag: tag.to_owned(),
                variants,
                open,
            })
        })
    }

    /// Checks responses: with a closed enum or union, one new value would make a whole response
    /// fail.
    pub(crate) fn open_what_is_received(&mut self, received: &BTreeSet<String>) {
        for name in received {
            let Some(definition) = self.definitions.get_mut(name) else {
                continue;
            };
            let (Kind::Enum { open, .. } | Kind::Union { open, .. }) = &mut definition.kind else {
                continue;
            };
            if *open {
                continue;
            }
            if self.forgiving {
                *open = true;
                self.notes.push(
                    definition
                        .place
                        .problem(format!("`{name}` is closed but received; read as open")),
                );
            } else {
                self.problems.push(definition.place.problem(format!(
                    "`{name}` is received, so it must be open: one value that AuthPI adds would make whole answers fail. Write \
                     `anyOf` with the known values first and then any string (or, for a union, any object with the tag)"
                )));
            }
        }
    }

    /// Checks that need the whole model: the names of unknown cases, and types that contain
    /// themselves.
    pub(crate) fn check(&mut self) {
        for definition in self.definitions.values() {
            if let Kind::Enum { open: true, .. } | Kind::Union { open: true, .. } = &definition.kind
                && let Some(other) = self.definitions.get(&format!("Unknown{}", definition.name))
            {
                self.problems.push(other.place.problem(format!(
                    "the schema would be called `{}` in Rust, as the unknown case of {} is",
                    other.name, definition.place
                )));
            }
            if self.holds(&definition.name, &definition.name, &mut BTreeSet::new()) {
                self.problems.push(
                    definition
                        .place
                        .problem("an object that holds itself, and not in a list or a map"),
                );
            }
        }
    }

    /// Whether a value of the definition `outer` directly contains a value of `inner`, without a
    /// list or map in between.
    fn holds(&self, outer: &str, inner: &str, seen: &mut BTreeSet<String>) -> bool {
        let Some(definition) = self.definitions.get(outer) else {
            return false;
        };
        let within: Vec<&str> = match &definition.kind {
            Kind::Object(object) => object
                .members
                .iter()
                .filter_map(|member| {
                    if let Shape::Named(name) = &member.ty.shape {
                        Some(name.as_str())
                    } else {
                        None
                    }
                })
                .collect(),
            Kind::Union { variants, .. } => variants
                .iter()
                .map(|variant| variant.definition.as_str())
                .collect(),
            Kind::Enum { .. } => Vec::new(),
        };
        within.into_iter().any(|name| {
            name == inner || seen.insert(name.to_owned()) && self.holds(name, inner, seen)
        })
    }

    /// The definitions reachable from `roots`.
    pub(crate) fn reached<'t>(
        &self,
        roots: impl IntoIterator<Item = &'t Type>,
    ) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<String> = roots
            .into_iter()
            .filter_map(|ty| named_in(ty).map(str::to_owned))
            .collect();
        while let Some(name) = open.pop() {
            let Some(definition) = self.definitions.get(&name) else {
                continue;
            };
            if !reached.insert(name) {
                continue;
            }
            match &definition.kind {
                Kind::Object(object) => {
                    open.extend(
                        object
                            .members
                            .iter()
                            .filter_map(|member| named_in(&member.ty).map(str::to_owned)),
                    );
                }
                Kind::Union { variants, .. } => {
                    open.extend(variants.iter().map(|variant| variant.definition.clone()));
                }
                Kind::Enum { .. } => {}
            }
        }
        reached
    }
}

/// The definition that a type is, or whose list or map it is.
pub(crate) fn named_in(ty: &Type) -> Option<&str> {
    match &ty.shape {
        Shape::Named(name) => Some(name),
        Shape::List(of) | Shape::Map(of) => named_in(of),
        _ => None,
    }
}

/// A schema's type and whether it may be null.
fn type_of<'s>(schema: &'s Value, place: &Place) -> Read<(&'s str, bool)> {
    match &schema["type"] {
        Value::String(one) => Ok((one, false)),
        Value::Array(some) => {
            let names: Vec<&str> = some
                .iter()
                .filter_map(Value::as_str)
                .filter(|name| *name != "null")
                .collect();
            match names.as_slice() {
                [one] => Ok((one, some.len() > 1)),
                _ => Err(place
                    .at("type")
                    .problem("several types at once; only `[X, \"null\"]` is known")),
            }
        }
        Value::Null if schema.get("properties").is_some() => Ok(("object", false)),
        Value::Null if schema.get("enum").is_some() => Ok(("string", false)),
        Value::Null if schema.get("items").is_some() => Ok(("array", false)),
        Value::Null => Ok(("any", false)),
        _ => Err(place
            .at("type")
            .problem("must be a name or a list of names")),
    }
}

fn number(kind: &str, schema: &Value, place: &Place) -> Read<Shape> {
    match (kind, schema["format"].as_str()) {
        (_, Some("unix-ms")) => Ok(Shape::UnixMillis),
        ("integer", None | Some("int32" | "int64")) => Ok(Shape::Integer),
        ("number", None | Some("float" | "double")) => Ok(Shape::Number),
        (_, Some(format)) => Err(place.at("format").problem(format!(
            "{format:?} is not a number format that codegen supports"
        ))),
        (_, None) => Err(place.problem("no number")),
    }
}

fn only_value(property: &Value) -> Option<&str> {
    match property["enum"].as_array()?.as_slice() {
        [one] => one.as_str(),
        _ => None,
    }
}

fn is_event_type(place: &Place, schema: &Value) -> bool {
    place.file.ends_with("events/event-type.json")
        || name_of(place, Some(schema)) == "WebhookEventType"
}

/// The name of the schema at `place`: the last step of its pointer, or the title or file name of a
/// whole file.
fn name_of(place: &Place, schema: Option<&Value>) -> String {
    if let Some((_, last)) = place.pointer.rsplit_once('/') {
        return last.to_owned();
    }
    let title = schema.and_then(|schema| schema["title"].as_str());
    let stem = place
        .file
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".json")
        .trim_end_matches(".yaml");
    title.unwrap_or(stem).to_owned()
}

/// Members whose text is secret, by AuthPI's naming: `signature_secret_plain`,
/// `bearer_token_plain`, and those that a caller may set (`signature_secret`, `bearer_token`).
pub(crate) fn is_secret(member: &str) -> bool {
    ["secret", "token", "password"].iter().any(|word| {
        member
            .strip_suffix("_plain")
            .unwrap_or(member)
            .strip_suffix(word)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    })
}
