//! The operations of the description, with their parameters, bodies and responses.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use serde_json::Value;

use super::{
    document::{Documents, Place, Problem},
    model::{Reader, Shape, Type},
    naming::{self, Scope},
};

pub(crate) const METHODS: &[&str] = &[
    "get", "post", "put", "patch", "delete", "head", "options", "trace",
];
const OPERATION_WORDS: &[&str] = &[
    "operationId",
    "summary",
    "description",
    "tags",
    "parameters",
    "requestBody",
    "responses",
    "security",
    "deprecated",
    "externalDocs",
];
const PARAMETER_WORDS: &[&str] = &[
    "name",
    "in",
    "description",
    "required",
    "schema",
    "style",
    "explode",
    "deprecated",
    "example",
    "examples",
    "allowEmptyValue",
];

pub(crate) struct Operation {
    pub(crate) id: String,
    /// The method's name in Rust.
    pub(crate) rust: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) summary: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Option<Type>,
    pub(crate) answer: Option<Type>,
    /// The statuses of documented errors, as ranges.
    pub(crate) errors: Vec<(u16, u16)>,
    pub(crate) error_bodies: Vec<Type>,
}

pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) description: Option<String>,
    pub(crate) required: bool,
    /// The type that progenitor sees: `string`, `integer`, `number`, `boolean`; or an array of one.
    pub(crate) kind: &'static str,
    pub(crate) repeated: bool,
}

impl Operation {
    fn takes_header(&self, name: &str) -> bool {
        self.parameters.iter().any(|parameter| {
            parameter.location == "header" && parameter.name.eq_ignore_ascii_case(name)
        })
    }

    /// Whether an absent member is not changed and a null one is cleared.
    pub(crate) fn is_partial_update(&self) -> bool {
        self.method == "patch"
    }
}

/// Reads every operation selected by `wanted`, and adds errors to the reader's problems.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    documents: &Documents,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<Operation> {
    let mut operations = Vec::new();
    let mut scope = Scope::new("operation").without(&["new", "new_with_client"]);
    let here = documents.root_place().at("paths");
    for (path, item) in documents.root()["paths"].as_object().into_iter().flatten() {
        if !wanted(path) {
            continue;
        }
        let here = here.at(path);
        for (word, operation) in item.as_object().into_iter().flatten() {
            if METHODS.contains(&word.as_str()) {
                match one(
                    reader,
                    documents,
                    &mut scope,
                    (path, word, operation),
                    (item, &here),
                ) {
                    Ok(operation) => operations.push(operation),
                    Err(problem) => reader.problems.push(problem),
                }
            } else if !["parameters", "summary", "description"].contains(&word.as_str())
                && !word.starts_with("x-")
            {
                let problem = here.at(word).problem(format!(
                    "`{word}` of a path is not among the constructs that codegen knows"
                ));
                reader.problems.push(problem);
            }
        }
    }
    operations
}

fn one(
    reader: &mut Reader<'_>,
    documents: &Documents,
    scope: &mut Scope,
    (path, method, operation): (&str, &str, &Value),
    (item, item_place): (&Value, &Place),
) -> Result<Operation, Problem> {
    let here = item_place.at(method);
    for word in operation
        .as_object()
        .into_iter()
        .flatten()
        .map(|(word, _)| word)
    {
        if !OPERATION_WORDS.contains(&word.as_str()) && !word.starts_with("x-") {
            return Err(here.at(word).problem(format!(
                "`{word}` of an operation is not among the constructs that codegen knows"
            )));
        }
    }
    let Some(id) = operation["operationId"].as_str() else {
        return Err(
            here.problem("an operation needs an `operationId`; methods and errors are named by it")
        );
    };
    let rust = scope.take(id, &here, naming::snake)?;
    let hint = naming::pascal(id).unwrap_or_default();

    let mut parameters: Vec<Parameter> = Vec::new();
    for (list, place) in [(item, item_place), (operation, &here)] {
        for (n, parameter) in list["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let place = place.at("parameters").at(n);
            let (parameter, place) = documents.resolve(parameter, &place)?;
            let parameter = self::parameter(reader, parameter, &place)?;
            parameters.retain(|other| {
                (&other.name, &other.location) != (&parameter.name, &parameter.location)
            });
            parameters.push(parameter);
        }
    }
    let mut names = Scope::new("parameter");
    for parameter in &parameters {
        names.take(&parameter.name, &here.at("parameters"), naming::snake)?;
    }
    for name in path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
    {
        if !parameters
            .iter()
            .any(|parameter| parameter.location == "path" && parameter.name == name)
        {
            return Err(here.problem(format!(
                "the path has {{{name}}}, but no such parameter exists"
            )));
        }
    }

    let body = match operation.get("requestBody") {
        Some(body) => {
            let (body, place) = documents.resolve(body, &here.at("requestBody"))?;
            let (schema, place) = json_schema(body, &place)?.ok_or_else(|| {
                place.problem("a request body without `application/json` content")
            })?;
            Some(reader.read(schema, &place, &format!("{hint}Body"))?)
        }
        None => None,
    };
    let mut read = Operation {
        id: id.to_owned(),
        rust,
        method: method.to_owned(),
        path: path.to_owned(),
        summary: operation["summary"].as_str().map(str::to_owned),
        description: operation["description"].as_str().map(str::to_owned),
        parameters,
        body,
        answer: None,
        errors: Vec::new(),
        error_bodies: Vec::new(),
    };
    answers(
        reader,
        documents,
        &operation["responses"],
        &here.at("responses"),
        &hint,
        &mut read,
    )?;
    Ok(read)
}

