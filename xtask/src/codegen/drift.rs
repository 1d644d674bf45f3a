//! The differences between two states of the generated code, in terms of the description, and
//! whether users notice.
//!
//! Both states are parsed as Rust, so that only the code itself has to be checked in. A change is
//! breaking if a program that was compiled against the old state, or was running with it, may fail
//! with the new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context, Result};
use quote::ToTokens;
use syn::{Fields, FnArg, ImplItem, Item, ItemMod, ReturnType};

use super::naming;

const SAME_SHAPE: &str = "other code for the same shape";

/// One difference.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Change {
    /// An operation, schema, event or payload.
    subject: String,
    what: String,
    pub(crate) breaking: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.breaking {
            "breaking  "
        } else {
            "compatible"
        };
        write!(f, "{kind}  {}: {}", self.subject, self.what)
    }
}

impl Change {
    /// A file that was edited by hand until it was no longer valid Rust.
    pub(crate) fn unreadable(file: &str, error: &anyhow::Error) -> Self {
        Self {
            subject: file.to_owned(),
            what: format!("{error:#}"),
            breaking: false,
        }
    }
}

/// All changes, one per line, and what they mean for users.
pub(crate) fn report(changes: &[Change]) -> String {
    // A change of the generator appears everywhere; the reader looks for changes of the
    // description.
    let (same, reported): (Vec<_>, Vec<_>) =
        changes.iter().partition(|change| change.what == SAME_SHAPE);
    let mut lines: Vec<_> = reported
        .into_iter()
        .map(|change| format!("  {change}"))
        .collect();
    match same.as_slice() {
        [] => {}
        [only] => lines.push(format!("  {only}")),
        many => lines.push(format!(
            "  compatible  {} subjects: {SAME_SHAPE}",
            many.len()
        )),
    }
    lines.push(if changes.iter().any(|change| change.breaking) {
        "This breaks users: it needs a new major version.".to_owned()
    } else {
        "This breaks no user.".to_owned()
    });
    lines.join("\n")
}

/// The differences between two states of one generated file. Texts may be empty or unformatted.
pub(crate) fn changes(old: &str, new: &str) -> Result<Vec<Change>> {
    let old = Surface::read(old).context("the code that is checked in is no Rust")?;
    let new = Surface::read(new).context("the new code is no Rust")?;
    let mut changes = Vec::new();
    let subjects: BTreeSet<_> = old.subjects.keys().chain(new.subjects.keys()).collect();
    for subject in subjects {
        let mut add = |what: String, breaking| {
            changes.push(Change {
                subject: subject.clone(),
                what,
                breaking,
            });
        };
        match (old.subjects.get(subject), new.subjects.get(subject)) {
            (None, Some(_)) => add("added".to_owned(), false),
            (Some(_), None) => add("removed or renamed".to_owned(), true),
            (Some(old), Some(new)) => compare(old, new, &mut add),
            (None, None) => {}
        }
    }
    if changes.is_empty() && old.rest != new.rest {
        changes.push(Change {
            subject: "generator".into(),
            what: "other code for the same description".into(),
            breaking: false,
        });
    }
    Ok(changes)
}

fn compare(old: &Subject, new: &Subject, add: &mut dyn FnMut(String, bool)) {
    let before = (&old.parts, &old.code);
    let names: BTreeSet<_> = old.parts.keys().chain(new.parts.keys()).collect();
    for name in names {
        match (old.parts.get(name), new.parts.get(name)) {
            (None, Some(part)) if part.required => add(format!("new required {name}"), true),
            (None, Some(_)) => add(format!("new {name}"), false),
            (Some(_), None) => add(format!("{name} removed or renamed"), true),
            (Some(old), Some(new)) if old.text != new.text => {
                add(format!("{name} was {}, is {}", old.text, new.text), true);
            }
            _ => {}
        }
    }
    if before.0 == &new.parts && before.1 != &new.code {
        let what = if old.code_without_docs == new.code_without_docs {
            "description reworded"
        } else {
            SAME_SHAPE
        };
        add(what.to_owned(), false);
    }
}

