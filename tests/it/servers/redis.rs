//! `redis-server`, alone or as a cluster of three.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use redis::{Client, RedisResult, aio::MultiplexedConnection, cmd};
use tokio::sync::OnceCell;

use super::{Process, folder, free_port, log, program, signal, stopped, until};

pub(crate) struct RedisServer {
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
}

/// A unique prefix for keys.
pub(crate) fn fresh_prefix() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("t{}:", MADE.fetch_add(1, Ordering::Relaxed))
}

impl RedisServer {
    /// The shared one, which lives as long as this process.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<RedisServer> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        // Each command is in the file before its response.
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    pub(crate) async fn start_with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Self {
            process: None,
            folder: folder("redis", None),
            port: 0,
            settings,
        };
        // Another program may take the port that was free.
        for _ in 0..5 {
            server.port = free_port();
            if server.begin().await {
                return server;
            }
        }
        panic!("redis-server does not start: {}", log(&server.folder));
    }

    /// Whether it accepts connections; false if it ended immediately.
    async fn begin(&mut self) -> bool {
        let (port, folder) = (self.port.to_string(), self.folder.to_string_lossy());
        let args = [
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--port",
            &port,
            "--dir",
            &folder,
        ];
        let args: Vec<_> = args
            .into_iter()
            .map(str::to_owned)
            .chain(self.settings.iter().cloned())
            .collect();
        let process = Process::start(
            None,
            "KILL",
            &self.folder,
            &program("redis-server", "redis-server", &[]),
            &args,
        );
        let ready = until(
            || format!("redis-server does not answer: {}", log(&self.folder)),
            || async {
                match self.connection().await {
                    // While Redis loads its data, it accepts connections but answers PING with an
                    // error.
                    Ok(mut connection) => cmd("PING")
                        .exec_async(&mut connection)
                        .await
                        .ok()
                        .map(|()| true),
                    Err(_) if process.is_running() => None,
                    Err(_) => Some(false),
                }
            },
        );
        let ready = ready.await;
        if ready {
            self.process = Some(process);
        } else {
            process.stop();
        }
        ready
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its address.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A connection for the tests themselves.
    pub(crate) async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        Client::open(self.url())?
            .get_multiplexed_async_connection()
            .await
    }

    /// Immediately, like a crash.
    pub(crate) fn stop(&mut self) {
        self.process.take().expect("it runs").stop();
    }

    /// After a stop, with the same data at the same port.
    pub(crate) async fn start_again(&mut self) {
        assert!(
            self.begin().await,
            "redis-server does not start again: {}",
            log(&self.folder)
        );
    }

    /// Stops the server, whatever it is doing, until the result is dropped.
    pub(crate) fn pause(&self) -> Paused {
        let pid = self.process.as_ref().expect("it runs").pid;
        signal("STOP", &[pid]);
        stopped(&[pid]);
        Paused { pid }
    }
}

/// Continues the server when dropped.
pub(crate) struct Paused {
    pid: u32,
}

impl Drop for Paused {
    fn drop(&mut self) {
        signal("CONT", &[self.pid]);
    }
}

/// Three servers that share the slots.
pub(crate) struct RedisCluster {
    pub(crate) nodes: [RedisServer; 3],
}

impl RedisCluster {
    pub(crate) async fn start() -> Self {
        const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];
        let mut nodes = Vec::new();
        for (first, last) in SLOTS {
            // The default port between nodes is 10,000 higher, which may not exist.
            let bus = free_port().to_string();
            let settings = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "5000",
            ];
            let node = RedisServer::start_with(&settings).await;
            let mut connection = node.connection().await.expect("it answers");
            let own = cmd("CLUSTER")
                .arg("ADDSLOTSRANGE")
                .arg(first)
                .arg(last)
                .to_owned();
            own.exec_async(&mut connection)
                .await
                .expect("the slots are free");
            nodes.push((node, bus));
        }
        let mut connection = nodes[0].0.connection().await.expect("it answers");
        for (node, bus) in &nodes[1..] {
            let meet = cmd("CLUSTER")
                .arg("MEET")
                .arg("127.0.0.1")
                .arg(node.port)
                .arg(bus)
                .to_owned();
            meet.exec_async(&mut connection).await.expect("they meet");
        }
        for (node, _) in &nodes {
            until(
                || format!("the cluster does not come about: {}", log(&node.folder)),
                || async {
                    let mut connection = node.connection().await.ok()?;
                    let reported: String = cmd("CLUSTER")
                        .arg("INFO")
                        .query_async(&mut connection)
                        .await
                        .ok()?;
                    (reported.contains("cluster_state:ok")
                        && reported.contains("cluster_known_nodes:3"))
                    .then_some(())
                },
            )
            .await;
        }
        let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
        Self {
            nodes: nodes
                .try_into()
                .unwrap_or_else(|_| unreachable!("there are three")),
        }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }
}
