//! The packages that users get from a registry: complete, and they build.

use std::path::Path;

use anyhow::{Result, ensure};

use super::graph::Metadata;
use crate::run::{capture, cargo, run};

const NEEDED: &[&str] = &[
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "src/generated/api.rs",
    "src/generated/events.rs",
];

pub(super) fn pack(root: &Path) -> Result<()> {
    // During development, a package includes uncommitted changes.
    let dirty: &[&str] = if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        &[]
    } else {
        &["--allow-dirty"]
    };
    let base = [&["package", "--package=authpi-sdk"], dirty].concat();

    let list = capture(&mut cargo(root, base.iter().chain(&["--list"])))?;
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|file| !list.lines().any(|line| line == **file))
        .collect();
    ensure!(missing.is_empty(), "`cargo package` leaves out {missing:?}");

    // Builds the packed crate, in the workspace's target folder, where its dependencies are already
    // built.
    let target = Metadata::read(root)?.target_directory;
    run(cargo(root, base).arg("--target-dir").arg(target))
}
