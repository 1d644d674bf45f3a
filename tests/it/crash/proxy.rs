//! A proxy between the service and its store that can cut a response in the middle.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Forwards everything, until it is asked to cut.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) port: u16,
    server: u16,
    cuts: Arc<AtomicU32>,
}

impl Proxy {
    /// Forwards to the server at this port, for as long as the runtime lives.
    pub(super) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let proxy = Self {
            port,
            server,
            cuts: Arc::default(),
        };
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = accepting.clone();
                // The result is ignored: when this ends, both connections are closed, so client and
                // server notice it.
                tokio::spawn(async move { proxy.connect(client).await });
            }
        });
        proxy
    }

    /// Cuts the connections of the next `replies` responses, each after a part of it.
    pub(super) fn cut(&self, replies: u32) {
        self.cuts.store(replies, Ordering::Relaxed);
    }

    /// The number of remaining cuts.
    pub(super) fn left(&self) -> u32 {
        self.cuts.load(Ordering::Relaxed)
    }

    async fn connect(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", self.server)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        let asking = async move {
            let mut from_client = from_client;
            copy(&mut from_client, &mut to_server).await.map(drop)
        };
        // When one direction ends, both are closed.
        tokio::select! {
            done = asking => done,
            done = self.reply(from_server, to_client) => done,
        }
    }

    async fn reply(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut reply = vec![0; 16 * 1024];
        loop {
            let length = from.read(&mut reply).await?;
            if length == 0 {
                return Ok(());
            }
            let cut = self
                .cuts
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                });
            if cut.is_ok() {
                to.write_all(&reply[..fastrand::usize(0..length)]).await?;
                return Ok(());
            }
            to.write_all(&reply[..length]).await?;
        }
    }
}
