//! Programs that parts need besides a Rust toolchain. On Debian, as root, missing ones are
//! installed; otherwise they are named.

use std::{
    path::{Path, PathBuf},
    sync::Once,
};

use super::Stopped;
use crate::run::{program, run, succeeds};

/// Python 3.11 or newer, able to make virtual environments with pip.
pub(super) fn python(root: &Path) -> Result<(), Stopped> {
    let check = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))";
    provide(
        root,
        "Python 3.11 with venv and pip",
        &["python3", "python3-venv"],
        || succeeds(&mut program(root, "python3", ["-c", check])),
    )
}

/// OpenSSL's headers, which the feature `native-tls` needs on Linux.
pub(super) fn openssl(root: &Path) -> Result<(), Stopped> {
    provide(
        root,
        "OpenSSL's headers, found by pkg-config,",
        &["pkg-config", "libssl-dev"],
        || {
            !cfg!(target_os = "linux")
                || std::env::var_os("OPENSSL_DIR").is_some()
                || succeeds(&mut program(root, "pkg-config", ["--exists", "openssl"]))
        },
    )
}

/// Chromium and its driver. The tests start their own.
pub(super) fn chromium(root: &Path) -> Result<(), Stopped> {
    let check = "command -v chromedriver && { command -v chromium || command -v google-chrome; }";
    provide(
        root,
        "Chromium with chromedriver",
        &["chromium", "chromium-driver"],
        || succeeds(&mut program(root, "sh", ["-c", check])),
    )
}

/// promtool, which comes with Prometheus. No server is started.
pub(super) fn promtool(root: &Path) -> Result<(), Stopped> {
    provide(root, "promtool", &["prometheus"], || {
        succeeds(&mut program(root, "promtool", ["--version"]))
    })
}

/// A server that ledgers are tested on. The tests start their own; it need not be running.
struct Server {
    program: &'static str,
    /// Fails if the server is missing.
    check: &'static str,
    package: &'static str,
    /// The prefixes of tests that need it.
    tests: &'static [&'static str],
}

/// Debian does not put Postgres's programs on the path, nor `PgBouncer` and NATS on the path of
/// non-root users.
const SERVERS: [Server; 4] = [
    Server {
        program: "initdb, of Postgres,",
        check: "command -v initdb || ls /usr/lib/postgresql/*/bin/initdb",
        package: "postgresql",
        tests: &[
            "drivers::postgres::",
            "drivers::probes::",
            "drivers::secrets::",
            "drivers::nats::",
            "crash::postgres::",
            "crash::nats::",
            "crash::faults::on_postgres_",
        ],
    },
    Server {
        program: "pgbouncer",
        check: "command -v pgbouncer || test -x /usr/sbin/pgbouncer",
        package: "pgbouncer",
        tests: &["drivers::postgres::pooler::"],
    },
    Server {
        program: "redis-server",
        check: "command -v redis-server",
        package: "redis-server",
        // The tests of the NATS inbox use ledgers in Redis and in Postgres.
        tests: &[
            "drivers::redis::",
            "drivers::nats::",
            "crash::redis::",
            "crash::nats::",
            "crash::faults::on_redis_",
            "crash::faults::on_nats_",
        ],
    },
    Server {
        program: "nats-server",
        check: "command -v nats-server || test -x /usr/sbin/nats-server",
        package: "nats-server",
        tests: &[
            "drivers::nats::",
            "crash::nats::",
            "crash::faults::on_nats_",
        ],
    },
];

/// A server that is missing and could not be installed.
pub(super) struct Missing {
    pub(super) why: String,
    /// The prefixes of tests that cannot run without it.
    pub(super) tests: Vec<&'static str>,
}

/// The missing servers for tests with one of these name prefixes.
pub(super) fn servers(root: &Path, names: &[String]) -> Vec<Missing> {
    let wanted = |test: &str| {
        names
            .iter()
            .any(|name| test.starts_with(name) || name.starts_with(test))
    };
    let missing = |server: &Server| {
        let tests: Vec<_> = server
            .tests
            .iter()
            .copied()
            .filter(|test| wanted(test))
            .collect();
        if tests.is_empty() {
            return None;
        }
        let there = || succeeds(&mut program(root, "sh", ["-c", server.check]));
        match provide(root, server.program, &[server.package], there) {
            Err(Stopped::NotRun(why)) => Some(Missing { why, tests }),
            _ => None,
        }
    };
    SERVERS.iter().filter_map(missing).collect()
}

/// `unshare`, and permission to mount a tmpfs with it.
pub(super) fn small_disk(root: &Path) -> Result<(), Stopped> {
    let mounts = |namespace: &[&str]| {
        let mount = ["--", "mount", "-t", "tmpfs", "authpi-small-disk", "/tmp"];
        succeeds(&mut program(root, "unshare", [namespace, &mount].concat()))
    };
    if mounts(&["--mount"]) || mounts(&["--mount", "--map-root-user"]) {
        return Ok(());
    }
    Err(Stopped::NotRun(
        "`unshare` mounts no disk here: it takes root, or a system on which users may make namespaces".into(),
    ))
}

/// The mock server of the part `prism`; installed once by npm in the target folder.
const PRISM: &str = "@stoplight/prism-cli@5.14.2";

/// Where Prism is.
pub(super) fn prism(root: &Path, target: &Path) -> Result<PathBuf, Stopped> {
    // The folder's name contains the version, so that another version uses another folder.
    let folder = target.join(format!(
        "prism-{}",
        PRISM.rsplit('@').next().unwrap_or_default()
    ));
    let prism = folder.join("node_modules/.bin/prism");
    if prism.is_file() {
        return Ok(prism);
    }
    // Node requires a number as exit code.
    let old = "process.exit(Number(process.versions.node.split('.')[0]) < 18 ? 1 : 0)";
    provide(root, "Node.js 18 with npm", &["nodejs", "npm"], || {
        succeeds(&mut program(root, "node", ["-e", old]))
            && succeeds(&mut program(root, "npm", ["--version"]))
    })?;
    let mut install = program(
        root,
        "npm",
        [
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--prefix",
        ],
    );
    run(install.arg(&folder).arg(PRISM))
        .map_err(|error| Stopped::NotRun(format!("cannot install Prism: {error:#}")))?;
    Ok(prism)
}

/// Installs Debian's `packages` if `there` is false, and checks again.
fn provide(
    root: &Path,
    what: &str,
    packages: &[&str],
    there: impl Fn() -> bool,
) -> Result<(), Stopped> {
    let can_install = || {
        succeeds(&mut program(root, "apt-get", ["--version"]))
            && succeeds(&mut program(root, "sh", ["-c", r#"test "$(id -u)" = 0"#]))
    };
    if there() {
        return Ok(());
    }
    let mut why = format!(
        "{what} is not here; on Debian: apt-get install {}",
        packages.join(" ")
    );
    if can_install() {
        // Once for all parts. If a package source does not respond, the check after the
        // installation tells whether that matters.
        static UPDATE: Once = Once::new();
        UPDATE.call_once(|| _ = run(&mut program(root, "apt-get", ["update", "--quiet"])));
        let mut install = program(
            root,
            "apt-get",
            ["install", "--yes", "--quiet", "--no-install-recommends"],
        );
        let done = run(install
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"));
        if there() {
            return Ok(());
        }
        why += &done.map_or_else(
            |error| format!(", but {error:#}"),
            |()| ", which does not bring it here".to_owned(),
        );
    }
    Err(Stopped::NotRun(why))
}
