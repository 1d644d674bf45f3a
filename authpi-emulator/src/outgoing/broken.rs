//! Requests that are broken on purpose, written byte by byte.

use std::{fmt::Write as _, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use url::Url;

use super::send::{KEPT_ANSWER, MAX_ANSWER, Sender};
use super::{Answered, Outgoing};

/// In which way a request is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    /// Half of the body, then the end of the connection.
    CutBody,
    /// `Content-Length` is too small.
    WrongLength,
    /// The end of the connection instead of reading the response.
    HangUp,
    /// The body in parts, with this pause between them.
    Slow(Duration),
}

/// The number of parts of a slow body.
const PARTS: usize = 16;
/// How much too small a wrong length is.
const TOO_SMALL: usize = 10;

impl Sender {
    /// Sends a broken request, on a connection of its own.
    pub(crate) async fn send_broken(
        &self,
        sent: Outgoing,
        how: Broken,
    ) -> Result<Answered, String> {
        self.check(&sent.url)?;
        match timeout(self.timeout, exchange(sent, how)).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }
}

async fn exchange(sent: Outgoing, how: Broken) -> Result<Answered, String> {
    let url = Url::parse(&sent.url).map_err(|error| format!("cannot call the URL: {error}"))?;
    let address = url
        .socket_addrs(|| Some(80))
        .map_err(|error| format!("cannot resolve the host: {error}"))?;
    let failed = |error: std::io::Error| format!("the connection failed: {error}");
    let mut stream = TcpStream::connect(&address[..]).await.map_err(failed)?;
    let length = match how {
        Broken::WrongLength => sent.body.len().saturating_sub(TOO_SMALL),
        _ => sent.body.len(),
    };
    let mut head = format!("POST {}", url.path());
    if let Some(query) = url.query() {
        head.push('?');
        head.push_str(query);
    }
    head.push_str(" HTTP/1.1\r\nhost: ");
    head.push_str(url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        let _ = write!(head, ":{port}");
    }
    let _ = write!(
        head,
        "\r\nconnection: close\r\ncontent-length: {length}\r\n"
    );
    let mut bytes = head.into_bytes();
    for (name, value) in &sent.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    stream.write_all(&bytes).await.map_err(failed)?;
    match how {
        Broken::CutBody => {
            let half = &sent.body[..sent.body.len() / 2];
            stream.write_all(half).await.map_err(failed)?;
            stream.shutdown().await.map_err(failed)?;
            return Err("the body was cut off, as the fault plan says".to_owned());
        }
        Broken::Slow(pause) => {
            for part in sent.body.chunks(sent.body.len().div_ceil(PARTS).max(1)) {
                stream.write_all(part).await.map_err(failed)?;
                sleep(pause).await;
            }
        }
        Broken::WrongLength | Broken::HangUp => {
            stream.write_all(&sent.body).await.map_err(failed)?;
        }
    }
    if matches!(how, Broken::HangUp) {
        stream.shutdown().await.map_err(failed)?;
        return Err("hung up before the response, as the fault plan says".to_owned());
    }
    let mut response = Vec::new();
    let mut limited = stream.take(MAX_ANSWER as u64);
    // A receiver that has answered may close the connection in any way.
    let read = limited.read_to_end(&mut response).await;
    let status = status(&response).ok_or_else(|| {
        read.map_or_else(failed, |_| "the receiver closed the connection".to_owned())
    })?;
    let at = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = at.map_or(&[][..], |at| &response[at + 4..]);
    Ok(Answered {
        status,
        retry_after: None,
        body: body[..body.len().min(KEPT_ANSWER)].to_vec().into(),
        is_cut: body.len() > KEPT_ANSWER,
    })
}

/// The status of an HTTP/1.1 response.
fn status(response: &[u8]) -> Option<u16> {
    let digits = response.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
