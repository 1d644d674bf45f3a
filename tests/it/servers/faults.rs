//! A server with faults at wire level, in front of one that has none.
//!
//! It stands between a client and a server, mostly an emulator, and does to each exchange what it
//! is told: nothing, or one of [`Fault`]. So the faults are those of a network and of gateways, and
//! what took place can be seen at the emulator behind it.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// What happens to one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// Nothing goes wrong.
    None,
    /// The request is read, goes no further, and the connection is closed.
    CloseBefore,
    /// It is done, and the connection is closed instead of a reply.
    CloseAfter,
    /// It is done, and the connection is reset instead of a reply.
    ResetAfter,
    /// It is done, and of the reply only half the head comes through.
    HalfHead,
    /// It is done, and of the reply's body only half comes through.
    HalfBody,
    /// It is done, and the reply says a length greater than its own.
    TooLong,
    /// It is done, and the reply says half its length.
    TooShort,
    /// The request goes no further, and nothing is said.
    StallBefore,
    /// It is done, and nothing is said.
    StallAfter,
    /// It is done, and half the reply is said.
    StallWithin,
    /// 429 in plain text, with a `Retry-After`.
    RateLimited,
    /// 502 in HTML; the request went no further.
    BadGateway,
    /// 504 in HTML, and it is done.
    GatewayTimeout,
    /// 503 in HTML; the request went no further.
    Unavailable,
    /// A redirect to another address; the request went no further.
    Redirect,
    /// The network delivers the request twice; the reply is the second.
    Twice,
    /// It is done, and the answer is what AuthPI replays of an answer that is too large to be
    /// stored.
    EmptyReplay,
}

impl Fault {
    pub(crate) const ALL: [Self; 17] = [
        Self::CloseBefore,
        Self::CloseAfter,
        Self::ResetAfter,
        Self::HalfHead,
        Self::HalfBody,
        Self::TooLong,
        Self::TooShort,
        Self::StallBefore,
        Self::StallAfter,
        Self::StallWithin,
        Self::RateLimited,
        Self::BadGateway,
        Self::GatewayTimeout,
        Self::Unavailable,
        Self::Redirect,
        Self::Twice,
        Self::EmptyReplay,
    ];

    /// Whether the client has to wait for its own deadline to notice.
    pub(crate) fn stalls(self) -> bool {
        matches!(
            self,
            Self::StallBefore | Self::StallAfter | Self::StallWithin
        )
    }