/// One response type for all of 2xx; other bodies are read as errors.
fn answers(
    reader: &mut Reader<'_>,
    documents: &Documents,
    responses: &Value,
    place: &Place,
    hint: &str,
    operation: &mut Operation,
) -> Result<(), Problem> {
    let mut success: Option<(Option<Type>, Place)> = None;
    for (status, response) in responses.as_object().into_iter().flatten() {
        let here = place.at(status);
        let (response, response_place) = documents.resolve(response, &here)?;
        let schema = json_schema(response, &response_place)?;
        let is_success = status.starts_with('2');
        let name = if is_success {
            format!("{hint}Response")
        } else {
            format!("{hint}Error{status}")
        };
        let body = schema
            .map(|(schema, place)| reader.read(schema, &place, &name))
            .transpose()?;
        if is_success {
            match &success {
                Some((other, at)) if *other != body => {
                    return Err(here.problem(format!(
                        "answers otherwise than {at}; a call can have one kind of success"
                    )));
                }
                _ => success = Some((body, here)),
            }
            continue;
        }
        operation.error_bodies.extend(body);
        operation.errors.extend(range(status, &here)?);
    }
    let (answer, _) = success.ok_or_else(|| place.problem("no 2xx answer"))?;
    operation.answer = answer;
    Ok(())
}

/// The statuses of a key of `responses`; `default` adds none.
fn range(status: &str, place: &Place) -> Result<Option<(u16, u16)>, Problem> {
    if status == "default" {
        return Ok(None);
    }
    if let Some(class) = status
        .strip_suffix("XX")
        .and_then(|class| class.parse::<u16>().ok())
        .filter(|class| *class < 10)
    {
        return Ok(Some((class * 100, class * 100 + 99)));
    }
    let status = status
        .parse()
        .map_err(|_| place.problem("is not an HTTP status"))?;
    Ok(Some((status, status)))
}

/// The schema of a body's JSON content; `None` if it has no content.
fn json_schema<'s>(body: &'s Value, place: &Place) -> Result<Option<(&'s Value, Place)>, Problem> {
    let Some(content) = body["content"]
        .as_object()
        .filter(|content| !content.is_empty())
    else {
        return Ok(None);
    };
    let here = place.at("content");
    let is_json = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    };
    let Some((kind, media)) = content.iter().find(|(kind, _)| is_json(kind)) else {
        return Err(here.problem("only JSON bodies are known"));
    };
    let here = here.at(kind);
    media
        .get("schema")
        .map(|schema| Some((schema, here.at("schema"))))
        .ok_or_else(|| here.problem("content without a schema"))
}

