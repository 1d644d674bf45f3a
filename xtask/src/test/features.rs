//! Every selection of features compiles without warnings.

use std::path::Path;

use super::{Stopped, graph::Metadata, system};
use crate::run::{cargo, run};

/// Selections beside each single feature: common combinations, and features whose code refers to
/// each other.
const CHOICES: &[&[&str]] = &[
    &[],
    &["client", "rustls"],
    &["client", "axum"],
    &["client", "schemars", "testing"],
    &["axum", "sqlite"],
    &["sqlite", "testing", "unstable"],
    &["sqlite", "postgres", "redis"],
    &["postgres", "nats"],
];
const NEED_OPENSSL: &[&[&str]] = &[
    &["client", "native-tls"],
    &["client", "rustls", "native-tls"],
];

pub(super) fn compile(root: &Path) -> Result<(), Stopped> {
    let metadata = Metadata::read(root)?;
    let features = &metadata.member("authpi-sdk")?.features;
    for feature in features.iter().filter(|feature| *feature != "default") {
        check(root, &[feature])?;
    }
    for choice in CHOICES {
        check(root, choice)?;
    }
    system::openssl(root)?;
    for choice in NEED_OPENSSL {
        check(root, choice)?;
    }
    check(
        root,
        &features.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

/// Like `cargo check`, but with `cargo rustc`, so that warnings are errors in this crate only, and
/// nothing else is rebuilt.
fn check(root: &Path, features: &[&str]) -> Result<(), Stopped> {
    let features = format!("--features={}", features.join(","));
    let choice = [
        "--quiet",
        "--package=authpi-sdk",
        "--lib",
        "--no-default-features",
        &features,
    ];
    let args = [
        &["rustc", "--profile=check"],
        &choice[..],
        &["--", "-D", "warnings"],
    ]
    .concat();
    Ok(run(&mut cargo(root, args))?)
}
