//! The packages that users get from a registry: complete, and they build.

use std::path::Path;

use anyhow::{Result, ensure};

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

    // Builds what was packed, one on top of the other, in the workspace's target folder, where their
    // dependencies are already built.
    let target = Metadata::read(root)?.target_directory;
    run(cargo(root, all).arg("--target-dir").arg(target))
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
