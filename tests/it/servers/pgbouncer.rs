//! `pgbouncer`, in front of a Postgres server, with one server connection per client (`pool_mode =
//! session`).

use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

use super::{Account, Process, folder, free_port, log, postgres::PostgresServer, program, until};

pub(crate) struct PgBouncer {
    _process: Process,
    port: u16,
}

impl PgBouncer {
    /// With these startup parameters ignored; it refuses other unknown ones.
    pub(crate) async fn before(server: &PostgresServer, ignored: &str) -> Self {
        // It does not run as root.
        let account = Account::other_than_root();
        let folder = folder("pgbouncer", account);
        let (file, (host, behind)) = (folder.join("pgbouncer.ini"), server.address());
        let program = program("pgbouncer", "pgbouncer", &["/usr/sbin".into()]);
        // Another program may take the port that was free.
        for _ in 0..5 {
            let port = free_port();
            let settings = format!(
                "[databases]\n* = host={host} port={behind} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = session\n\
                 ignore_startup_parameters = {ignored}\n"
            );
            std::fs::write(&file, settings).expect("its folder is there");
            let args = [file.to_string_lossy().into_owned()];
            let process = Process::start(account, "KILL", &folder, &program, &args);
            let ready = until(
                || format!("pgbouncer does not answer: {}", log(&folder)),
                || async {
                    match server
                        .options()
                        .port(port)
                        .disable_statement_logging()
                        .connect()
                        .await
                    {
                        Ok(_) => Some(true),
                        Err(_) if process.is_running() => None,
                        Err(_) => Some(false),
                    }
                },
            );
            if ready.await {
                return Self {
                    _process: process,
                    port,
                };
            }
            process.stop();
        }
        panic!("pgbouncer does not start: {}", log(&folder));
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn options(&self, server: &PostgresServer) -> PgConnectOptions {
        server.options().port(self.port)
    }
}
