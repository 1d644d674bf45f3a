//! Reads `openapi/`.

use std::{collections::BTreeMap, error::Error};

use http::Method;
use jsonschema::{Draft, Registry, Validator};
use serde_json::{Value, json};

use super::{
    Body, Call, Description, EventCatalogue, Example, Operation, Segment,
    parameter::{Parameter, Reads},
};

const DOCUMENT: &str = include_str!("../../openapi/authpi.yaml");
/// Each file of `openapi/events`, by its path from `openapi`.
const SCHEMAS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/schemas.rs"));
/// The base URL of the files, so that their relative references resolve. Nothing is ever fetched.
const BASE: &str = "https://openapi.invalid/";

type Failure = Box<dyn Error + Send + Sync>;

pub(super) fn load() -> Result<Description, Failure> {
    let document: Value = serde_norway::from_str(DOCUMENT)?;
    let mut schemas = BTreeMap::new();
    let mut registry = Registry::new()
        .draft(Draft::Draft202012)
        .add(format!("{BASE}authpi.yaml"), document.clone())?;
    for (name, text) in SCHEMAS {
        let schema: Value =
            serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        registry = registry.add(format!("{BASE}{name}"), schema.clone())?;
        schemas.insert((*name).to_owned(), schema);
    }
    let reader = Reader {
        document: &document,
        registry: registry.prepare()?,
    };
    Ok(Description {
        operations: reader.operations()?,
        events: catalogue(&schemas)?,
        #[cfg(test)]
        delivery: {
            let media_type = escape(crate::assumptions::DELIVERY_CONTENT_TYPE);
            reader.schema(&format!(
                "/webhooks/delivery/post/requestBody/content/{media_type}/schema"
            ))?
        },
    })
}

struct Reader<'a> {
    document: &'a Value,
    registry: Registry<'a>,
}

impl Reader<'_> {
    fn operations(&self) -> Result<Vec<Operation>, Failure> {
        let mut operations = Vec::new();
        for (path, item) in self.document["paths"].as_object().into_iter().flatten() {
            for method in [
                Method::GET,
                Method::PUT,
                Method::POST,
                Method::PATCH,
                Method::DELETE,
            ] {
                let key = method.as_str().to_lowercase();
                if item.get(&key).is_some() {
                    let at = format!("/paths/{}", escape(path));
                    operations.push(
                        self.operation(path, method, &at, &key)
                            .map_err(|error| format!("{key} {path}: {error}"))?,
                    );
                }
            }
        }
        // `/events/aggregate` before `/events/{event_id}`: OpenAPI prefers the path with fewer
        // parameters.
        operations.sort_by_key(|operation| {
            operation
                .path
                .iter()
                .filter(|s| matches!(s, Segment::Name(_)))
                .count()
        });
        Ok(operations)
    }

    fn operation(
        &self,
        path: &str,
        method: Method,
        item: &str,
        key: &str,
    ) -> Result<Operation, Failure> {
        let at = format!("{item}/{key}");
        let id = self
            .value(&format!("{at}/operationId"))?
            .as_str()
            .ok_or("no operationId")?;
        let call = Call::parse(id).ok_or_else(|| format!("the emulator has no operation {id}"))?;
        let (mut query, mut headers) = (Vec::new(), Vec::new());
        for list in [format!("{item}/parameters"), format!("{at}/parameters")] {
            let count = self
                .value(&list)
                .ok()
                .and_then(Value::as_array)
                .map_or(0, Vec::len);
            for n in 0..count {
                let (at, parameter) = self.resolve(format!("{list}/{n}"))?;
                match parameter["in"].as_str() {
                    Some("query") => query.push(self.parameter(&at, parameter)?),
                    Some("header") => headers.push(self.parameter(&at, parameter)?),
                    _ => {}
                }
            }
        }
        let body = match self.value(&format!("{at}/requestBody")) {
            Ok(_) => {
                let (at, body) = self.resolve(format!("{at}/requestBody"))?;
                let schema = self.schema(&format!(
                    "{at}/content/{}/schema",
                    escape("application/json")
                ))?;
                Some(Body {
                    required: body["required"].as_bool().unwrap_or(false),
                    schema,
                })
            }
            Err(_) => None,
        };
        let mut answers = BTreeMap::new();
        for status in self
            .value(&format!("{at}/responses"))?
            .as_object()
            .ok_or("no responses")?
            .keys()
        {
            let (at, answer) = self.resolve(format!("{at}/responses/{status}"))?;
            let schema = match answer.get("content") {
                Some(_) => Some(self.schema(&format!(
                    "{at}/content/{}/schema",
                    escape("application/json")
                ))?),
                None => None,
            };
            answers.insert(status.to_ascii_uppercase(), schema);
        }
        let path = path.split('/').skip(1).map(|segment| {
            match segment
                .strip_prefix('{')
                .and_then(|name| name.strip_suffix('}'))
            {
                Some(name) => Segment::Name(name.to_owned()),
                None => Segment::Literal(segment.to_owned()),
            }
        });
        Ok(Operation {
            id: id.to_owned(),
            call,
            method,
            path: path.collect(),
            query,
            headers,
            body,
            answers,
        })
    }

    fn parameter(&self, at: &str, parameter: &Value) -> Result<Parameter, Failure> {
        let (_, schema) = self.resolve(format!("{at}/schema"))?;
        let list = is(schema, "array");
        let item = if list {
            self.resolve(format!("{at}/schema/items"))?.1
        } else {
            schema
        };
        Ok(Parameter {
            name: parameter["name"]
                .as_str()
                .ok_or("a parameter without a name")?
                .to_owned(),
            required: parameter["required"].as_bool().unwrap_or(false),
            list,
            reads: Reads {
                integers: is(item, "integer"),
                numbers: is(item, "number"),
                null: is(item, "null"),
            },
            schema: self.schema(&format!("{at}/schema"))?,
        })
    }

    /// A validator for the schema at `pointer` in the document.
    fn schema(&self, pointer: &str) -> Result<Validator, Failure> {
        let fragment = percent_encoding::utf8_percent_encode(pointer, FRAGMENT);
        Ok(jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_registry(&self.registry)
            .should_validate_formats(true)
            .should_ignore_unknown_formats(true)
            .offline()
            .build(&json!({"$ref": format!("{BASE}authpi.yaml#{fragment}")}))
            .map_err(|error| error.to_string())?)
    }

    fn value(&self, pointer: &str) -> Result<&Value, Failure> {
        Ok(self
            .document
            .pointer(pointer)
            .ok_or_else(|| format!("{pointer} is missing"))?)
    }

    /// Follows references within the document and returns the location of the target.
    fn resolve(&self, mut pointer: String) -> Result<(String, &Value), Failure> {
        loop {
            let value = self.value(&pointer)?;
            match value["$ref"]
                .as_str()
                .and_then(|reference| reference.strip_prefix('#'))
            {
                Some(next) => next.clone_into(&mut pointer),
                None => return Ok((pointer, value)),
            }
        }
    }
}

