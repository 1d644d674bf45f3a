//! Prism, an independent mock server that has only `openapi/authpi.yaml` and refuses what it does
//! not allow.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
};

use super::{Process, folder, free_port, log, until};

/// The mock, ended when it is dropped.
pub(crate) struct Prism {
    _process: Process,
    pub(crate) base_url: String,
}

impl Prism {
    pub(crate) async fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the tests are in the workspace");
        let folder = folder("prism", None);
        let description = root.join("openapi/authpi.yaml").display().to_string();
        loop {
            let port = free_port();
            let args = [
                "mock",
                "--errors",
                "--host",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                &description,
            ];
            let process = Process::start(
                None,
                "TERM",
                &folder,
                &program(root),
                &args.map(str::to_owned),
            );
            let up = until(
                || format!("Prism does not start:\n{}", log(&folder)),
                async || {
                    let answers = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
                    (answers || !process.is_running()).then_some(answers)
                },
            );
            if up.await {
                return Self {
                    _process: process,
                    base_url: format!("http://127.0.0.1:{port}"),
                };
            }
            // Another program has taken the port; any other failure is reported.
            assert!(
                log(&folder).contains("EADDRINUSE"),
                "Prism does not start:\n{}",
                log(&folder)
            );
        }
    }
}

/// Installed by `cargo xtask test --only prism`.
fn program(root: &Path) -> PathBuf {
    let program = match std::env::var_os("AUTHPI_PRISM") {
        Some(path) => PathBuf::from(path),
        None => root.join("target/prism-5.14.2/node_modules/.bin/prism"),
    };
    assert!(
        program.is_file(),
        "Prism is not at {}. `cargo xtask test --only prism` installs it, and `cargo test -- --skip prism::` leaves out what needs it",
        program.display()
    );
    program
}
