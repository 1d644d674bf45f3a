//! An attempt as a curl command, and as a recorded delivery.

use std::fmt::Write as _;

use authpi_sdk::testing::{RecordedAnswer, Recording};
use http::HeaderMap;

use crate::Attempt;

/// The headers of a request without credentials.
pub(super) fn redacted(headers: &HeaderMap) -> HeaderMap {
    Recording::new(headers, "").headers
}

/// A command for a POSIX shell. A bearer token is read from `AUTHPI_BEARER_TOKEN`.
pub(super) fn command(attempt: &Attempt) -> String {
    let mut command = format!("curl --request POST {}", quoted(&attempt.url));
    for (name, value) in &redacted(&attempt.headers) {
        if *name == http::header::AUTHORIZATION {
            command += " \\\n  --header \"authorization: Bearer $AUTHPI_BEARER_TOKEN\"";
        } else {
            let header = format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
            let _ = write!(command, " \\\n  --header {}", quoted(&header));
        }
    }
    match std::str::from_utf8(&attempt.body) {
        Ok(body) => {
            let _ = write!(command, " \\\n  --data-raw {}", quoted(body));
        }
        Err(_) => command += " \\\n  --data-binary @body.bin",
    }
    command
}

/// A text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The attempt in the format of [`Recording`].
pub(crate) fn fixture(attempt: &Attempt) -> String {
    let mut recording = Recording::new(&attempt.headers, attempt.body.clone());
    recording.received_at = attempt.at;
    if let Ok(url) = url::Url::parse(&attempt.url) {
        // Without the query, which may hold a secret.
        url.path().clone_into(&mut recording.path);
    }
    if let Some(status) = attempt.status {
        let millis = u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX);
        recording = recording.answered(RecordedAnswer::new(status, millis, &attempt.answer));
    }
    recording.to_json()
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use jiff::Timestamp;

    use super::*;

    fn attempt(body: &'static str) -> Attempt {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer sesame".parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        Attempt {
            number: 1,
            at: Timestamp::UNIX_EPOCH,
            took: Duration::from_millis(12),
            is_resend: false,
            url: "http://localhost:1/it's?token=t".to_owned(),
            headers,
            body: body.into(),
            signature: None,
            status: Some(200),
            error: None,
            answer: "ok".into(),
            answer_cut: false,
        }
    }

    #[test]
    fn a_shell_passes_the_exact_words_to_curl_without_the_credential() {
        let body = "@it's \"$HOME\" `id` \\ !\n'";
        let command = command(&attempt(body));
        assert!(!command.contains("sesame"), "{command}");
        let script = format!("curl() {{ printf '%s\\0' \"$@\"; }}\n{command}");
        let output = Command::new("sh")
            .args(["-c", &script])
            .env("AUTHPI_BEARER_TOKEN", "mine")
            .output()
            .unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        let words: Vec<_> = words.split_terminator('\0').collect();
        assert_eq!(words[2], "http://localhost:1/it's?token=t");
        assert!(words.contains(&"authorization: Bearer mine"), "{words:?}");
        assert!(words.contains(&"content-type: application/json"));
        assert_eq!(words.last(), Some(&body));
    }

    #[test]
    fn a_fixture_is_a_recording_without_credentials() {
        let text = fixture(&attempt("{}"));
        assert!(
            !text.contains("sesame") && !text.contains("token=t"),
            "{text}"
        );
        let recording = Recording::from_json(text.as_bytes()).unwrap();
        assert_eq!(
            (&recording.body[..], &*recording.path),
            (&b"{}"[..], "/it's")
        );
        assert_eq!(recording.answer.unwrap().millis, 12);
    }
}
