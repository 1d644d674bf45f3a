//! Rust types for what is sent and received.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use super::{
    docs,
    model::{Definition, Kind, Member, Named, Object, Shape, Type, Variant},
    naming::ident,
};

/// What there is to know about all definitions when one is written.
pub(crate) struct Context<'a> {
    pub(crate) definitions: &'a BTreeMap<String, Definition>,
    /// Reached from request bodies: callers make them, so they get constructors.
    pub(crate) sent: BTreeSet<String>,
    /// Reached from answers: read member by member where they cannot be read in one pass.
    pub(crate) received: BTreeSet<String>,
    /// Bodies of partial updates: absent and null are two things there.
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
            Kind::Enum { values, open: true } => open_enum(&name, &docs, values),
            Kind::Enum {
                values,
                open: false,
            } => closed_enum(&name, &docs, values),
            Kind::Union {
                tag,
                variants,
                open,
            } => {
                let union = self.union((tag, variants, *open), &name, &docs);
                let from_raw = self.impl_from_raw_by_read(definition, &name);
                quote! { #union #from_raw }
            }
        }
    }

    /// AuthPI's guide shows such answers without their envelope, and its SDK reads both; so do we.
    fn envelope(&self, held: &Shape, name: &Ident) -> TokenStream {
        let ty = shape(held);
        let data = if self.can_be_read_member_by_member(held) {
            quote! { crate::json::enveloped::<#ty, D>(deserializer)? }
        } else {
            quote! {
                crate::json::without_envelope::<#ty>(&Box::<RawValue>::deserialize(deserializer)?).map_err(D::Error::custom)?
            }
        };
        quote! {
            impl<'de> Deserialize<'de> for #name {
                /// With or without the envelope.
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    Ok(Self { data: #data })
                }
            }
        }
    }

    /// Not what has a `data` of its own, since its envelope cannot be told by its first member; nor
    /// what keeps its text.
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

    /// How an answer is read in which something is odd: each member by itself. An odd one that may
    /// be absent is read as absent, but for secrets, which are shown once.
    fn impl_from_raw(
        &self,
        object: &Object,
        definition: &Definition,
        name: &Ident,
    ) -> Option<TokenStream> {
        if !self.received.contains(&definition.name) {
            return None;
        }
        let body = if let Some(held) = enveloped(object) {
            let own = !self.can_be_read_member_by_member(held);
            quote! { Ok(Self { data: crate::json::held(raw, #own)? }) }
        } else {
            let fields: Vec<_> = object
                .members
                .iter()
                .map(|member| ident(&member.rust))
                .collect();
            let wires: Vec<_> = object.members.iter().map(|member| &member.name).collect();
            let reads = object.members.iter().map(|member| {
                let (field, wire) = (ident(&member.rust), &member.name);
                if member.required && !member.ty.nullable {
                    quote! { #field: crate::json::needed(#wire, #field)?, }
                } else if member.ty.shape == Shape::Secret {
                    quote! { #field: crate::json::precious(#wire, #field)?, }
                } else {
                    quote! { #field: crate::json::optional(#wire, #field), }
                }
            });
            quote! {
                let [#(#fields),*] = crate::json::pick(raw, [#(#wires),*])?;
                Ok(Self { #(#reads)* })
            }
        };
        Some(quote! {
            impl crate::json::FromRaw for #name {
                fn from_raw(raw: &RawValue) -> Result<Self, serde_json::Error> {
                    #body
                }
            }
        })
    }

    /// The same for what is always read so.
    fn impl_from_raw_by_read(&self, definition: &Definition, name: &Ident) -> Option<TokenStream> {
        self.received.contains(&definition.name).then(|| {
            quote! {
                impl crate::json::FromRaw for #name {
                    fn from_raw(raw: &RawValue) -> Result<Self, serde_json::Error> {
                        Self::read(raw)
                    }
                }
            }
        })
    }

    /// An object whose unknown members nobody needs.
    fn plain_object(
        &self,
        definition: &Definition,
        object: &Object,
        name: &Ident,
        docs: &TokenStream,
    ) -> TokenStream {
        let default = default_derive(object);
        let deserialize = enveloped(object).map(|held| self.envelope(held, name));
        let derive_deserialize = deserialize.is_none().then(|| quote! { , Deserialize });
        let is_patch = self.patches.contains(&definition.name);
        let fields = object.members.iter().map(|member| {
            let (field, docs) = (ident(&member.rust), member_docs(member));
            let ty = field_type(member, is_patch);
            let mut serde = Vec::new();
            if member.rust != member.name {
                let name = &member.name;
                serde.push(quote! { rename = #name });
            }
            if !member.required {
                let skip = if is_patch && member.ty.nullable {
                    "Patch::is_keep"
                } else {
                    "Option::is_none"
                };
                if skip == "Patch::is_keep" {
                    serde.push(quote! { default });
                }
                serde.push(quote! { skip_serializing_if = #skip });
            }
            let serde = (!serde.is_empty()).then(|| quote! { #[serde(#(#serde),*)] });
            quote! { #docs #serde pub #field: #ty, }
        });
        let new = self
            .sent
            .contains(&definition.name)
            .then(|| constructor(object, name, is_patch))
            .flatten();
        let from_raw = self.impl_from_raw(object, definition, name);
        quote! {
            #docs
            #[derive(Clone, Debug, #default PartialEq, Serialize #derive_deserialize)]
            #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
            #[non_exhaustive]
            pub struct #name { #(#fields)* }
            #new
            #deserialize
            #from_raw
        }
    }

    /// An object that survives a round trip whole: it may be a case of a union that has grown.
    fn keeping_object(
        &self,
        definition: &Definition,
        object: &Object,
        name: &Ident,
        docs: &TokenStream,
    ) -> TokenStream {
        let default = default_derive(object);
        let fields = object.members.iter().map(|member| {
            let (field, docs, ty) = (
                ident(&member.rust),
                member_docs(member),
                field_type(member, false),
            );
            let rename = (member.rust != member.name).then(|| {
                let name = &member.name;
                quote! { #[cfg_attr(feature = "schemars", schemars(rename = #name))] }
            });
            quote! { #docs #rename pub #field: #ty, }
        });
        let transforms = object.constants.iter().map(|(name, value)| {
            quote! { #[cfg_attr(feature = "schemars", schemars(transform = crate::json::constant(#name, #value)))] }
        });
        let new = self
            .sent
            .contains(&definition.name)
            .then(|| constructor(object, name, false))
            .flatten();

        let (constant_names, constant_values): (Vec<_>, Vec<_>) =
            object.constants.iter().cloned().unzip();
        let writes = object.members.iter().map(|member| {
            let (field, wire) = (ident(&member.rust), &member.name);
            if member.required {
                quote! { map.serialize_entry(#wire, &self.#field)?; }
            } else {
                quote! { if let Some(value) = &self.#field { map.serialize_entry(#wire, value)?; } }
            }
        });
        let all: Vec<_> = object
            .members
            .iter()
            .map(|member| ident(&member.rust))
            .collect();
        // What is only received may be odd; what callers write down must be right.
        let lenient =
            self.received.contains(&definition.name) && !self.sent.contains(&definition.name);
        let arms = object.members.iter().map(|member| {
            let (field, wire) = (ident(&member.rust), &member.name);
            if !lenient
                || member.required && !member.ty.nullable
                || member.ty.shape == Shape::Secret
            {
                quote! { #wire => #field = crate::json::member(name, value)?, }
            } else {
                quote! { #wire => extra.unless_fit(&mut #field, name, value), }
            }
        });
        let from_raw = self.impl_from_raw_by_read(definition, name);
        let reads = object.members.iter().map(|member| {
            let (field, wire) = (ident(&member.rust), &member.name);
            if member.required && !member.ty.nullable {
                quote! { #field: crate::json::required(#wire, #field)?, }
            } else {
                quote! { #field, }
            }
        });
        let skip_constants =
            (!constant_names.is_empty()).then(|| quote! { #(#constant_names)|* => {} });
        quote! {
            #docs
            #[derive(Clone, Debug, #default PartialEq)]
            #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
            #(#transforms)*
            #[non_exhaustive]
            pub struct #name {
                #(#fields)*
                /// Members that have no field, as they came.
                #[cfg_attr(feature = "schemars", schemars(flatten))]
                pub extra: Extra,
            }
            #new

            impl Serialize for #name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    let mut map = serializer.serialize_map(None)?;
                    #(map.serialize_entry(#constant_names, #constant_values)?;)*
                    #(#writes)*
                    for (name, value) in self.extra.iter() {
                        map.serialize_entry(name, value)?;
                    }
                    map.end()
                }
            }

            impl<'de> Deserialize<'de> for #name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    Self::read(&Box::<RawValue>::deserialize(deserializer)?).map_err(D::Error::custom)
                }
            }

            impl #name {
                fn read(raw: &RawValue) -> Result<Self, serde_json::Error> {
                    #(let mut #all = None;)*
                    let mut extra = Extra::default();
                    members(raw, &mut |name, value| {
                        match name {
                            #skip_constants
                            #(#arms)*
                            _ => extra.keep(name, value),
                        }
                        Ok(())
                    })?;
                    Ok(Self { #(#reads)* extra })
                }
            }
            #from_raw
        }
    }

    fn union(
        &self,
        (tag, variants, open): (&str, &[Variant], bool),
        name: &Ident,
        docs: &TokenStream,
    ) -> TokenStream {
        let cases: Vec<_> = variants
            .iter()
            .map(|variant| ident(&variant.tag.rust))
            .collect();
        let types: Vec<_> = variants
            .iter()
            .map(|variant| ident(&variant.definition))
            .collect();
        let tags: Vec<_> = variants.iter().map(|variant| &variant.tag.wire).collect();
        let case_docs = variants.iter().map(|variant| {
            let description = self
                .definitions
                .get(&variant.definition)
                .and_then(|case| case.description.clone());
            docs::attributes(
                &description.unwrap_or_else(|| format!("`{tag}` is `{}`.", variant.tag.wire)),
            )
        });
        let unknown = format_ident!("Unknown{name}");
        let unknown_type = open.then(|| {
            let doc = format!(
                " A case of [`{name}`] that this version does not know; only reading makes one."
            );
            quote! {
                #[doc = #doc]
                #[derive(Clone, PartialEq)]
                pub struct #unknown {
                    tag: String,
                    json: RawJson,
                }

                impl #unknown {
                    /// The whole object as it came.
                    pub fn json(&self) -> &RawJson {
                        &self.json
                    }
                }

                impl fmt::Debug for #unknown {
                    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.debug_tuple(stringify!(#unknown)).field(&self.tag).finish()
                    }
                }
            }
        });
        let unknown_case = open.then(|| {
            quote! {
                /// One that this version does not know, kept as it came.
                Unknown(#unknown),
            }
        });
        let unknown_tag = open.then(|| quote! { Self::Unknown(other) => &other.tag, });
        let unknown_write =
            open.then(|| quote! { Self::Unknown(other) => other.json.serialize(serializer), });
        let unknown_read = if open {
            quote! { Ok(tag) => Ok(Self::Unknown(#unknown { tag: tag.into_owned(), json: raw.to_owned().into() })), }
        } else {
            quote! { Ok(tag) => Err(serde_json::Error::custom(format_args!("unknown {} {tag:?}", #tag))), }
        };
        let tag_doc = format!(" The text of `{tag}`.");
        quote! {
            #docs
            #[derive(Clone, Debug, PartialEq)]
            #[non_exhaustive]
            pub enum #name {
                #(#case_docs #cases(#types),)*
                #unknown_case
            }
            #unknown_type

            impl #name {
                #[doc = #tag_doc]
                pub fn tag(&self) -> &str {
                    match self {
                        #(Self::#cases(_) => #tags,)*
                        #unknown_tag
                    }
                }

                fn read(raw: &RawValue) -> Result<Self, serde_json::Error> {
                    match crate::json::tag(raw, #tag) {
                        #(Ok(tag) if tag == #tags => #types::read(raw).map(Self::#cases),)*
                        #unknown_read
                        Err(error) => Err(error),
                    }
                }
            }

            #(impl From<#types> for #name {
                fn from(case: #types) -> Self {
                    Self::#cases(case)
                }
            })*

            impl Serialize for #name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    match self {
                        #(Self::#cases(case) => case.serialize(serializer),)*
                        #unknown_write
                    }
                }
            }

            impl<'de> Deserialize<'de> for #name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    Self::read(&Box::<RawValue>::deserialize(deserializer)?).map_err(D::Error::custom)
                }
            }

            #[cfg(feature = "schemars")]
            impl schemars::JsonSchema for #name {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!(#name).into()
                }
                fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    let cases = vec![#(generator.subschema_for::<#types>()),*];
                    crate::json::union_schema(#tag, #open, cases)
                }
            }
        }
    }
}

/// AuthPI wraps single resources in an object whose only member is `data`; what is in it.
fn enveloped(object: &Object) -> Option<&Shape> {
    let [only] = object.members.as_slice() else {
        return None;
    };
    (only.name == "data" && only.required && !only.ty.nullable).then_some(&only.ty.shape)
}

/// Who has no required member can be had empty.
fn default_derive(object: &Object) -> Option<TokenStream> {
    object
        .members
        .iter()
        .all(|member| !member.required)
        .then(|| quote! { Default, })
}

fn member_docs(member: &Member) -> TokenStream {
    match &member.description {
        Some(description) => docs::attributes(description),
        None => docs::attributes(&format!("`{}`.", member.name)),
    }
}

/// A member's type as a field has it.
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

/// `new` with what must be given; `None` where `Default` says all.
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
        .then(|| quote! { extra: Extra::default(), });
    Some(quote! {
        impl #name {
            /// One with what is required; the rest can be set field by field.
            pub fn new(#(#parameters),*) -> Self {
                Self { #(#fields,)* #extra }
            }
        }
    })
}

fn value_docs(values: &[Named]) -> Vec<String> {
    values
        .iter()
        .map(|value| format!(" `{}`", value.wire))
        .collect()
}

/// An enumeration that may grow.
///
/// The unknown case cannot be made or matched by value, so giving it a name later breaks nobody.
pub(crate) fn open_enum(name: &Ident, docs: &TokenStream, values: &[Named]) -> TokenStream {
    let unknown = format_ident!("Unknown{name}");
    let unknown_doc =
        format!(" A value of [`{name}`] that this version does not know; only reading makes one.");
    let wires: Vec<_> = values.iter().map(|value| &value.wire).collect();
    let cases: Vec<_> = values.iter().map(|value| ident(&value.rust)).collect();
    let docs_of_values = value_docs(values);
    let count = values.len();
    let (table, known) = if count <= 16 {
        (
            quote! {},
            quote! {
                match text {
                    #(#wires => Some(Self::#cases),)*
                    _ => None,
                }
            },
        )
    } else {
        // `match` on text compares one by one; with many values a search in a sorted table is
        // faster.
        let mut sorted: Vec<_> = wires.iter().zip(&cases).collect();
        sorted.sort_unstable_by_key(|(wire, _)| **wire);
        let cases = sorted.into_iter().map(|(_, case)| case);
        (
            quote! {
                /// The known values in the order of their texts.
                const SORTED: &'static [Self] = &[#(Self::#cases),*];
            },
            quote! {
                Self::SORTED.binary_search_by(|known| known.as_str().cmp(text)).ok().map(|n| Self::SORTED[n].clone())
            },
        )
    };
    quote! {
        #docs
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum #name {
            #(#[doc = #docs_of_values] #cases,)*
            /// One that this version does not know, kept as it came.
            Unknown(#unknown),
        }

        #[doc = #unknown_doc]
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct #unknown(Box<str>);

        impl #unknown {
            /// The value as it came.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for #unknown {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl #name {
            /// The known values, in the order of the description.
            pub const ALL: &'static [Self] = &[#(Self::#cases),*];
            #table

            /// The value as it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    #(Self::#cases => #wires,)*
                    Self::Unknown(other) => &other.0,
                }
            }

            fn known(text: &str) -> Option<Self> {
                #known
            }
        }

        impl fmt::Display for #name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Ord for #name {
            /// By text, so that a value that gets a name keeps its place.
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl PartialOrd for #name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl From<&str> for #name {
            fn from(text: &str) -> Self {
                Self::known(text).unwrap_or_else(|| Self::Unknown(#unknown(text.into())))
            }
        }

        impl From<String> for #name {
            fn from(text: String) -> Self {
                Self::known(&text).unwrap_or_else(|| Self::Unknown(#unknown(text.into())))
            }
        }

        impl std::str::FromStr for #name {
            type Err = std::convert::Infallible;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ok(text.into())
            }
        }

        impl Serialize for #name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for #name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(crate::json::Text(|text: &str| Self::from(text)))
            }
        }

        impl crate::json::FromRaw for #name {
            fn from_raw(raw: &RawValue) -> Result<Self, serde_json::Error> {
                <String as crate::json::FromRaw>::from_raw(raw).map(Self::from)
            }
        }

        #[cfg(feature = "schemars")]
        impl schemars::JsonSchema for #name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!(#name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::json::open_enum_schema(Self::ALL.iter().map(Self::as_str))
            }
        }
    }
}

/// An enumeration of which we only send values.
fn closed_enum(name: &Ident, docs: &TokenStream, values: &[Named]) -> TokenStream {
    let wires: Vec<_> = values.iter().map(|value| &value.wire).collect();
    let cases: Vec<_> = values.iter().map(|value| ident(&value.rust)).collect();
    let docs_of_values = value_docs(values);
    quote! {
        #docs
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
        #[non_exhaustive]
        pub enum #name {
            #(#[doc = #docs_of_values] #[serde(rename = #wires)] #cases,)*
        }

        impl #name {
            /// All values, in the order of the description.
            pub const ALL: &'static [Self] = &[#(Self::#cases),*];

            /// The value as it is written.
            pub const fn as_str(self) -> &'static str {
                match self {
                    #(Self::#cases => #wires,)*
                }
            }
        }

        impl fmt::Display for #name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    }
}
