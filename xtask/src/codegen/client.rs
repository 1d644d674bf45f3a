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

use anyhow::{Context as _, Result, bail};
use proc_macro2::TokenStream;
use progenitor_impl::{GenerationSettings, Generator};
use quote::ToTokens;
use serde_json::{Map, Value, json};
use syn::{
    visit::{self, Visit},
    visit_mut::{self, VisitMut},
};

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
    let mut file: syn::File =
        syn::parse2(tokens).context("progenitor wrote something that is no Rust")?;
    let mut trim = Trim::default();
    trim.visit_file_mut(&mut file);
    match trim.unexpected {
        Some((method, missing)) => bail!(
            "the method `{method}`, as progenitor writes it, has no {missing}; a new version may write \
             methods otherwise: adapt xtask/src/codegen/client.rs"
        ),
        None => Ok(file.into_token_stream()),
    }
}

/// Removes unwanted parts of progenitor's code.
#[derive(Default)]
struct Trim {
    /// A method with unexpected code, and what it lacks.
    unexpected: Option<(String, &'static str)>,
}

impl VisitMut for Trim {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| match item {
            // The types are ours, and a private module needs no prelude.
            syn::Item::Mod(module) => module.ident != "types" && module.ident != "prelude",
            // Implementations for hooks.
            syn::Item::Impl(item) => item.trait_.is_none(),
            syn::Item::Use(_) => false,
            _ => true,
        });
        file.items
            .insert(0, syn::parse_quote! { use progenitor_client::encode_path; });
        file.items.insert(
            1,
            syn::parse_quote! { use crate::client::{NotBuilt, Request}; },
        );
        for item in &mut file.items {
            // Its `Debug` prints all settings of the HTTP client.
            if let syn::Item::Struct(client) = item {
                for attribute in &mut client.attrs {
                    if attribute.path().is_ident("derive") {
                        *attribute = syn::parse_quote! { #[derive(Clone)] };
                    }
                }
                client
                    .attrs
                    .retain(|attribute| !attribute.path().is_ident("doc"));
                client.attrs.insert(0, syn::parse_quote! { #[doc = " One method per operation; the facade in `crate::client` is what users see."] });
            }
        }
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_impl_mut(&mut self, item: &mut syn::ItemImpl) {
        // `new` panics without TLS or CA certificates, and sets its own timeout.
        item.items.retain(
            |item| !matches!(item, syn::ImplItem::Fn(function) if function.sig.ident == "new"),
        );
        visit_mut::visit_item_impl_mut(self, item);
    }

    /// progenitor's doc comments contain descriptions, which must be made safe.
    fn visit_impl_item_fn_mut(&mut self, function: &mut syn::ImplItemFn) {
        let mut text = String::new();
        for attribute in &function.attrs {
            if let syn::Meta::NameValue(pair) = &attribute.meta
                && pair.path.is_ident("doc")
                && let syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(line),
                    ..
                }) = &pair.value
            {
                text.push_str(&line.value());
                text.push('\n');
            }
        }
        function
            .attrs
            .retain(|attribute| !attribute.path().is_ident("doc"));
        // The remaining method does not send.
        let reworded = |line: &str| match line.trim_start().strip_prefix("Sends a `") {
            Some(rest) if rest.contains("` request to `/") => format!("A `{rest}"),
            _ => line.to_owned(),
        };
        let text: Vec<_> = text.lines().map(reworded).collect();
        for line in super::docs::lines(&text.join("\n")) {
            let line = if line.is_empty() {
                line
            } else {
                format!(" {line}")
            };
            function.attrs.push(syn::parse_quote! { #[doc = #line] });
        }
        if function.sig.asyncness.is_some()
            && let Err(missing) = keep_request(function)
        {
            self.unexpected = Some((function.sig.ident.to_string(), missing));
        }
    }
}

/// Reduces a method to the part that builds its request. An error names what the method lacks.
///
/// ```text
/// let url = …;
/// let mut header_map = …;
/// header_map.append("api-version", …);          // cut: AuthPI knows no such header
/// let mut request = self.client.get(url)….headers(header_map).build()?;
/// let info = OperationInfo { … };               // cut, with all that follows: hooks, sending
/// ```
fn keep_request(function: &mut syn::ImplItemFn) -> Result<(), &'static str> {
    let syn::ReturnType::Type(_, result) = &function.sig.output else {
        return Err("return type");
    };
    let answer = argument(result, "Result")
        .and_then(|value| argument(&value, "ResponseValue"))
        .ok_or("return type `Result<ResponseValue<_>, _>`")?;
    let statements = &mut function.block.stmts;
    let at = statements
        .iter()
        .position(|statement| built(statement).is_some())
        .ok_or("statement `let … = ….build()?`")?;
    if !statements.get(at + 1).is_some_and(is_operation_info) {
        return Err("statement `let … = OperationInfo { … }` after its request");
    }
    statements.truncate(at + 1);
    let mut request = statements
        .pop()
        .and_then(|statement| built(&statement).cloned())
        .ok_or("request")?;
    statements.retain(|statement| appended_header(statement).as_deref() != Some("api-version"));
    if !statements.iter().any(Appends::are_in) {
        statements.retain(|statement| !binds(statement, "header_map"));
        WithoutHeaders.visit_expr_mut(&mut request);
    }
    let constructor: syn::Ident = if answer == syn::parse_quote! { () } {
        syn::parse_quote! { without_body }
    } else {
        syn::parse_quote! { new }
    };
    statements.push(syn::Stmt::Expr(
        syn::parse_quote! { Ok(Request::#constructor(#request)) },
        None,
    ));
    function.sig.asyncness = None;
    function.sig.output = syn::parse_quote! { -> Result<Request<#answer>, NotBuilt> };
    Ok(())
}

/// Whether it is `let … = OperationInfo { … }`, the start of the part for hooks.
fn is_operation_info(statement: &syn::Stmt) -> bool {
    let syn::Stmt::Local(syn::Local {
        init: Some(syn::LocalInit { expr, .. }),
        ..
    }) = statement
    else {
        return false;
    };
    let syn::Expr::Struct(value) = &**expr else {
        return false;
    };
    let last = value.path.segments.last();
    last.is_some_and(|last| last.ident == "OperationInfo")
}

/// The name in `header_map.append(….from_static("name"), …);`.
fn appended_header(statement: &syn::Stmt) -> Option<String> {
    let syn::Stmt::Expr(syn::Expr::MethodCall(call), _) = statement else {
        return None;
    };
    let syn::Expr::Call(name) = call.args.first().filter(|_| is_append(call))? else {
        return None;
    };
    match name.args.first()? {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(name),
            ..
        }) => Some(name.value()),
        _ => None,
    }
}

fn is_append(call: &syn::ExprMethodCall) -> bool {
    call.method == "append" && is_variable(&call.receiver, "header_map")
}

fn is_variable(expr: &syn::Expr, name: &str) -> bool {
    matches!(expr, syn::Expr::Path(path) if path.path.is_ident(name))
}

/// Finds `header_map.append(…)` at any depth.
#[derive(Default)]
struct Appends(bool);

impl Appends {
    fn are_in(statement: &syn::Stmt) -> bool {
        let mut appends = Self::default();
        appends.visit_stmt(statement);
        appends.0
    }
}

impl<'ast> Visit<'ast> for Appends {
    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.0 |= is_append(call);
        visit::visit_expr_method_call(self, call);
    }
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

/// What a statement binds, if it is `let … = ….build()?`.
fn built(statement: &syn::Stmt) -> Option<&syn::Expr> {
    let syn::Stmt::Local(syn::Local {
        init: Some(syn::LocalInit { expr, .. }),
        ..
    }) = statement
    else {
        return None;
    };
    let syn::Expr::Try(tried) = &**expr else {
        return None;
    };
    matches!(&*tried.expr, syn::Expr::MethodCall(call) if call.method == "build").then_some(expr)
}

fn binds(statement: &syn::Stmt, name: &str) -> bool {
    matches!(statement, syn::Stmt::Local(syn::Local { pat: syn::Pat::Ident(bound), .. }) if bound.ident == name)
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

    fn kept(body: &str) -> Result<String, &'static str> {
        let mut function: syn::ImplItemFn = syn::parse_str(&format!(
            "async fn get(&self) -> Result<ResponseValue<types::Thing>, Error<()>> {{ {body} }}"
        ))
        .unwrap();
        keep_request(&mut function).map(|()| function.to_token_stream().to_string())
    }

    #[test]
    fn an_unexpected_progenitor_method_is_an_error_that_names_the_difference() {
        let version = "header_map.append(HeaderName::from_static(\"api-version\"), HeaderValue::from_static(Self::api_version()));";
        let request = "let mut request = self.client.get(url).headers(header_map).build()?;";
        let info = "let info = OperationInfo { operation_id: \"get\" };";
        let written =
            format!("let mut header_map = HeaderMap::new(); {version} {request} {info} send();");
        let cut = kept(&written).unwrap();
        assert!(
            cut.contains("self . client . get (url) . build () ?") && !cut.contains("header_map"),
            "{cut}"
        );
        for (missing, body) in [
            (
                "OperationInfo",
                written.replace("OperationInfo", "CallInfo"),
            ),
            ("build()?", written.replace("build()?", "send().await?")),
        ] {
            let error = kept(&body).unwrap_err();
            assert!(error.contains(missing), "{error}");
        }
    }
}
