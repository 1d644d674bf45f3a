//! The typed client: progenitor writes a method per operation, from a simplified document.
//!
//! progenitor reads OpenAPI 3.0, supports one error type per operation, and writes types that fail
//! on values that a service may add. So it gets a 3.0 document made here in memory: parameters of
//! plain types, bodies that are only names (the types of those names are ours, see `types`), and
//! exactly one `2XX` response per operation.
//!
//! From its methods we keep how a request is built and the type of its response. Sending is the
//! same for all of them and needs more than a hook can tell: how far the request got, and the
//! response as it was. So the facade does it in one place.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use proc_macro2::TokenStream;
use progenitor_impl::{GenerationSettings, Generator};
use quote::ToTokens;
use serde_json::{Map, Value, json};
use syn::visit_mut::{self, VisitMut};

use super::{
    model::{Shape, Type},
    naming::ident,
    operations::{Operation, Parameter},
    types,
};

/// The simplified document, and its names with the Rust types that they represent.
pub(crate) fn lower(operations: &[Operation], version: &str) -> (Value, Vec<(String, String)>) {
    let mut names = BTreeSet::new();
    let mut paths = Map::new();
    for operation in operations {
        let mut lowered = json!({
            "operationId": operation.rust,
            "parameters": operation.parameters.iter().map(parameter).collect::<Vec<_>>(),
            "responses": { "2XX": answer(operation.answer.as_ref(), &mut names) },
        });
        if let Some(summary) = &operation.summary {
            lowered["summary"] = json!(summary);
        }
        if let Some(description) = &operation.description {
            lowered["description"] = json!(description);
        }
        if let Some(body) = &operation.body {
            lowered["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": reference(body, &mut names) } } });
        }
        let item = paths.entry(&operation.path).or_insert_with(|| json!({}));
        item[&operation.method] = lowered;
    }
    let schemas: Map<String, Value> = names
        .iter()
        .map(|(name, _)| (name.clone(), json!({ "type": "object" })))
        .collect();
    let document = json!({
        "openapi": "3.0.3",
        "info": { "title": "AuthPI", "version": version },
        "paths": paths,
        "components": { "schemas": schemas },
    });
    (document, names.into_iter().collect())
}

