//! An address in front of servers, like that of a load balancer or a floating IP: new connections
//! go to its present target, existing ones stay.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub(crate) struct Forwarder {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    cuts: watch::Sender<()>,
    made: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Forwarder {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let to = Arc::new(Mutex::new(server));
        let (leads, cuts) = (Arc::clone(&to), watch::Sender::new(()));
        let cutting = cuts.clone();
        let (count, made) = watch::channel(0);
        let task = tokio::spawn(async move {
            // The connections end with the forwarder.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                count.send_modify(|made| *made += 1);
                while connections.try_join_next().is_some() {}
                let (to, mut cut) = (*leads.lock().unwrap(), cutting.subscribe());
                connections.spawn(async move {
                    // Without a server, the client's connection ends, as it would without a
                    // forwarder.
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        tokio::select! {
                            _ = copy_bidirectional(&mut client, &mut server) => {}
                            _ = cut.changed() => {}
                        }
                    }
                });
            }
        });
        Self {
            address,
            to,
            cuts,
            made,
            task,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Directs new connections to another server.
    pub(crate) fn switch(&self, server: SocketAddr) {
        *self.to.lock().unwrap() = server;
    }

    /// Ends the existing connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }

    /// Waits until this number of connections has been made in total.
    pub(crate) async fn has_made(&self, connections: usize) {
        let mut made = self.made.clone();
        let made =
            tokio::time::timeout(super::DEADLINE, made.wait_for(|made| *made >= connections));
        made.await
            .expect("no further connections")
            .expect("the forwarder runs");
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
