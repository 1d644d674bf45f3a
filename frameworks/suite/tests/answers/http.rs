//! A sender that can misbehave: it writes the bytes of HTTP/1.1 itself.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use frameworks::{
    PATH,
    scenarios::{Arrives, Sent},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The headers that a receiver sets.
const HEADERS: [&str; 3] = ["content-type", "retry-after", "allow"];

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    pub(crate) fn status(&self) -> &str {
        &self.status
    }

    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    /// In the form of a golden file. The headers of the server itself are left out.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.status);
        for name in HEADERS {
            for (_, value) in self.headers.iter().filter(|(header, _)| header == name) {
                writeln!(text, "{name}: {value}").unwrap();
            }
        }
        text + "\n" + &self.body + "\n"
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = first.strip_prefix("HTTP/1.1 ")?.to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let headers: Vec<_> = rest.lines().map(header).collect();
        let header = |wanted| {
            headers
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| &**value)
        };
        let body = match (header("content-length"), header("transfer-encoding")) {
            (Some(length), _) => bytes[end + 4..].get(..length.parse().unwrap())?.to_vec(),
            (None, Some("chunked")) => whole_chunks(&bytes[end + 4..])?,
            (None, _) => panic!("an answer without a length: {headers:?}"),
        };
        let body = String::from_utf8(body).unwrap();
        Some(Self {
            status,
            headers,
            body,
        })
    }
}

/// The body, if all its chunks have arrived.
fn whole_chunks(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let chunk = bytes[end + 2..].get(..size)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk);
        bytes = bytes[end + 2..].get(size + 2..)?;
    }
}

/// A request that is being sent.
pub(crate) struct Exchange(TcpStream);

impl Exchange {
    /// Sends as much of the request as it says.
    pub(crate) async fn begin(address: SocketAddr, sent: &Sent) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut head =
            format!("{} {PATH} HTTP/1.1\r\nhost: localhost\r\n", sent.method).into_bytes();
        for (name, value) in &sent.headers {
            head.extend_from_slice(format!("{name}: ").as_bytes());
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        let (length, body) = match sent.body_arrives {
            Arrives::Chunked(size) => (
                "transfer-encoding: chunked".to_owned(),
                chunked(&sent.body, size),
            ),
            Arrives::Whole => (
                format!("content-length: {}", sent.body.len()),
                sent.body.clone(),
            ),
            Arrives::Stalls(bytes) | Arrives::HangsUp(bytes) => (
                format!("content-length: {}", sent.body.len()),
                sent.body[..bytes].to_vec(),
            ),
        };
        head.extend_from_slice(format!("{length}\r\n\r\n").as_bytes());
        // A server that has refused the request may have closed the connection.
        let _ = stream.write_all(&[head, body].concat()).await;
        if matches!(sent.body_arrives, Arrives::HangsUp(_)) {
            let _ = stream.shutdown().await;
        }
        Self(stream)
    }

    /// The answer, or none if the connection was closed without one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut bytes = Vec::new();
        let read = async {
            loop {
                if let Some(answer) = Answer::parse(&bytes) {
                    return Some(answer);
                }
                // A connection that is reset has no more bytes.
                if self.0.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        timeout(Duration::from_mins(1), read)
            .await
            .expect("no answer within a minute")
    }
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let chunk = |data: &[u8]| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
    let mut chunks: Vec<u8> = body.chunks(size).flat_map(chunk).collect();
    chunks.extend_from_slice(b"0\r\n\r\n");
    chunks
}

/// Sends a request on a connection of its own, and returns the answer.
pub(crate) async fn send(address: SocketAddr, sent: &Sent) -> Option<Answer> {
    Exchange::begin(address, sent).await.answer().await
}
