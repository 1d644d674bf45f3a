//! Every choice of features compiles, and without a warning.

use std::path::Path;

use super::{Stopped, graph::Metadata, system};
use crate::run::{cargo, run};

/// Choices beside each feature alone: what people really pair, and where one feature's code names
/// another's.
const CHOICES: &[&[&str]] = &[
    &[],
    &["client", "rustls"],
    &["client", "axum"],
    &["client", "schemars", "testing"],
    &["axum", "sqlite"],
    &["sqlite", "testing"],
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

/// As `cargo check` does it; by `cargo rustc`, so that warnings become errors in this crate alone
/// and nothing else is built anew.
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
