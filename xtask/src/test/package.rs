//! The packages that users get from a registry: complete, and they build.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::graph::Metadata;
use crate::run::{capture, cargo, run};

/// The packages, and the files that each must have, besides those in [`NEEDED`].
const PACKAGES: &[(&str, &[&str])] = &[
    (
        "authpi-sdk",
        &["src/generated/api.rs", "src/generated/events.rs"],
    ),
    ("authpi-inspector", &["assets/inspector.css"]),
    ("authpi-emulator", &["openapi/authpi.yaml", "build.rs"]),
    ("authpi-cli", &["src/main.rs"]),
];
/// In the workspace `frameworks`.
const ADAPTERS: &[&str] = &["authpi-actix-web", "authpi-rocket", "authpi-warp"];
/// Files that every package must have.
const NEEDED: &[&str] = &["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

pub(super) fn pack(root: &Path) -> Result<()> {
    // During development, a package includes uncommitted changes.
    let dirty: &[&str] = if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        &[]
    } else {
        &["--allow-dirty"]
    };
    let mut all = vec!["package"];
    all.extend(dirty);
    for (package, files) in PACKAGES {
        complete(root, dirty, package, files)?;
        all.extend(["--package", package]);
    }
    // They need the other packages from the registry, so they are not built here.
    for package in ADAPTERS {
        complete(&root.join("frameworks"), dirty, package, &[])?;
    }

    // Packs all packages with one command, which builds each with the others as they were packed.
    // The workspace's target folder already has their dependencies.
    let target = Metadata::read(root)?.target_directory;
    forget_earlier(&target)?;
    run(cargo(root, all).arg("--target-dir").arg(target))
}

/// Removes what an earlier run has extracted and built of the packages. For cargo, a version of a
/// package never changes, so it would not look at the new one.
fn forget_earlier(target: &Path) -> Result<()> {
    let home = std::env::home_dir().context("there is no home directory")?;
    let home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let is_ours = |name: &str| {
        let mut packages = PACKAGES.iter();
        packages.any(|(package, _)| {
            name.strip_prefix(package)
                .is_some_and(|rest| rest.starts_with('-'))
        })
    };
    let mut earlier = Vec::new();
    // A registry in a folder has a name without a host.
    for registry in entries(&home.join("registry/src"), |name| name.starts_with('-'))? {
        earlier.extend(entries(&registry, is_ours)?);
    }
    if !earlier.is_empty() {
        earlier.extend(entries(&target.join("debug/.fingerprint"), is_ours)?);
    }
    for folder in earlier {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

/// The entries of a folder with such names; none if there is no such folder.
fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Checks that the package has these files, and those that all need.
fn complete(workspace: &Path, dirty: &[&str], package: &str, files: &[&str]) -> Result<()> {
    let list = capture(&mut cargo(
        workspace,
        ["package", "--list", "--package", package]
            .iter()
            .chain(dirty),
    ))?;
    let missing: Vec<_> = NEEDED
        .iter()
        .chain(files)
        .filter(|file| !list.lines().any(|line| line == **file))
        .collect();
    ensure!(
        missing.is_empty(),
        "`cargo package` leaves {missing:?} out of {package}"
    );
    Ok(())
}
