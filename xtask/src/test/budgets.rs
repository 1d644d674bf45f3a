//! Limits on the cost of using the SDK: number of crates, licences, minimum Rust version.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, bail, ensure};
use spdx::{Expression, Licensee, ParseMode};

use super::graph::{Metadata, Package};
use crate::run::{capture, cargo};

/// Crates of HTTP clients.
const CLIENTS: &[&str] = &[
    "reqwest",
    "progenitor-client",
    "hyper",
    "hyper-util",
    "rustls",
    "native-tls",
];
/// Crates of HTTP servers and databases.
const SERVERS: &[&str] = &[
    "axum",
    "axum-core",
    "sqlx",
    "sqlx-core",
    "libsqlite3-sys",
    "redis",
    "async-nats",
];

/// The document that lists which dependencies are in the public API.
const PUBLIC: &str = "docs/public-dependencies.md";

/// The limits of one selection of features.
struct Budget {
    /// Features of authpi-sdk, without its default ones.
    features: &'static str,
    /// The maximum number of crates, including authpi-sdk and procedural macros, without build
    /// dependencies; on x86-64 Linux.
    most: usize,
    /// Crates that must not be among them.
    without: &'static [&'static [&'static str]],
}

const BUDGETS: &[Budget] = &[
    Budget {
        features: "",
        most: 50,
        without: &[CLIENTS, SERVERS],
    },
    Budget {
        features: "axum",
        most: 60,
        without: &[CLIENTS, &["sqlx", "redis", "hyper-util"]],
    },
    Budget {
        features: "axum,sqlite,testing",
        most: 140,
        without: &[CLIENTS],
    },
    // Each store alone, without the others' drivers.
    Budget {
        features: "postgres",
        most: 145,
        without: &[CLIENTS, &["libsqlite3-sys", "redis"]],
    },
    Budget {
        features: "redis",
        most: 105,
        without: &[CLIENTS, &["sqlx"]],
    },
    // Its client requires rustls, which is unused unless TLS is requested.
    Budget {
        features: "nats",
        most: 120,
        without: &[
            &["reqwest", "hyper", "ring", "aws-lc-rs"],
            &["sqlx", "redis"],
        ],
    },
    Budget {
        features: "client",
        most: 101,
        without: &[SERVERS],
    },
    // rustls adds about a dozen.
    Budget {
        features: "client,rustls",
        most: 112,
        without: &[SERVERS],
    },
];

pub(super) fn hold(root: &Path) -> Result<()> {
    let mut broken = Vec::new();
    for budget in BUDGETS {
        broken.extend(budget.broken(root)?);
    }
    let metadata = Metadata::read(root)?;
    broken.extend(rust_versions(&metadata)?);
    broken.extend(undecided(
        &metadata,
        &std::fs::read_to_string(root.join(PUBLIC))?,
    )?);
    let deny = std::fs::read_to_string(root.join("deny.toml"))?;
    broken.extend(licences(&metadata, &deny)?);
    let frameworks = Metadata::read(&root.join("frameworks"))?;
    broken.extend(licences(&frameworks, &deny)?);
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

impl Budget {
    fn broken(&self, root: &Path) -> Result<Vec<String>> {
        let shape = [
            "--edges=normal",
            "--prefix=none",
            "--format={p}",
            "--target=x86_64-unknown-linux-gnu",
            "--locked",
        ];
        let choice = [
            "tree",
            "--package=authpi-sdk",
            "--no-default-features",
            "--features",
            self.features,
        ];
        let tree = capture(&mut cargo(root, choice.iter().chain(&shape)))?;
        // A line is `name v1.2.3`, sometimes with a suffix.
        let crates: BTreeSet<(&str, &str)> = tree
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                words
                    .next()
                    .zip(words.next())
                    .with_context(|| format!("`cargo tree` prints {line:?}"))
            })
            .collect::<Result<_>>()?;
        println!(
            "{:<22} {:>3} crates, at most {}",
            format!("[{}]", self.features),
            crates.len(),
            self.most
        );

        let mut broken = Vec::new();
        if crates.len() > self.most {
            broken.push(format!(
                "[{}] is {} crates, more than {}",
                self.features,
                crates.len(),
                self.most
            ));
        }
        for name in self.without.iter().copied().flatten() {
            if crates.iter().any(|(found, _)| found == name) {
                broken.push(format!("[{}] brings in {name}", self.features));
            }
        }
        Ok(broken)
    }
}