/// The public content of a generated file, by subject.
#[derive(Default)]
struct Surface {
    subjects: BTreeMap<String, Subject>,
    /// All code, for differences outside of any subject.
    rest: String,
}

#[derive(Default)]
struct Subject {
    /// Members, values, parameters.
    parts: BTreeMap<String, Part>,
    code: String,
    code_without_docs: String,
}

#[derive(PartialEq, Eq)]
struct Part {
    text: String,
    required: bool,
}

impl Surface {
    fn read(code: &str) -> Result<Self> {
        let file = syn::parse_file(code)?;
        let mut surface = Self {
            rest: file.to_token_stream().to_string(),
            ..Self::default()
        };
        for item in &file.items {
            match item {
                Item::Macro(call) if call.mac.path.is_ident("event_types") => {
                    surface.events(&call.mac.parse_body::<syn::File>()?.items);
                }
                Item::Macro(call) if call.mac.path.is_ident("payloads") => {
                    let payloads = call.mac.parse_body::<syn::File>()?.items;
                    surface.types("payload", &payloads)?;
                }
                Item::Mod(module) if module.ident == "operations" => surface.operations(module),
                Item::Mod(module) if module.ident == "types" => {
                    surface.types("schema", items(module))?;
                }
                Item::Impl(client)
                    if name_of(&client.self_ty) == "Client" && client.trait_.is_none() =>
                {
                    surface.methods(client);
                }
                _ => {}
            }
        }
        Ok(surface)
    }

    fn part(&mut self, subject: &str, name: String, text: String, required: bool) {
        self.subjects
            .entry(subject.to_owned())
            .or_default()
            .parts
            .insert(name, Part { text, required });
    }

    fn code(&mut self, subject: &str, code: &(impl ToTokens + Clone + WithoutDocs)) {
        let entry = self.subjects.entry(subject.to_owned()).or_default();
        entry.code.push_str(&code.to_token_stream().to_string());
        entry.code_without_docs.push_str(&code.without_docs());
    }

