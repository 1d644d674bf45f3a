//! A proxy that causes faults on the wire.
//!
//! It is between a client and a server, usually an emulator, and does nothing or one [`Fault`] to
//! each exchange. So the faults are those of networks and gateways, and the emulator shows what
//! took effect.

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
    /// The request is read but not forwarded, and the connection is closed.
    CloseBefore,
    /// It runs, and the connection is closed instead of a response.
    CloseAfter,
    /// It runs, and the connection is reset instead of a response.
    ResetAfter,
    /// It runs, and only half of the response's head is sent.
    HalfHead,
    /// It runs, and only half of the response's body is sent.
    HalfBody,
    /// It runs, and the response announces more than its length.
    TooLong,
    /// It runs, and the response announces half its length.
    TooShort,
    /// The request is not forwarded, and there is no response.
    StallBefore,
    /// It runs, and there is no response.
    StallAfter,
    /// It runs, and half the response is sent.
    StallWithin,
    /// 429 in plain text, with a `Retry-After`.
    RateLimited,
    /// 502 in HTML; the request is not forwarded.
    BadGateway,
    /// 504 in HTML, and it runs.
    GatewayTimeout,
    /// 503 in HTML; the request is not forwarded.
    Unavailable,
    /// A redirect to another address; the request is not forwarded.
    Redirect,
    /// The network delivers the request twice; the response is the second.
    Twice,
    /// It runs, and the response is what AuthPI replays for a response that is too large to store.
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

    /// Whether the client notices only by its own timeout.
    pub(crate) fn stalls(self) -> bool {
        matches!(
            self,
            Self::StallBefore | Self::StallAfter | Self::StallWithin
        )
    }

    /// How often the request reaches the server.
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

/// A recorded request.
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
    /// In front of the server at this address. `plan` gets the request, and the number of earlier
    /// ones.
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
                    // Some faults are about clients that have gone.
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

/// The next request on a connection, as bytes; `None` when the client has closed it.
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

/// The response of the server.
async fn exchange(behind: std::net::SocketAddr, request: &[u8]) -> std::io::Result<Reply> {
    let mut server = TcpStream::connect(behind).await?;
    server.write_all(request).await?;
    message(&mut server)
        .await?
        .ok_or_else(|| std::io::Error::other("no reply"))
}

/// A message: its head, including the empty line, and its body.
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
