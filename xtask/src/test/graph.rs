//! The packages of the workspace, from cargo's metadata.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run::{capture, cargo};

/// The output of `cargo metadata` with all features.
pub(super) struct Metadata {
    pub(super) target_directory: PathBuf,
    /// Every package of the lock file that any platform needs, including the workspace's own.
    pub(super) packages: Vec<Package>,
    members: BTreeSet<String>,
    /// From a package's id to those of its normal and build dependencies.
    needs: BTreeMap<String, Vec<String>>,
}

pub(super) struct Package {
    id: String,
    pub(super) name: String,
    pub(super) license: Option<String>,
    /// Its minimum Rust version; major, minor, patch.
    pub(super) rust_version: Option<[u32; 3]>,
    pub(super) features: Vec<String>,
    /// The names of its normal dependencies.
    pub(super) dependencies: Vec<String>,
}

impl Metadata {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let text = capture(&mut cargo(
            root,
            [
                "metadata",
                "--format-version=1",
                "--all-features",
                "--locked",
            ],
        ))?;
        Self::of(&serde_json::from_str(&text)?).context("`cargo metadata` is not as it used to be")
    }

    fn of(metadata: &Value) -> Option<Self> {
        let packages = metadata["packages"]
            .as_array()?
            .iter()
            .map(Package::of)
            .collect::<Option<_>>()?;
        let needs = metadata["resolve"]["nodes"]
            .as_array()?
            .iter()
            .map(needs)
            .collect::<Option<_>>()?;
        let members = metadata["workspace_members"]
            .as_array()?
            .iter()
            .map(text)
            .collect::<Option<_>>()?;
        Some(Self {
            target_directory: text(&metadata["target_directory"])?.into(),
            packages,
            members,
            needs,
        })
    }

    /// The package `name` of this workspace.
    pub(super) fn member(&self, name: &str) -> Result<&Package> {
        let found = self
            .packages
            .iter()
            .find(|p| p.name == name && self.is_member(p));
        found.with_context(|| format!("the workspace has no package {name}"))
    }

    pub(super) fn is_member(&self, package: &Package) -> bool {
        self.members.contains(&package.id)
    }

    /// The transitive normal and build dependencies of `package`, including itself.
    pub(super) fn closure(&self, package: &Package) -> Vec<&Package> {
        let mut seen = BTreeSet::from([package.id.as_str()]);
        let mut open = vec![package.id.as_str()];
        while let Some(id) = open.pop() {
            open.extend(
                self.needs
                    .get(id)
                    .into_iter()
                    .flatten()
                    .map(String::as_str)
                    .filter(|id| seen.insert(id)),
            );
        }
        self.packages
            .iter()
            .filter(|p| seen.contains(p.id.as_str()))
            .collect()
    }

    /// Every feature of the workspace's packages as `package/feature`, except those called
    /// `left_out`.
    pub(super) fn features_but(&self, left_out: &str) -> Vec<String> {
        let members = self.packages.iter().filter(|p| self.is_member(p));
        let all = members.flat_map(|p| p.features.iter().map(move |feature| (p, feature)));
        all.filter(|(_, feature)| *feature != left_out)
            .map(|(p, feature)| format!("{}/{feature}", p.name))
            .collect()
    }
}

impl Package {
    fn of(package: &Value) -> Option<Self> {
        Some(Self {
            id: text(&package["id"])?,
            name: text(&package["name"])?,
            license: text(&package["license"]),
            rust_version: package["rust_version"].as_str().and_then(version),
            features: package["features"].as_object()?.keys().cloned().collect(),
            dependencies: {
                let normal = package["dependencies"]
                    .as_array()?
                    .iter()
                    .filter(|needed| needed["kind"].is_null());
                normal
                    .map(|needed| text(&needed["name"]))
                    .collect::<Option<_>>()?
            },
        })
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn needs(node: &Value) -> Option<(String, Vec<String>)> {
    let for_tests = |dep: &&Value| {
        dep["dep_kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().all(|kind| kind["kind"] == "dev"))
    };
    let deps = node["deps"]
        .as_array()?
        .iter()
        .filter(|dep| !for_tests(dep));
    Some((
        text(&node["id"])?,
        deps.map(|dep| text(&dep["pkg"])).collect::<Option<_>>()?,
    ))
}

/// Parses `1.94` and `1.94.0`.
fn version(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split('.').map(str::parse);
    let mut next = || parts.next().unwrap_or(Ok(0)).ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_version_without_a_patch_is_the_same_as_with_patch_0() {
        assert_eq!(version("1.94"), Some([1, 94, 0]));
        assert_eq!(version("1.94.0"), Some([1, 94, 0]));
        assert!(version("1.100") > version("1.94.1"));
        assert_eq!(version("nightly"), None);
    }
}