/// Packages that need a newer Rust than the member that uses them declares.
fn rust_versions(metadata: &Metadata) -> Result<BTreeSet<String>> {
    let mut broken = BTreeSet::new();
    for member in metadata.packages.iter().filter(|p| metadata.is_member(p)) {
        let declared = member
            .rust_version
            .with_context(|| format!("{} declares no rust-version", member.name))?;
        let newer = metadata
            .closure(member)
            .into_iter()
            .filter(|p| p.rust_version > Some(declared));
        broken.extend(newer.map(|p| {
            format!(
                "{} needs Rust {:?}, {} declares {declared:?}",
                p.name, p.rust_version, member.name
            )
        }));
    }
    let [major, minor, patch] = metadata
        .member("authpi-sdk")?
        .rust_version
        .unwrap_or_default();
    println!(
        "Rust {major}.{minor}.{patch} is declared, and no dependency needs a newer one: {}",
        broken.is_empty()
    );
    Ok(broken)
}

/// Dependencies without a decision on whether they may be in the public API.
fn undecided(metadata: &Metadata, decided: &str) -> Result<Vec<String>> {
    let sdk = metadata.member("authpi-sdk")?;
    let missing = sdk
        .dependencies
        .iter()
        .filter(|name| !decided.contains(&format!("`{name}`")));
    Ok(missing
        .map(|name| format!("{PUBLIC} does not tell of {name}"))
        .collect())
}

/// Packages whose licence `deny.toml` does not allow.
fn licences(metadata: &Metadata, deny: &str) -> Result<Vec<String>> {
    let allowed = Allowed::read(deny)?;
    let others = metadata.packages.iter().filter(|p| !metadata.is_member(p));
    let mut broken = Vec::new();
    for package in others {
        if !allowed.permits(package)? {
            broken.push(format!("{} is under {:?}", package.name, package.license));
        }
    }
    println!(
        "{} packages; licences that deny.toml does not allow: {}",
        metadata.packages.len(),
        broken.len()
    );
    Ok(broken)
}

/// The part of `deny.toml` about licences.
struct Allowed {
    everywhere: Vec<Licensee>,
    /// A crate's name, and the licences allowed for it only.
    exceptions: Vec<(String, Vec<Licensee>)>,
}

impl Allowed {
    fn read(deny: &str) -> Result<Self> {
        let deny: toml::Table = deny.parse()?;
        let list = |value: Option<&toml::Value>| -> Result<Vec<Licensee>> {
            let names = value
                .and_then(toml::Value::as_array)
                .context("deny.toml has no list `allow`")?;
            names
                .iter()
                .map(|name| Ok(Licensee::parse(name.as_str().unwrap_or_default())?))
                .collect()
        };
        let licenses = &deny["licenses"];
        let exceptions = licenses
            .get("exceptions")
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten();
        Ok(Self {
            everywhere: list(licenses.get("allow"))?,
            exceptions: exceptions
                .map(|exception| {
                    let name = exception
                        .get("crate")
                        .and_then(toml::Value::as_str)
                        .context("an exception names no crate")?;
                    Ok((name.to_owned(), list(exception.get("allow"))?))
                })
                .collect::<Result<_>>()?,
        })
    }

    fn permits(&self, package: &Package) -> Result<bool> {
        let Some(license) = &package.license else {
            bail!("{} tells no licence", package.name)
        };
        // Older crates write `MIT/Apache-2.0`.
        let expression = Expression::parse_mode(license, ParseMode::LAX)?;
        let own = self
            .exceptions
            .iter()
            .filter(|(name, _)| *name == package.name)
            .flat_map(|(_, allowed)| allowed);
        let allowed: Vec<&Licensee> = self.everywhere.iter().chain(own).collect();
        Ok(expression
            .evaluate(|required| allowed.iter().any(|licensee| licensee.satisfies(required))))
    }
}
