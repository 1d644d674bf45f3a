//! A delivery that was captured: a body file with headers, a saved HTTP request, the output of
//! `curl -v`, or a recording.

use std::path::PathBuf;

use authpi_sdk::testing::Recording;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    failure::{Failure, Result},
    files::read,
};

/// A captured delivery: a recording, a saved request, or a body with its headers.
#[derive(Args, Clone, Debug)]
pub(crate) struct Captured {
    /// A recorded delivery, or a saved HTTP request (request line, headers, empty line, body); - for
    /// standard input
    #[arg(required_unless_present = "body")]
    file: Option<PathBuf>,

    /// A file with the exact bytes of the body; the headers come from -H or --headers
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    body: Option<PathBuf>,

    /// A header, such as "x-webhook-signature: 5f2c…"; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,

    /// A file with the headers, one per line; the lines of `curl -v` with > are read too
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
}

impl Captured {
    /// The headers and the body.
    pub(crate) fn read(&self) -> Result<(HeaderMap, Bytes)> {
        let (mut headers, body) = match (&self.file, &self.body) {
            (Some(file), _) => {
                let bytes = read(file)?;
                delivery(bytes)
                    .map_err(|why| Failure::usage(format!("{}: {why}", file.display())))?
            }
            (None, Some(body)) => (HeaderMap::new(), read(body)?.into()),
            (None, None) => return Err(Failure::usage("the delivery is missing")),
        };
        if let Some(file) = &self.headers {
            let bytes = read(file)?;
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.lines().filter_map(sent);
            for line in lines.filter(|line| line.contains(':')) {
                let (name, value) = header(line)
                    .map_err(|why| Failure::usage(format!("{}: {why}", file.display())))?;
                headers.append(name, value);
            }
        }
        for (name, value) in &self.header {
            headers.append(name, value.clone());
        }
        Ok((headers, body))
    }
}

/// The line of a header, without the mark of `curl -v`; nothing for what the server sent.
fn sent(line: &str) -> Option<&str> {
    match line.as_bytes() {
        [b'<' | b'*' | b'{' | b'}', ..] => None,
        [b'>', ..] => Some(line[1..].trim()),
        _ => Some(line.trim()),
    }
}

fn delivery(bytes: Vec<u8>) -> std::result::Result<(HeaderMap, Bytes), String> {
    if Recording::is_recording(&bytes) {
        let recording = Recording::from_json(&bytes).map_err(|error| error.to_string())?;
        return Ok((recording.headers, recording.body));
    }
    request(&bytes.into())
}

/// Reads a saved request. A request line is optional; lines may end in LF or CRLF.
fn request(bytes: &Bytes) -> std::result::Result<(HeaderMap, Bytes), String> {
    let mut headers = HeaderMap::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err("it has no empty line between headers and body".to_owned());
        };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "a header is not UTF-8")?;
        let (line, first) = (line.trim_end_matches('\r'), at == 0);
        at += end + 1;
        if line.is_empty() {
            break;
        }
        match header(line) {
            Ok((name, value)) => {
                headers.append(name, value);
            }
            Err(_) if first => {}
            Err(why) => return Err(why),
        }
    }
    let mut body = bytes.slice(at..);
    // Editors and shells add a line break at the end of a file.
    let announced = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if let Some(length) = announced
        && body.len() > length
        && body[length..].iter().all(u8::is_ascii_whitespace)
    {
        body.truncate(length);
    }
    Ok((headers, body))
}

/// `Name: value`.
fn header(line: &str) -> std::result::Result<(HeaderName, HeaderValue), String> {
    let (name, value) = line
        .split_once(':')
        .ok_or("a header has the form \"Name: value\"")?;
    let name = HeaderName::try_from(name.trim())
        .map_err(|_| format!("{:?} is not the name of a header", name.trim()))?;
    let value = HeaderValue::try_from(value.trim())
        .map_err(|_| format!("the value of {name} is not valid in a header"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_request_is_read_with_either_line_end() {
        for text in [
            "POST /hooks HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{\"\"}\n",
            "Host: x\ncontent-length: 4\n\n{\"\"}",
        ] {
            let (headers, body) = request(&Bytes::from(text)).unwrap();
            assert_eq!(headers["host"], "x", "{text:?}");
            assert_eq!(body, "{\"\"}", "{text:?}");
        }
        for wrong in ["", "Host: x\n", "POST / HTTP/1.1\nnot a header\n\n{}"] {
            assert!(request(&Bytes::from(wrong)).is_err(), "{wrong:?} was read");
        }
    }

    #[test]
    fn of_curl_only_the_lines_that_were_sent_count() {
        assert_eq!(sent("> X-Signature: ab"), Some("X-Signature: ab"));
        assert_eq!(sent("X-Signature: ab"), Some("X-Signature: ab"));
        assert_eq!(sent("< server: x"), None);
        assert_eq!(sent("* Connected"), None);
    }
}
