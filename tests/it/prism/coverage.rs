//! Which parts of the description were used: each operation, and each possible parameter and
//! member of a body.
//!
//! So untested parts are found.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::servers::faults::Asked;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// `openapi/authpi.yaml`, as far as it describes requests.
pub(super) struct Description(Value);

impl Description {
    pub(super) fn read() -> Self {
        let text = include_str!("../../../openapi/authpi.yaml");
        Self(serde_norway::from_str(text).expect("the description is YAML"))
    }

    /// One line for each possible part of a request: `webhooks.list`, `webhooks.list query limit`,
    /// `webhooks.create body auth.type=bearer`.
    pub(super) fn can_be_asked(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for (.., operation, shared) in self.operations() {
            let id = id(operation);
            all.insert(id.to_owned());
            for parameter in parameters(operation)
                .chain(parameters(shared))
                .map(|parameter| self.resolved(parameter))
            {
                let (kind, name) = (text(parameter, "in"), text(parameter, "name"));
                match kind {
                    "path" => {}
                    "header" => drop(all.insert(format!("{id} header {}", name.to_lowercase()))),
                    _ => drop(all.insert(format!("{id} {kind} {name}"))),
                }
            }
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            self.members(body, &format!("{id} body "), &mut all);
        }
        all
    }

    fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value, &Value)> {
        let paths = self.0["paths"].as_object().expect("there are paths");
        paths.iter().flat_map(|(path, item)| {
            METHODS
                .iter()
                .filter_map(move |method| Some((&**path, *method, item.get(*method)?, item)))
        })
    }

    fn members(&self, schema: &Value, prefix: &str, all: &mut BTreeSet<String>) {
        let schema = self.resolved(schema);
        for combined in ["allOf", "anyOf", "oneOf"] {
            for part in schema[combined].as_array().into_iter().flatten() {
                self.members(part, prefix, all);
            }
        }
        if schema.get("items").is_some() {
            self.members(&schema["items"], prefix, all);
        }
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            all.insert(match member.get("const") {
                Some(value) => format!("{prefix}{name}={}", value.as_str().expect("a tag is text")),
                None => format!("{prefix}{name}"),
            });
            self.members(member, &format!("{prefix}{name}."), all);
        }
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"]
            .as_str()
            .and_then(|reference| reference.strip_prefix('#'))
        {
            Some(pointer) => self.resolved(
                self.0
                    .pointer(pointer)
                    .expect("the reference leads somewhere"),
            ),
            None => value,
        }
    }

    /// The parts that a request has used, in the same form, including members of objects that the
    /// description does not specify.
    pub(super) fn asked(
        &self,
        Asked {
            line,
            headers,
            body,
        }: &Asked,
    ) -> BTreeSet<String> {
        let (method, target) = line.split_once(' ').expect("a method and a target");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let found = self
            .operations()
            .find(|(template, of, ..)| of.eq_ignore_ascii_case(method) && is_of(path, template));
        let id = id(found.unwrap_or_else(|| panic!("{line} is not described")).2);
        let mut asked = BTreeSet::from([id.to_owned()]);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            asked.insert(format!(
                "{id} query {}",
                pair.split('=').next().unwrap_or(pair)
            ));
        }
        asked.extend(headers.iter().map(|name| format!("{id} header {name}")));
        if !body.is_empty() {
            written(
                &serde_json::from_slice(body).expect("a body is JSON"),
                &format!("{id} body "),
                &mut asked,
            );
        }
        asked
    }
}

fn written(value: &Value, prefix: &str, asked: &mut BTreeSet<String>) {
    for (name, member) in value.as_object().into_iter().flatten() {
        asked.insert(format!("{prefix}{name}"));
        if let Some(tag) = member.as_str() {
            asked.insert(format!("{prefix}{name}={tag}"));
        }
        written(member, &format!("{prefix}{name}."), asked);
    }
}

fn id(operation: &Value) -> &str {
    text(operation, "operationId")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn parameters(of: &Value) -> impl Iterator<Item = &Value> {
    of["parameters"].as_array().into_iter().flatten()
}

fn is_of(path: &str, template: &str) -> bool {
    let (path, template) = (path.split('/'), template.split('/'));
    path.clone().count() == template.clone().count()
        && path
            .zip(template)
            .all(|(step, wanted)| wanted.starts_with('{') || step == wanted)
}
