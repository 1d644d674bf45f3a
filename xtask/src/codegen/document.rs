//! The description on disk: one root document and the files it refers to, with a location for
//! every value.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

/// A location in the description, as `file#/json/pointer`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) pointer: String,
}

impl Place {
    pub(crate) fn of(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            pointer: String::new(),
        }
    }

    /// The location of a member or an item of the value here.
    pub(crate) fn at(&self, key: impl fmt::Display) -> Self {
        let key = key.to_string().replace('~', "~0").replace('/', "~1");
        Self {
            file: self.file.clone(),
            pointer: format!("{}/{key}", self.pointer),
        }
    }

    /// An error at this location.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            place: self.clone(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.file, self.pointer)
    }
}

/// Something in the description that codegen cannot translate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// All errors, so that one run lists every location that needs work.
#[derive(Debug)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.0.len() == 1 {
            "one place"
        } else {
            "some places"
        };
        write!(f, "the description cannot be turned into code in {many}:")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

/// The files of the description, by their path relative to the root document's folder.
pub(crate) struct Documents {
    root: String,
    files: BTreeMap<String, Value>,
}

impl Documents {
    /// Reads `file` and every file that its relative `$ref`s refer to.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new("."));
        let root = file
            .file_name()
            .context("not a file")?
            .to_string_lossy()
            .into_owned();
        let mut documents = Self {
            root: root.clone(),
            files: BTreeMap::new(),
        };
        let mut wanted = vec![root];
        while let Some(name) = wanted.pop() {
            if documents.files.contains_key(&name) {
                continue;
            }
            let value = read(&folder.join(&name))?;
            external_references(&value, &mut |reference| {
                let target = join(&name, reference);
                if folder.join(&target).is_file() {
                    wanted.push(target);
                }
            });
            documents.files.insert(name, value);
        }
        Ok(documents)
    }

    /// A document without files, for tests.
    #[cfg(test)]
    pub(crate) fn from_text(name: &str, text: &str) -> Result<Self> {
        Ok(Self {
            root: name.to_owned(),
            files: BTreeMap::from([(name.to_owned(), parse(text)?)]),
        })
    }

    pub(crate) fn root(&self) -> &Value {
        &self.files[&self.root]
    }

    pub(crate) fn root_place(&self) -> Place {
        Place::of(&self.root)
    }

    /// The location of `reference`, found at `from`.
    pub(crate) fn target(from: &Place, reference: &str) -> Place {
        let (file, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let file = if file.is_empty() {
            from.file.clone()
        } else {
            join(&from.file, file)
        };
        Place {
            file,
            pointer: pointer.to_owned(),
        }
    }

    /// The value at `place`.
    pub(crate) fn get(&self, place: &Place) -> Option<&Value> {
        self.files.get(&place.file)?.pointer(&place.pointer)
    }

    /// The value that `value` at `place` represents: itself, or the final target of its `$ref`.
    pub(crate) fn resolve<'a>(
        &'a self,
        value: &'a Value,
        place: &Place,
    ) -> Result<(&'a Value, Place), Problem> {
        let (mut value, mut here) = (value, place.clone());
        for _ in 0..32 {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                return Ok((value, here));
            };
            let target = Self::target(&here, reference);
            value = self
                .get(&target)
                .ok_or_else(|| here.at("$ref").problem(format!("nothing at {target}")))?;
            here = target;
        }
        Err(place.problem("`$ref`s that lead in a circle"))
    }
}

/// Reads YAML or JSON, preserving the order of members.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("cannot parse {}", path.display()))
}

fn parse(text: &str) -> Result<Value> {
    // JSON is YAML too, but large JSON documents are parsed much faster as JSON.
    if text.trim_start().starts_with('{') {
        return Ok(serde_json::from_str(text)?);
    }
    Ok(serde_norway::from_str(text)?)
}

fn external_references(value: &Value, found: &mut dyn FnMut(&str)) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let file = reference.split('#').next().unwrap_or_default();
                if !file.is_empty() && !file.contains("://") {
                    found(file);
                }
            }
            members
                .values()
                .for_each(|member| external_references(member, found));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| external_references(item, found)),
        _ => {}
    }
}

/// `to` relative to the file `from`, without `.` and `..`.
fn join(from: &str, to: &str) -> String {
    let mut path = PathBuf::new();
    for part in Path::new(from)
        .parent()
        .unwrap_or(Path::new(""))
        .join(to)
        .components()
    {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(part) => path.push(part),
            _ => {}
        }
    }
    path.to_string_lossy().replace('\\', "/")
}