fn parameter(
    reader: &mut Reader<'_>,
    parameter: &Value,
    place: &Place,
) -> Result<Parameter, Problem> {
    for word in parameter
        .as_object()
        .into_iter()
        .flatten()
        .map(|(word, _)| word)
    {
        if !PARAMETER_WORDS.contains(&word.as_str()) && !word.starts_with("x-") {
            return Err(place.at(word).problem(format!(
                "`{word}` of a parameter is not among the constructs that codegen knows"
            )));
        }
    }
    let text = |word: &str| parameter[word].as_str();
    let name = text("name").ok_or_else(|| place.problem("a parameter without a name"))?;
    let location = text("in").ok_or_else(|| place.problem("a parameter without `in`"))?;
    let usual = match location {
        "path" | "header" => "simple",
        "query" => "form",
        _ => {
            return Err(place
                .at("in")
                .problem(format!("parameters in a {location} are not known")));
        }
    };
    if let Some(style) = text("style").filter(|style| *style != usual) {
        return Err(place
            .at("style")
            .problem(format!("`style: {style}` is not known; only `{usual}` is")));
    }
    let here = place.at("schema");
    let ty = reader.parameter_type(&parameter["schema"], &here)?;
    let (shape, list) = match &ty.shape {
        Shape::List(item) => (&item.shape, true),
        shape => (shape, false),
    };
    let kind = match shape {
        Shape::Text | Shape::Secret | Shape::EventType => "string",
        Shape::Integer | Shape::UnixMillis => "integer",
        Shape::Number => "number",
        Shape::Flag => "boolean",
        _ => {
            return Err(
                here.problem("a parameter must be text, a number, a flag or a list of one of them")
            );
        }
    };
    // progenitor ignores `explode: false` and would repeat the key. The caller joins such a list
    // with commas instead.
    let joined = list && parameter["explode"] == false;
    let mut description = text("description").map(str::to_owned);
    if joined {
        description = Some(
            format!("{} Joined by commas.", description.unwrap_or_default())
                .trim()
                .to_owned(),
        );
    }
    Ok(Parameter {
        name: name.to_owned(),
        location: location.to_owned(),
        description,
        required: parameter["required"] == true,
        kind: if joined { "string" } else { kind },
        repeated: list && !joined,
    })
}

impl Reader<'_> {
    /// The type of a parameter. Enumerations are text here: the facade has types for the possible
    /// values.
    fn parameter_type(&mut self, schema: &Value, place: &Place) -> Result<Type, Problem> {
        let (schema, place) = self.documents().resolve(schema, place)?;
        if schema.get("enum").is_some()
            || schema.get("anyOf").is_some() && !schema["anyOf"][1]["type"].is_null()
        {
            let text = |schema: &Value| {
                schema["type"] == "string"
                    || schema["type"] == "null"
                    || schema.get("$ref").is_some()
            };
            if schema["type"] == "string"
                || schema["anyOf"]
                    .as_array()
                    .is_some_and(|options| options.iter().all(text))
            {
                return Ok(Shape::Text.into());
            }
        }
        if schema["type"] == "array" {
            let item = self.parameter_type(&schema["items"], &place.at("items"))?;
            return Ok(Shape::List(Box::new(item)).into());
        }
        self.read(schema, &place, "Parameter")
    }
}

/// The constants that describe the operations to the facade.
pub(crate) fn table(operations: &[Operation]) -> TokenStream {
    let constants = operations.iter().map(|operation| {
        let name = format_ident!("{}", naming::shouty(&operation.id).unwrap_or_default());
        let method = format_ident!("{}", operation.method.to_uppercase());
        let doc = format!(" `{} {}`", operation.method.to_uppercase(), operation.path);
        let (id, path) = (&operation.id, &operation.path);
        let (idempotency_key, if_match) = (
            operation.takes_header("Idempotency-Key"),
            operation.takes_header("If-Match"),
        );
        quote! {
            #[doc = #doc]
            pub const #name: Operation = Operation {
                id: #id,
                method: http::Method::#method,
                path: #path,
                idempotency_key: #idempotency_key,
                if_match: #if_match,
            };
        }
    });
    let names = operations
        .iter()
        .map(|operation| format_ident!("{}", naming::shouty(&operation.id).unwrap_or_default()));
    quote! {
        /// What the description says about each operation beyond its types.
        pub mod operations {
            /// One operation of the API.
            #[derive(Clone, Debug)]
            pub struct Operation {
                /// The operation's id in the description.
                pub id: &'static str,
                /// The HTTP method.
                pub method: http::Method,
                /// The path, with its parameters in braces.
                pub path: &'static str,
                /// Whether it takes an `Idempotency-Key`.
                pub idempotency_key: bool,
                /// Whether it takes an `If-Match`.
                pub if_match: bool,
            }

            #(#constants)*

            /// All operations, in the order of the description.
            pub const ALL: &[Operation] = &[#(#names),*];
        }
    }
}