    /// How often the request reaches the server behind.
    fn deliveries(self) -> usize {
        match self {
            Self::CloseBefore
            | Self::StallBefore
            | Self::RateLimited
            | Self::BadGateway
            | Self::Unavailable
            | Self::Redirect => 0,
            Self::Twice => 2,
            _ => 1,
        }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `POST /v1/…`
    pub(crate) line: String,
    /// The names of its headers, in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

/// The server.
pub(crate) struct Faulty {
    pub(crate) base_url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Faulty {
    /// In front of the server at this address. `plan` is told the request, and how many came before
    /// it.
    pub(crate) async fn before(
        behind: std::net::SocketAddr,
        plan: impl Fn(&Asked, usize) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let base_url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (plan, seen) = (Arc::new(plan), Arc::clone(&asked));
        let server = tokio::spawn(async move {
            // The connections end with the server.
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (plan, seen) = (Arc::clone(&plan), Arc::clone(&seen));
                connections.spawn(async move {
                    let reported = move |asked: Asked| {
                        let mut seen = seen.lock().unwrap();
                        let fault = plan(&asked, seen.len());
                        seen.push(asked);
                        fault
                    };
                    // A client that has gone is what some faults are about.
                    let _ = serve(connection, behind, reported).await;
                });
            }
        });
        Self {
            base_url,
            asked,
            server,
        }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    behind: std::net::SocketAddr,
    reported: impl Fn(Asked) -> Fault,
) -> std::io::Result<()> {
    loop {
        let Some((asked, request)) = request(&mut client).await? else {
            return Ok(());
        };
        let redirect = format!("/v1/elsewhere{}", asked.line.len());
        let fault = reported(asked);
        let mut reply = Reply::default();
        for _ in 0..fault.deliveries() {
            reply = exchange(behind, &request).await?;
        }
        let Reply { head, body } = reply;
        let whole = [&*head, &*body].concat();
        let written = match fault {
            Fault::None | Fault::Twice => {
                client.write_all(&whole).await?;
                continue;
            }
            Fault::CloseBefore
            | Fault::CloseAfter
            | Fault::ResetAfter
            | Fault::StallBefore
            | Fault::StallAfter => Vec::new(),
            Fault::HalfHead => head[..head.len() / 2].to_vec(),
            Fault::HalfBody | Fault::StallWithin if body.is_empty() => {
                head[..head.len() / 2].to_vec()
            }
            Fault::HalfBody | Fault::StallWithin => whole[..head.len() + body.len() / 2].to_vec(),
            Fault::TooLong => [&*with_length(&head, body.len() + 10), &*body].concat(),
            Fault::TooShort => [&*with_length(&head, body.len() / 2), &*body].concat(),
            Fault::RateLimited => said("429 Too Many Requests", "retry-after: 0\r\n", "slow down"),
            Fault::BadGateway => said(
                "502 Bad Gateway",
                "content-type: text/html\r\n",
                "<html>502</html>",
            ),
            Fault::GatewayTimeout => said(
                "504 Gateway Timeout",
                "content-type: text/html\r\n",
                "<html>504</html>",
            ),
            Fault::Unavailable => said(
                "503 Service Unavailable",
                "content-type: text/html\r\n",
                "<html>503</html>",
            ),
            Fault::Redirect => said(
                "307 Temporary Redirect",
                &format!("location: {redirect}\r\n"),
                "",
            ),
            Fault::EmptyReplay => said("201 Created", "idempotent-replayed: true\r\n", ""),
        };
        client.write_all(&written).await?;
        if fault.stalls() {
            // Until the client gives up.
            client.read_to_end(&mut Vec::new()).await?;
        }
        if fault == Fault::ResetAfter {
            client.set_zero_linger()?;
            return Ok(());
        }
        return client.shutdown().await;
    }
}

fn said(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

fn with_length(head: &[u8], length: usize) -> Vec<u8> {
    let head = String::from_utf8(head.to_vec()).expect("the emulator's heads are text");
    let lines = head
        .trim_end()
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let lines: Vec<_> = lines.collect();
    format!("{}\r\ncontent-length: {length}\r\n\r\n", lines.join("\r\n")).into()
}

/// The next request on a connection, with its bytes; none when the client has closed it.
async fn request(client: &mut TcpStream) -> std::io::Result<Option<(Asked, Vec<u8>)>> {
    let Some(Reply { head, body }) = message(client).await? else {
        return Ok(None);
    };
    let text = String::from_utf8(head.clone()).map_err(std::io::Error::other)?;
    let (line, headers) = text
        .split_once("\r\n")
        .ok_or_else(|| std::io::Error::other("no request"))?;
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    let headers = headers
        .lines()
        .filter_map(|header| Some(header.split_once(':')?.0.to_ascii_lowercase()))
        .collect();
    let request = [&*head, &*body].concat();
    Ok(Some((
        Asked {
            line,
            headers,
            body,
        },
        request,
    )))
}

/// What the server behind answers.
async fn exchange(behind: std::net::SocketAddr, request: &[u8]) -> std::io::Result<Reply> {
    let mut server = TcpStream::connect(behind).await?;
    server.write_all(request).await?;
    message(&mut server)
        .await?
        .ok_or_else(|| std::io::Error::other("no reply"))
}

/// A message: its head, up to and with the empty line, and its body.
#[derive(Default)]
struct Reply {
    head: Vec<u8>,
    body: Vec<u8>,
}

async fn message(connection: &mut TcpStream) -> std::io::Result<Option<Reply>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if connection.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| {
        length.trim().parse().expect("a length is a number")
    });
    while bytes.len() < end + length {
        if connection.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let body = bytes.split_off(end);
    Ok(Some(Reply { head: bytes, body }))
}