fn parameter(parameter: &Parameter) -> Value {
    let mut schema = json!({ "type": parameter.kind });
    if parameter.kind == "integer" {
        schema["format"] = json!("int64");
    }
    if parameter.repeated {
        schema = json!({ "type": "array", "items": schema });
    }
    let mut lowered = json!({
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.required || parameter.location == "path",
        "schema": schema,
    });
    if let Some(description) = &parameter.description {
        lowered["description"] =
            json!(description.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    lowered
}

fn answer(body: Option<&Type>, names: &mut BTreeSet<(String, String)>) -> Value {
    match body {
        Some(body) => json!({
            "description": "",
            "content": { "application/json": { "schema": reference(body, names) } },
        }),
        None => json!({ "description": "" }),
    }
}

/// A name for `ty` that progenitor replaces with the type itself.
fn reference(ty: &Type, names: &mut BTreeSet<(String, String)>) -> Value {
    let (name, rust) = match &ty.shape {
        Shape::Named(name) => (name.clone(), format!("types::{}", ident(name))),
        other => (
            format!("Body{}", names.len()),
            types::shape(other).to_string(),
        ),
    };
    let known = names
        .iter()
        .find(|(_, of)| *of == rust)
        .map(|(name, _)| name.clone());
    let name = known.unwrap_or_else(|| {
        names.insert((name.clone(), rust));
        name
    });
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The code of the client, without types.
pub(crate) fn generate(operations: &[Operation], version: &str) -> Result<TokenStream> {
    let (document, names) = lower(operations, version);
    let document: openapiv3::OpenAPI = serde_json::from_value(document)
        .context("the lowered document is no OpenAPI 3.0; this is a bug in xtask")?;
    let mut settings = GenerationSettings::new();
    for (name, rust) in names {
        settings.with_replacement(name, rust, std::iter::empty());
    }
    let tokens = Generator::new(&settings)
        .generate_tokens(&document)
        .context("progenitor cannot write the client")?;
    let file: syn::File =
        syn::parse2(tokens).context("progenitor wrote something that is no Rust")?;
    let file = trim(file, operations).context(
        "progenitor writes its client in a way that codegen does not know; adapt \
         xtask/src/codegen/client.rs to the new version",
    )?;
    Ok(file.into_token_stream())
}

/// Reduces progenitor's code to the parts that we keep. Unknown and missing parts are errors, so
/// that a new version of progenitor cannot change the SDK unnoticed.
fn trim(file: syn::File, operations: &[Operation]) -> Result<syn::File> {
    let mut kept: Vec<syn::Item> = vec![
        syn::parse_quote! { use progenitor_client::encode_path; },
        syn::parse_quote! { use crate::client::{NotBuilt, Request}; },
    ];
    let mut seen = BTreeSet::new();
    for item in file.items {
        match item {
            syn::Item::Use(_) => {}
            // The types are ours, and a private module needs no prelude.
            syn::Item::Mod(module) if module.ident == "types" || module.ident == "prelude" => {}
            syn::Item::Struct(client) if client.ident == "Client" => {
                seen.insert("Client".to_owned());
                kept.push(syn::Item::Struct(without_debug(client)?));
            }
            // Hooks are called by the part of a method that is removed.
            syn::Item::Impl(item) if is_for_hooks(&item) => {}
            syn::Item::Impl(item) if item.trait_.is_none() && is_type(&item.self_ty, "Client") => {
                kept.push(syn::Item::Impl(methods(item, operations, &mut seen)?));
            }
            other => bail!("an item is unknown: `{}`", beginning(&other)),
        }
    }
    for name in ["Client", "new", "new_with_client"]
        .into_iter()
        .chain(operations.iter().map(|operation| &*operation.rust))
    {
        ensure!(seen.contains(name), "`{name}` is missing");
    }
    Ok(syn::File {
        items: kept,
        ..file
    })
}

/// The struct without its `Debug`, which prints all settings of the HTTP client.
fn without_debug(mut client: syn::ItemStruct) -> Result<syn::ItemStruct> {
    let attributes = std::mem::take(&mut client.attrs);
    ensure!(
        attributes
            .iter()
            .any(|attribute| attribute.path().is_ident("derive")),
        "the struct `Client` has no `#[derive(…)]`"
    );
    client.attrs = vec![
        syn::parse_quote! { #[doc = " One method per operation; the facade in `crate::client` is what users see."] },
        syn::parse_quote! { #[derive(Clone)] },
    ];
    Ok(client)
}

fn is_for_hooks(item: &syn::ItemImpl) -> bool {
    item.trait_
        .as_ref()
        .is_some_and(|(path, _)| ends_in(path, "ClientInfo") || ends_in(path, "ClientHooks"))
}

/// The methods of the client, each reduced to the part that builds its request. Adds their names to
/// `seen`.
fn methods(
    mut item: syn::ItemImpl,
    operations: &[Operation],
    seen: &mut BTreeSet<String>,
) -> Result<syn::ItemImpl> {
    for member in std::mem::take(&mut item.items) {
        let syn::ImplItem::Fn(mut function) = member else {
            bail!(
                "`impl Client` has an unknown item: `{}`",
                beginning(&member)
            );
        };
        let name = function.sig.ident.to_string();
        // progenitor appends `_` to keywords.
        let operation = operations.iter().find(|operation| {
            name.strip_suffix('_').unwrap_or(&name) == operation.rust.trim_end_matches('_')
        });
        match (operation, &*name) {
            (Some(operation), _) => {
                keep_request(&mut function, operation)
                    .and_then(|()| document(&mut function, Some(operation)))
                    .with_context(|| format!("the method `{name}`"))?;
                seen.insert(operation.rust.clone());
            }
            // It panics without TLS or CA certificates, and sets its own timeout.
            (None, "new") => {
                seen.insert(name);
                continue;
            }
            (None, "new_with_client") => {
                document(&mut function, None)?;
                seen.insert(name);
            }
            (None, _) => bail!("the method `{name}` belongs to no operation"),
        }
        item.items.push(syn::ImplItem::Fn(function));
    }
    Ok(item)
}

/// Makes the doc comment safe, since it contains descriptions, and states that nothing is sent.
fn document(function: &mut syn::ImplItemFn, operation: Option<&Operation>) -> Result<()> {
    let (docs, others): (Vec<_>, Vec<_>) = std::mem::take(&mut function.attrs)
        .into_iter()
        .partition(|attribute| attribute.path().is_ident("doc"));
    let mut text = String::new();
    for attribute in &docs {
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && let syn::Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(line),
                ..
            }) = &pair.value
        {
            text.push_str(&line.value());
            text.push('\n');
        }
    }
    if let Some(operation) = operation {
        let request = format!(
            "`{}` request to `{}`",
            operation.method.to_uppercase(),
            operation.path
        );
        let sends = format!("Sends a {request}\n");
        ensure!(
            text.contains(&sends),
            "its documentation has no line `{}`",
            sends.trim_end()
        );
        text = text.replace(&sends, &format!("A {request}\n"));
    }
    function.attrs = others;
    for line in super::docs::lines(&text) {
        let line = if line.is_empty() {
            line
        } else {
            format!(" {line}")
        };
        function.attrs.push(syn::parse_quote! { #[doc = #line] });
    }
    Ok(())
}

/// Reduces a method to the part that builds its request.
///
/// ```text
/// let url = format!(…);
/// let mut header_map = …;
/// header_map.append("api-version", …);          // cut: AuthPI knows no such header
/// header_map.append("If-Match", …);             // one for each header parameter
/// let mut request = self.client.get(url)….headers(header_map).build()?;
/// let info = OperationInfo { … };               // cut, with all that follows: hooks, sending
/// ```
fn keep_request(function: &mut syn::ImplItemFn, operation: &Operation) -> Result<()> {
    let answer = match &function.sig.output {
        syn::ReturnType::Type(_, result) if function.sig.asyncness.is_some() => {
            argument(result, "Result").and_then(|value| argument(&value, "ResponseValue"))
        }
        _ => None,
    };
    let answer = answer.context("it is not `async fn(…) -> Result<ResponseValue<_>, _>`")?;

    let mut headers: Vec<&str> = operation
        .parameters
        .iter()
        .filter(|parameter| parameter.location == "header")
        .map(|parameter| &*parameter.name)
        .collect();
    let sends_headers = !headers.is_empty();
    let mut has_version = false;
    let mut kept = Vec::new();
    let mut statements = std::mem::take(&mut function.block.stmts).into_iter();
    let mut request = loop {
        let statement = statements
            .next()
            .context("it has no `let … = ….build()?`")?;
        if let Some(request) = built(&statement) {
            break request.clone();
        }
        if let Some(name) = appended_header(&statement) {
            if name == "api-version" {
                has_version = true;
                continue;
            }
            let at = headers
                .iter()
                .position(|header| header.eq_ignore_ascii_case(&name))
                .with_context(|| {
                    format!("it sends the header `{name}`, which the description does not have")
                })?;
            headers.remove(at);
        } else if binds(&statement, "header_map") {
            if !sends_headers {
                continue;
            }
        } else if !is_url(&statement) {
            bail!("it has an unknown statement: `{}`", beginning(&statement));
        }
        kept.push(statement);
    };
    ensure!(
        has_version,
        "it has no `header_map.append(…(\"api-version\"), …)`"
    );
    if let Some(header) = headers.first() {
        bail!("it has no `header_map.append(\"{header}\", …)`");
    }
    ensure!(
        statements.next().as_ref().is_some_and(is_operation_info),
        "it has no `let … = OperationInfo {{ … }}` after its request"
    );

    check_calls(&request, operation)?;
    if !sends_headers {
        WithoutHeaders.visit_expr_mut(&mut request);
    }
    let constructor: syn::Ident = if answer == syn::parse_quote! { () } {
        syn::parse_quote! { without_body }
    } else {
        syn::parse_quote! { new }
    };
    kept.push(syn::Stmt::Expr(
        syn::parse_quote! { Ok(Request::#constructor(#request)) },
        None,
    ));
    function.block.stmts = kept;
    function.sig.asyncness = None;
    function.sig.output = syn::parse_quote! { -> Result<Request<#answer>, NotBuilt> };
    Ok(())
}

/// The start of the code, for a message.
fn beginning(code: &impl ToTokens) -> String {
    let code = code.to_token_stream().to_string();
    match code.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &code[..at]),
        None => code,
    }
}

/// The value of `let … = …`.
fn bound(statement: &syn::Stmt) -> Option<&syn::Expr> {
    match statement {
        syn::Stmt::Local(syn::Local {
            init: Some(syn::LocalInit { expr, .. }),
            ..
        }) => Some(expr),
        _ => None,
    }
}

/// The value of `let … = ….build()?`.
fn built(statement: &syn::Stmt) -> Option<&syn::Expr> {
    bound(statement).filter(|expr| {
        matches!(expr, syn::Expr::Try(tried)
            if matches!(&*tried.expr, syn::Expr::MethodCall(call) if call.method == "build"))
    })
}

/// Whether it is `let … = format!(…)`.
fn is_url(statement: &syn::Stmt) -> bool {
    matches!(bound(statement), Some(syn::Expr::Macro(call)) if call.mac.path.is_ident("format"))
}

/// Whether it is `let … = OperationInfo { … }`.
fn is_operation_info(statement: &syn::Stmt) -> bool {
    matches!(bound(statement), Some(syn::Expr::Struct(value)) if ends_in(&value.path, "OperationInfo"))
}

/// Whether it is `let name = …`.
fn binds(statement: &syn::Stmt, name: &str) -> bool {
    matches!(statement, syn::Stmt::Local(syn::Local { pat: syn::Pat::Ident(bound), .. }) if bound.ident == name)
}

fn is_variable(expr: &syn::Expr, name: &str) -> bool {
    matches!(expr, syn::Expr::Path(path) if path.path.is_ident(name))
}

fn is_type(ty: &syn::Type, name: &str) -> bool {
    matches!(ty, syn::Type::Path(path) if path.path.is_ident(name))
}

fn ends_in(path: &syn::Path, name: &str) -> bool {
    path.segments.last().is_some_and(|last| last.ident == name)
}

/// The name in `header_map.append("name", …)` or `header_map.append(….from_static("name"), …)`,
/// also within `if let … { … }`.
fn appended_header(statement: &syn::Stmt) -> Option<String> {
    let syn::Stmt::Expr(expr, _) = statement else {
        return None;
    };
    match expr {
        syn::Expr::If(condition) if condition.else_branch.is_none() => {
            match &*condition.then_branch.stmts {
                [statement] => appended_header(statement),
                _ => None,
            }
        }
        syn::Expr::MethodCall(call)
            if call.method == "append" && is_variable(&call.receiver, "header_map") =>
        {
            let name = match call.args.first()? {
                syn::Expr::Call(name) => name.args.first()?,
                name => name,
            };
            match name {
                syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(name),
                    ..
                }) => Some(name.value()),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Checks the calls that build a request: `self.client.get(url)….headers(header_map).build()?`.
fn check_calls(request: &syn::Expr, operation: &Operation) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut expr = match request {
        syn::Expr::Try(tried) => &*tried.expr,
        other => other,
    };
    while let syn::Expr::MethodCall(call) = expr {
        let name = call.method.to_string();
        let first = call.args.first();
        let known = match &*name {
            "build" | "json" | "query" => true,
            "headers" => first.is_some_and(|first| is_variable(first, "header_map")),
            "header" => {
                matches!(first, Some(syn::Expr::Path(header)) if ends_in(&header.path, "ACCEPT"))
            }
            verb => verb == operation.method,
        };
        ensure!(
            known,
            "its request has an unknown call: `.{name}({})`",
            beginning(&call.args)
        );
        seen.insert(name);
        expr = &call.receiver;
    }
    for name in [&*operation.method, "headers"] {
        ensure!(seen.contains(name), "its request has no `.{name}(…)`");
    }
    Ok(())
}

/// The first argument of the generic type `name`.
fn argument(ty: &syn::Type, name: &str) -> Option<syn::Type> {
    let syn::Type::Path(path) = ty else {
        return None;
    };
    let last = path
        .path
        .segments
        .last()
        .filter(|last| last.ident == name)?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first()? {
        syn::GenericArgument::Type(ty) => Some(ty.clone()),
        _ => None,
    }
}

/// Removes `.headers(header_map)` from a chain of calls.
struct WithoutHeaders;

impl VisitMut for WithoutHeaders {
    fn visit_expr_mut(&mut self, expr: &mut syn::Expr) {
        if let syn::Expr::MethodCall(call) = expr
            && call.method == "headers"
            && call.args.len() == 1
            && is_variable(&call.args[0], "header_map")
        {
            *expr = (*call.receiver).clone();
        }
        visit_mut::visit_expr_mut(self, expr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What progenitor 0.15 writes for one operation with a header, reduced to the relevant parts.
    const WRITTEN: &str = r#"
        pub use progenitor_client::Error;
        pub mod types {}
        #[derive(Clone, Debug)]
        pub struct Client { pub(crate) baseurl: String, pub(crate) client: reqwest::Client }
        impl Client {
            pub fn new(baseurl: &str) -> Self { todo!() }
            pub fn new_with_client(baseurl: &str, client: reqwest::Client) -> Self { todo!() }
        }
        impl ClientInfo<()> for Client {}
        impl ClientHooks<()> for &Client {}
        impl Client {
            #[doc = "Sends a `GET` request to `/thing`\n\n"]
            pub async fn get<'a>(&'a self) -> Result<ResponseValue<types::Thing>, Error<()>> {
                let url = format!("{}/thing", self.baseurl);
                let mut header_map = ::reqwest::header::HeaderMap::with_capacity(2);
                header_map.append(HeaderName::from_static("api-version"), v());
                if let Some(value) = if_match {
                    header_map.append("If-Match", value.to_string().try_into()?);
                }
                let mut request = self.client.get(url)
                    .header(::reqwest::header::ACCEPT, json())
                    .headers(header_map)
                    .build()?;
                let info = OperationInfo { operation_id: "get" };
                self.pre(&mut request, &info).await?;
                todo!()
            }
        }
        pub mod prelude { pub use super::Client; }
    "#;

    fn trimmed(code: &str) -> Result<String, String> {
        let operation = Operation {
            id: "get".to_owned(),
            rust: "get".to_owned(),
            method: "get".to_owned(),
            path: "/thing".to_owned(),
            summary: None,
            description: None,
            parameters: vec![Parameter {
                name: "If-Match".to_owned(),
                location: "header".to_owned(),
                description: None,
                required: false,
                kind: "string",
                repeated: false,
            }],
            body: None,
            answer: None,
            errors: Vec::new(),
            error_bodies: Vec::new(),
        };
        trim(syn::parse_str(code).unwrap(), &[operation])
            .map(|file| file.to_token_stream().to_string())
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_builds_a_request_is_kept_and_what_sends_it_is_cut() {
        let kept = trimmed(WRITTEN).unwrap();
        for part in [
            "fn new_with_client",
            "\"If-Match\"",
            "A `GET` request",
            "Request :: new",
        ] {
            assert!(kept.contains(part), "no {part} in {kept}");
        }
        for part in [
            "fn new (",
            "Debug",
            "api-version",
            "OperationInfo",
            "async",
            "ClientHooks",
        ] {
            assert!(!kept.contains(part), "{part} in {kept}");
        }
    }

    #[test]
    fn code_that_progenitor_writes_otherwise_is_an_error_that_names_the_difference() {
        let version = "header_map.append(HeaderName::from_static(\"api-version\"), v());";
        for (written, otherwise, error) in [
            (
                "impl ClientInfo<()> for",
                "impl Debug for",
                "an item is unknown: `impl Debug for Client",
            ),
            (
                "#[derive(Clone, Debug)]",
                "",
                "the struct `Client` has no `#[derive(…)]`",
            ),
            (
                "fn new(",
                "fn connect(",
                "the method `connect` belongs to no operation",
            ),
            (
                "pub fn new(baseurl: &str) -> Self { todo!() }",
                "",
                "`new` is missing",
            ),
            (
                "fn get<",
                "fn fetch<",
                "the method `fetch` belongs to no operation",
            ),
            ("async fn", "fn", "it is not `async fn"),
            (
                "ResponseValue<types::Thing>",
                "types::Thing",
                "it is not `async fn",
            ),
            (
                "Sends a `GET`",
                "Makes a `GET`",
                "no line `Sends a `GET` request to `/thing``",
            ),
            (
                version,
                "",
                "it has no `header_map.append(…(\"api-version\"), …)`",
            ),
            (
                "\"api-version\"",
                "\"api-release\"",
                "it sends the header `api-release`",
            ),
            (
                "\"If-Match\"",
                "\"If-Matches\"",
                "it sends the header `If-Matches`",
            ),
            (
                "header_map.append(\"If-Match\"",
                "header_map.insert(\"If-Match\"",
                "unknown statement: `if let",
            ),
            (
                "let url = format!",
                "let url = url!",
                "unknown statement: `let url = url !",
            ),
            (
                ".build()?;",
                ".send().await?;",
                "unknown statement: `let mut request",
            ),
            (
                ".headers(header_map)",
                "",
                "its request has no `.headers(…)`",
            ),
            (
                ".headers(header_map)",
                ".headers(header_map).timeout(t)",
                "unknown call: `.timeout(t)`",
            ),
            (
                "client.get(url)",
                "client.post(url)",
                "unknown call: `.post(url)`",
            ),
            (
                "header::ACCEPT",
                "header::EXPECT",
                "unknown call: `.header(",
            ),
            (
                "OperationInfo {",
                "CallInfo {",
                "no `let … = OperationInfo { … }` after its request",
            ),
        ] {
            let code = WRITTEN.replacen(written, otherwise, 1);
            assert_ne!(code, WRITTEN, "{written}");
            let found = trimmed(&code).unwrap_err();
            assert!(found.contains(error), "{written} -> {otherwise}: {found}");
        }
    }
}
