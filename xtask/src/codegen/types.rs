//! Rust types for requests and responses.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use super::{
    docs,
    model::{Definition, Kind, Member, Named, Object, Shape, Type, Variant},
    naming::ident,
};

/// Facts about all definitions that are needed to write one.
pub(crate) struct Context<'a> {
    pub(crate) definitions: &'a BTreeMap<String, Definition>,
    /// Reachable from request bodies: callers create them, so they get constructors.
    pub(crate) sent: BTreeSet<String>,
    /// Reachable from responses: read member by member if they cannot be read in one pass.
    pub(crate) received: BTreeSet<String>,
    /// Bodies of partial updates: absent and null differ.
    pub(crate) patches: BTreeSet<String>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        definitions: &'a BTreeMap<String, Definition>,
        sent: BTreeSet<String>,
        received: BTreeSet<String>,
        patches: BTreeSet<String>,
    ) -> Self {
        Self {
            definitions,
            sent,
            received,
            patches,
        }
    }

    /// The code of one definition.
    pub(crate) fn definition(&self, definition: &Definition) -> TokenStream {
        let docs = match &definition.description {
            Some(description) => docs::attributes(description),
            None => docs::attributes(&format!("`{}` of AuthPI's API.", definition.name)),
        };
        let name = ident(&definition.name);
        match &definition.kind {
            Kind::Object(object) if object.keeps_extra => {
                self.keeping_object(definition, object, &name, &docs)
            }
            Kind::Object(object) => self.plain_object(definition, object, &name, &docs),
            Kind::Enum { values, open } => enumeration(&name, &docs, values, *open),
            Kind::Union {
                tag,
                variants,
                open,
            } => self.union((tag, variants, *open), &name, &docs),
        }
    }

    /// Not types with their own `data`, since the first member does not identify their envelope;
    /// nor types that keep their text.
    fn can_be_read_member_by_member(&self, held: &Shape) -> bool {
        let Shape::Named(name) = held else {
            return false;
        };
        match self
            .definitions
            .get(name)
            .map(|definition| &definition.kind)
        {
            Some(Kind::Object(object)) => {
                !object.keeps_extra && object.members.iter().all(|member| member.name != "data")
            }
            _ => false,
        }
    }

    /// An object whose unknown members are dropped.
    fn plain_object(
        &self,
        definition: &Definition,
        object: &Object,
        name: &Ident,
        docs: &TokenStream,
    ) -> TokenStream {
        let received = self.received.contains(&definition.name);
        let is_patch = self.patches.contains(&definition.name);
        let sent = self.sent.contains(&definition.name);
        let new = sent.then(|| constructor(object, name, is_patch)).flatten();
        if received && let Some(held) = enveloped(object) {
            let whole = (!self.can_be_read_member_by_member(held)).then(|| quote! { #[whole] });
            let (ty, data_docs) = (shape(held), member_docs(&object.members[0]));
            return quote! {
                envelope! { #whole #docs pub struct #name { #data_docs pub data: #ty, } }
                #new
            };
        }
        let fields = object.members.iter().map(|member| {
            let (field, docs) = (ident(&member.rust), member_docs(member));
            let ty = field_type(member, is_patch);
            let skip = if is_patch && member.ty.nullable {
                quote! { #[serde(default, skip_serializing_if = "Patch::is_keep")] }
            } else {
                quote! { #[serde(skip_serializing_if = "Option::is_none")] }
            };
            let skip = (!member.required).then_some(skip);
            let wire = if received {
                wire(member)
            } else {
                let name = &member.name;
                wire(member).map(|_| quote! { #[serde(rename = #name)] })
            };
            quote! { #docs #wire #skip pub #field: #ty, }
        });
        let has_default = has_default(object);
        if received {
            let default = has_default.then(|| quote! { #[derive(Default)] });
            return quote! {
                object! { #default #docs pub struct #name { #(#fields)* } }
                #new
            };
        }
        let default = has_default.then(|| quote! { Default, });
        quote! {
            #docs
            #[derive(Clone, Debug, #default PartialEq, Serialize, Deserialize)]
            #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
            #[non_exhaustive]
            pub struct #name { #(#fields)* }
            #new
        }
    }

    /// An object that keeps unknown members: it may be a case of an open union.
    fn keeping_object(
        &self,
        definition: &Definition,
        object: &Object,
        name: &Ident,
        docs: &TokenStream,
    ) -> TokenStream {
        let sent = self.sent.contains(&definition.name);
        // Values from callers must be valid.
        let lenient = (!sent).then(|| quote! { #[lenient] });
        let constants = object
            .constants
            .iter()
            .map(|(name, value)| quote! { #[constant(#name = #value)] });
        let default = has_default(object).then(|| quote! { #[derive(Default)] });
        let fields = object.members.iter().map(|member| {
            let (field, docs, ty) = (
                ident(&member.rust),
                member_docs(member),
                field_type(member, false),
            );
            let wire = wire(member);
            quote! { #docs #wire pub #field: #ty, }
        });
        let new = sent.then(|| constructor(object, name, false)).flatten();
        quote! {
            tagged! {
                #lenient
                #(#constants)*
                #default
                #docs
                pub struct #name { #(#fields)* }
            }
            #new
        }
    }

    fn union(
        &self,
        (tag, variants, open): (&str, &[Variant], bool),
        name: &Ident,
        docs: &TokenStream,
    ) -> TokenStream {
        let cases = variants.iter().map(|variant| {
            let description = self
                .definitions
                .get(&variant.definition)
                .and_then(|case| case.description.clone());
            let docs = docs::attributes(
                &description.unwrap_or_else(|| format!("`{tag}` is `{}`.", variant.tag.wire)),
            );
            let (case, ty) = (ident(&variant.tag.rust), ident(&variant.definition));
            let wire = &variant.tag.wire;
            quote! { #docs #case(#ty) = #wire, }
        });
        let unknown = open.then(|| unknown_case(name));
        quote! {
            union! {
                #[tag = #tag]
                #docs
                pub enum #name {
                    #unknown
                    #(#cases)*
                }
            }
        }
    }
}

/// AuthPI wraps single resources in an object with the only member `data`; this is the content.
fn enveloped(object: &Object) -> Option<&Shape> {
    let [only] = object.members.as_slice() else {
        return None;
    };
    (only.name == "data" && only.required && !only.ty.nullable).then_some(&only.ty.shape)
}

/// An object without required members can be empty.
fn has_default(object: &Object) -> bool {
    object.members.iter().all(|member| !member.required)
}

fn member_docs(member: &Member) -> TokenStream {
    match &member.description {
        Some(description) => docs::attributes(description),
        None => docs::attributes(&format!("`{}`.", member.name)),
    }
}

/// The Rust type of a member's field.
fn field_type(member: &Member, in_patch: bool) -> TokenStream {
    let ty = shape(&member.ty.shape);
    match (member.required, member.ty.nullable) {
        (true, false) => ty,
        (false, true) if in_patch => quote! { Patch<#ty> },
        _ => quote! { Option<#ty> },
    }
}

/// The Rust type of a shape.
pub(crate) fn shape(shape: &Shape) -> TokenStream {
    let within = |ty: &Type| {
        let inner = self::shape(&ty.shape);
        if ty.nullable {
            quote! { Option<#inner> }
        } else {
            inner
        }
    };
    match shape {
        Shape::Text => quote! { String },
        Shape::Secret => quote! { crate::signature::Secret },
        Shape::Flag => quote! { bool },
        Shape::Integer => quote! { i64 },
        Shape::Number => quote! { f64 },
        Shape::UnixMillis => quote! { crate::UnixMillis },
        Shape::EventType => quote! { crate::event::EventType },
        Shape::Raw => quote! { crate::RawJson },
        Shape::List(items) => {
            let items = within(items);
            quote! { Vec<#items> }
        }
        Shape::Map(values) => {
            let values = within(values);
            quote! { std::collections::BTreeMap<String, #values> }
        }
        Shape::Named(name) => {
            let name = ident(name);
            quote! { #name }
        }
    }
}

/// `new` with the required members; `None` if `Default` is sufficient.
fn constructor(object: &Object, name: &Ident, in_patch: bool) -> Option<TokenStream> {
    let required: Vec<_> = object
        .members
        .iter()
        .filter(|member| member.required)
        .collect();
    if required.is_empty() {
        return None;
    }
    let parameters = required.iter().map(|member| {
        let (name, ty) = (ident(&member.rust), field_type(member, in_patch));
        let is_text = member.ty.shape == Shape::Text && !member.ty.nullable;
        if is_text {
            quote! { #name: impl Into<String> }
        } else {
            quote! { #name: #ty }
        }
    });
    let fields = object.members.iter().map(|member| {
        let name = ident(&member.rust);
        match (
            member.required,
            member.ty.shape == Shape::Text && !member.ty.nullable,
        ) {
            (true, true) => quote! { #name: #name.into() },
            (true, false) => quote! { #name },
            (false, _) if in_patch && member.ty.nullable => quote! { #name: Patch::Keep },
            (false, _) => quote! { #name: None },
        }
    });
    let extra = object
        .keeps_extra
        .then(|| quote! { extra: crate::event::Extra::default(), });
    Some(quote! {
        impl #name {
            /// One with what is required; the rest can be set field by field.
            pub fn new(#(#parameters),*) -> Self {
                Self { #(#fields,)* #extra }
            }
        }
    })
}

/// The case of a value that this version does not know.
fn unknown_case(name: &Ident) -> TokenStream {
    let unknown = format_ident!("Unknown{name}");
    quote! { Unknown(#unknown), }
}

/// The wire name of a member, if its field has a different name or is a raw identifier.
pub(crate) fn wire(member: &Member) -> Option<TokenStream> {
    let name = &member.name;
    (ident(&member.rust) != name).then(|| quote! { #[wire = #name] })
}

/// An enumeration; an open one may get new values.
fn enumeration(name: &Ident, docs: &TokenStream, values: &[Named], open: bool) -> TokenStream {
    let cases = values.iter().map(|value| {
        let (case, wire) = (ident(&value.rust), &value.wire);
        quote! { #case = #wire, }
    });
    if open {
        let unknown = unknown_case(name);
        quote! { open_enum! { #docs pub enum #name { #unknown #(#cases)* } } }
    } else {
        quote! { closed_enum! { #docs pub enum #name { #(#cases)* } } }
    }
}
