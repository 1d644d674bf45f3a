//! A server with scripted responses.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::client::{Client, ClientBuilder, RetryPolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What to do with a request.
#[derive(Clone)]
pub(super) enum Reply {
    /// Write these bytes and close.
    Bytes(Vec<u8>),
    /// Write these bytes and keep the connection open, without any more.
    Stall(Vec<u8>),
    /// Write these bytes repeatedly until the client gives up.
    Endless(Vec<u8>, Vec<u8>),
}

impl Reply {
    /// A complete response.
    pub(super) fn new(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        Self::Bytes(format!("{head}{}\r\n{body}", headers.concat()).into())
    }

    pub(super) fn json(status: u16, body: &str) -> Self {
        Self::new(status, &[("content-type", "application/json")], body)
    }
}

/// A recorded request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// `POST /v1/…`
    pub(super) line: String,
    pub(super) head: String,
    pub(super) body: String,
}

impl Asked {
    /// The value of a header, if there is exactly one.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let first = found.next();
        assert_eq!(found.next(), None, "{name} came twice");
        first
    }
}

/// The server: a function of the request line returns the response.
pub(super) struct Peer {
    pub(super) base_url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Peer {
    /// The same response to every request.
    pub(super) async fn replying(reply: Reply) -> Self {
        Self::answering(move |_| reply.clone()).await
    }

    /// One response after the other, repeating the last one.
    pub(super) async fn in_turn(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: Vec<_> = replies.into_iter().collect();
        let next = AtomicUsize::new(0);
        Self::answering(move |_| {
            replies[next.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1)].clone()
        })
        .await
    }

    pub(super) async fn answering(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!(
            "http://{}",
            listener
                .local_addr()
                .expect("a bound listener has an address")
        );
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (reply, seen) = (Arc::new(reply), Arc::clone(&asked));
        let server = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let (reply, seen) = (Arc::clone(&reply), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Some(request) = read(&mut connection).await else {
                        return;
                    };
                    let reply = reply(&request);
                    seen.lock().unwrap().push(request);
                    // Some tests are about clients that have gone.
                    let _ = write(&mut connection, reply).await;
                });
            }
        });
        Self {
            base_url,
            asked,
            server,
        }
    }

    /// The recorded requests, without `/v1/me`.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|asked| !asked.line.ends_with("/v1/me"))
            .cloned()
            .collect()
    }

    /// The number of requests for `/v1/me`.
    pub(super) fn asked_who(&self) -> usize {
        let all = self.asked.lock().unwrap().len();
        all - self.asked().len()
    }

    /// Advances the clock by this time during `call`, when the peer has received this number of
    /// requests.
    ///
    /// Only on a single-threaded runtime.
    pub(super) async fn delaying<T>(
        &self,
        by: Duration,
        asked: usize,
        call: impl Future<Output = T>,
    ) -> T {
        let mut call = pin!(call);
        while self.asked().len() < asked {
            tokio::select! {
                biased;
                _ = &mut call => panic!("the call is over before the peer is asked"),
                () = tokio::task::yield_now() => {}
            }
        }
        tokio::time::pause();
        tokio::time::advance(by).await;
        tokio::time::resume();
        call.await
    }

    /// A client of it that knows its account, without retries.
    pub(super) fn client(&self) -> Client {
        self.builder()
            .account("acc_1")
            .build()
            .expect("a client for the peer")
    }

    pub(super) fn builder(&self) -> ClientBuilder {
        let builder = Client::builder()
            .base_url(&self.base_url)
            .api_key("key_1", "very_secret");
        builder
            .timeout(Duration::from_secs(20))
            .retry(RetryPolicy::never())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn read(connection: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        (connection.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).ok()?;
    let (line, head) = head.split_once("\r\n")?;
    let line = line.strip_suffix(" HTTP/1.1")?.to_owned();
    let mut asked = Asked {
        line,
        head: head.to_owned(),
        body: String::new(),
    };
    let length: usize = asked
        .header("content-length")
        .map_or(0, |length| length.parse().expect("a length"));
    while bytes.len() < head_end + 4 + length {
        (connection.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    }
    asked.body = String::from_utf8(bytes.split_off(head_end + 4)).ok()?;
    Some(asked)
}

async fn write(connection: &mut TcpStream, reply: Reply) -> std::io::Result<()> {
    match reply {
        Reply::Bytes(bytes) => {
            connection.write_all(&bytes).await?;
            connection.shutdown().await
        }
        Reply::Stall(bytes) => {
            connection.write_all(&bytes).await?;
            // Until the client gives up.
            connection.read_to_end(&mut Vec::new()).await.map(drop)
        }
        Reply::Endless(head, bytes) => {
            connection.write_all(&head).await?;
            loop {
                connection.write_all(&bytes).await?;
            }
        }
    }
}