/// Characters that are escaped in the fragment of a URL: the braces of a path.
const FRAGMENT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b'{')
    .add(b'}')
    .add(b' ')
    .add(b'%')
    .add(b'"');

fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

fn is(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::String(only) => only == name,
        Value::Array(several) => several.iter().any(|one| one == name),
        _ => ["anyOf", "oneOf"]
            .iter()
            .filter_map(|key| schema[key].as_array())
            .flatten()
            .any(|one| is(one, name)),
    }
}

fn catalogue(schemas: &BTreeMap<String, Value>) -> Result<EventCatalogue, Failure> {
    let schema = |name: &str| {
        schemas
            .get(name)
            .ok_or_else(|| format!("{name} is missing"))
    };
    let types = schema("events/event-type.json")?;
    let types = find_enum(types).ok_or("events/event-type.json lists no names")?;
    let ids = schema("events/subject.json")?["examples"][0]
        .as_object()
        .ok_or("events/subject.json has no example")?;
    let mut examples = BTreeMap::new();
    for event in schema("events/catalogue.json")?["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let name = event["properties"]["type"]["const"]
            .as_str()
            .ok_or("an event of the catalogue has no name")?;
        let Some(file) = event["properties"]["data"]["$ref"].as_str() else {
            continue;
        };
        let data = schema(&format!("events/{}", file.trim_start_matches("./")))?;
        // The payload's schema lists the names of the ids in the event's subject.
        let members = data["x-authpi-subject"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let members = members
            .filter(|member| ids.contains_key(*member))
            .map(str::to_owned)
            .collect();
        let data = data["examples"][0].as_object().cloned().unwrap_or_default();
        examples.insert(name.to_owned(), Example { members, data });
    }
    Ok(EventCatalogue {
        types,
        ids: ids.clone(),
        examples,
    })
}

/// The list of names, even if the schema allows others.
fn find_enum(schema: &Value) -> Option<Vec<String>> {
    match schema["enum"].as_array() {
        Some(names) => Some(
            names
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        ),
        None => schema["anyOf"].as_array()?.iter().find_map(find_enum),
    }
}