    /// Structs and enums, also as input of a macro: users see their members and values.
    fn types(&mut self, kind: &str, items: &[Item]) -> Result<()> {
        for item in items {
            match item {
                Item::Macro(call) => {
                    self.types(kind, &call.mac.parse_body::<syn::File>()?.items)?;
                }
                Item::Struct(of) => {
                    let subject = format!("{kind} {}", of.ident);
                    if let Fields::Named(fields) = &of.fields {
                        for field in fields
                            .named
                            .iter()
                            .filter(|field| matches!(field.vis, syn::Visibility::Public(_)))
                        {
                            let ty = text(&field.ty);
                            let rename = field.attrs.iter().map(text).find(|attribute| {
                                attribute.contains("rename=") || attribute.contains("wire=")
                            });
                            let ty = rename.map_or(ty.clone(), |rename| format!("{ty} {rename}"));
                            let optional = kind == "payload"
                                || ty.starts_with("Option<")
                                || ty.starts_with("Patch<");
                            let name = field
                                .ident
                                .as_ref()
                                .map(ToString::to_string)
                                .unwrap_or_default();
                            self.part(
                                &subject,
                                format!("member `{}`", name.trim_start_matches("r#")),
                                ty,
                                !optional,
                            );
                        }
                    }
                    self.code(&subject, item);
                }
                Item::Enum(of) => {
                    let subject = format!("{kind} {}", of.ident);
                    for variant in &of.variants {
                        let means = if variant.fields.is_empty() {
                            wire_name(variant)
                        } else {
                            text(&variant.fields)
                        };
                        self.part(&subject, format!("value `{}`", variant.ident), means, false);
                    }
                    self.code(&subject, item);
                }
                Item::Impl(of) => {
                    let subject = format!("{kind} {}", name_of(&of.self_ty));
                    if self.subjects.contains_key(&subject) {
                        self.code(&subject, item);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Event types by their wire names, with their payloads.
    fn events(&mut self, items: &[Item]) {
        let types = items.iter().filter_map(|item| match item {
            Item::Enum(types) => Some(&types.variants),
            _ => None,
        });
        for variant in types.flatten() {
            if variant.ident != "Unknown" {
                let subject = format!("event {}", wire_name(variant));
                let payload = text(&variant.fields).trim_matches(['(', ')']).to_owned();
                self.part(&subject, "payload".to_owned(), payload, false);
                self.code(&subject, variant);
            }
        }
    }

    /// The table of operations, by operation id.
    fn operations(&mut self, module: &ItemMod) {
        for item in items(module) {
            let Item::Const(constant) = item else {
                continue;
            };
            let syn::Expr::Struct(operation) = &*constant.expr else {
                continue;
            };
            let value = |name: &str| {
                let field = operation
                    .fields
                    .iter()
                    .find(|field| field.member.to_token_stream().to_string() == name);
                field
                    .map(|field| text(&field.expr).trim_matches('"').to_owned())
                    .unwrap_or_default()
            };
            let subject = format!("operation {}", value("id"));
            for (part, value) in [
                ("method", value("method")),
                ("path", value("path")),
                (
                    "name in Rust",
                    naming::snake(&value("id")).unwrap_or_default(),
                ),
            ] {
                self.part(&subject, part.to_owned(), value, false);
            }
            self.code(&subject, item);
        }
    }

    /// The client's methods; the table maps them to operations.
    fn methods(&mut self, client: &syn::ItemImpl) {
        for item in &client.items {
            let ImplItem::Fn(method) = item else { continue };
            let name = method.sig.ident.to_string();
            let of_operation = |(subject, of): (&String, &Subject)| {
                of.parts
                    .get("name in Rust")
                    .is_some_and(|part| part.text == name)
                    .then(|| subject.clone())
            };
            let Some(subject) = self.subjects.iter().find_map(of_operation) else {
                continue;
            };
            for argument in &method.sig.inputs {
                if let FnArg::Typed(argument) = argument {
                    let ty = text(&argument.ty);
                    let required = !ty.starts_with("Option<");
                    self.part(
                        &subject,
                        format!("parameter `{}`", text(&argument.pat)),
                        ty,
                        required,
                    );
                }
            }
            if let ReturnType::Type(_, ty) = &method.sig.output {
                self.part(&subject, "answer".to_owned(), text(ty), false);
            }
            self.code(&subject, method);
        }
    }
}

fn items(module: &ItemMod) -> &[Item] {
    module
        .content
        .as_ref()
        .map(|(_, items)| items.as_slice())
        .unwrap_or_default()
}

/// The wire name is written as the discriminant.
fn wire_name(variant: &syn::Variant) -> String {
    let discriminant = variant.discriminant.as_ref();
    discriminant
        .map(|(_, name)| text(name).trim_matches('"').to_owned())
        .unwrap_or_default()
}

fn name_of(ty: &syn::Type) -> String {
    text(ty)
}

/// Tokens without the spaces that `quote` puts between them.
fn text(tokens: &impl ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    let mut out = String::new();
    let mut in_text = false;
    for c in text.chars() {
        in_text ^= c == '"';
        if in_text || c != ' ' {
            out.push(c);
        }
    }
    out.replace("'a", "").replace(",)", ")")
}

trait WithoutDocs {
    fn without_docs(&self) -> String;
}

struct Strip;

impl syn::visit_mut::VisitMut for Strip {
    fn visit_attributes_mut(&mut self, attributes: &mut Vec<syn::Attribute>) {
        attributes.retain(|attribute| !attribute.path().is_ident("doc"));
    }
}

impl WithoutDocs for Item {
    fn without_docs(&self) -> String {
        let mut item = self.clone();
        syn::visit_mut::VisitMut::visit_item_mut(&mut Strip, &mut item);
        item.to_token_stream().to_string()
    }
}

impl WithoutDocs for syn::Variant {
    fn without_docs(&self) -> String {
        let mut variant = self.clone();
        syn::visit_mut::VisitMut::visit_variant_mut(&mut Strip, &mut variant);
        variant.to_token_stream().to_string()
    }
}

impl WithoutDocs for syn::ImplItemFn {
    fn without_docs(&self) -> String {
        let mut method = self.clone();
        syn::visit_mut::VisitMut::visit_impl_item_fn_mut(&mut Strip, &mut method);
        method.to_token_stream().to_string()
    }
}
