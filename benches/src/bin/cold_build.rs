//! The build cost of a dependency: crates in the tree and seconds of a cold build (dev profile, an
//! empty target folder), for a service with no other dependency.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use benches::{Made, table, write_json};
use serde::Serialize;

/// A name, and its line under `[dependencies]`.
const CASES: [(&str, &str); 6] = [
    (
        "authpi-sdk, receiver",
        r#"authpi-sdk = { path = "SDK", default-features = false, features = ["axum"] }"#,
    ),
    ("authpi-sdk, client", r#"authpi-sdk = { path = "SDK" }"#),
    (
        "authpi-sdk, both",
        r#"authpi-sdk = { path = "SDK", features = ["axum"] }"#,
    ),
    (
        "svix",
        r#"svix = { version = "=2.9.1", default-features = false, features = ["http1", "rustls-tls"] }"#,
    ),
    ("workos", r#"workos = "=3.5.0""#),
    (
        "async-stripe-webhook",
        r#"async-stripe-webhook = "=1.0.0-rc.10""#,
    ),
];

#[derive(Serialize)]
struct Figures {
    made: Made,
    built: Vec<Built>,
}

#[derive(Serialize)]
struct Built {
    name: &'static str,
    /// Without the service itself.
    crates: usize,
    seconds: f64,
}

fn main() {
    let made = Made::here(&["authpi-sdk", "svix", "workos", "async-stripe-webhook"]);
    println!("{made}");
    let mut built = Vec::new();
    let mut rows = vec![
        ["a service that depends on", "crates", "cold build s"]
            .map(String::from)
            .to_vec(),
    ];
    for (name, dependency) in CASES {
        let one = build(name, dependency);
        rows.push(vec![
            name.to_owned(),
            one.crates.to_string(),
            format!("{:.1}", one.seconds),
        ]);
        built.push(one);
    }
    println!("{}", table(&rows));
    write_json("build", &Figures { made, built });
}

fn build(name: &'static str, dependency: &str) -> Built {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sdk = root
        .join("authpi-sdk")
        .canonicalize()
        .expect("the SDK is there");
    let folder = std::env::temp_dir().join(format!("authpi-bench-build-{}", std::process::id()));
    let gone = Gone(folder.clone());
    std::fs::create_dir_all(folder.join("src")).expect("a folder for the service");
    let dependency = dependency.replace("SDK", &sdk.to_string_lossy());
    let manifest = format!(
        "[package]\nname = \"service\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n{dependency}\n"
    );
    std::fs::write(folder.join("Cargo.toml"), manifest).expect("a manifest");
    std::fs::write(folder.join("src/main.rs"), "fn main() {}\n").expect("a program");

    // Downloads are not part of the build.
    cargo(&folder, &["fetch", "--quiet"]);
    let tree = cargo(
        &folder,
        &[
            "tree",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ],
    );
    let crates: BTreeSet<_> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .collect();
    let started = Instant::now();
    cargo(&folder, &["build", "--quiet"]);
    let seconds = started.elapsed().as_secs_f64();
    drop(gone);
    Built {
        name,
        crates: crates.len() - 1,
        seconds,
    }
}

fn cargo(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("cargo")
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Removes the folder when dropped.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
