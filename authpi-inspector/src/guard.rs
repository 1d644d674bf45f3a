//! Who may ask: this machine, and for changes the page itself.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Method, header, request, uri::Authority};

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Host,
    Origin,
}

impl Refusal {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Host => {
                "this host is not allowed; open the page at localhost or a loopback address\n"
            }
            Self::Origin => "this request does not come from the page itself\n",
        }
    }
}

pub(crate) fn check(head: &request::Parts, allowed: &[String]) -> Result<(), Refusal> {
    let host = only(&head.headers, &header::HOST).ok_or(Refusal::Host)?;
    if !is_allowed(host, allowed) {
        return Err(Refusal::Host);
    }
    // In HTTP, the host of an absolute request target takes precedence over `Host`, so the two must
    // be the same.
    if head
        .uri
        .authority()
        .is_some_and(|target| !target.as_str().eq_ignore_ascii_case(host))
    {
        return Err(Refusal::Host);
    }
    if may_ask(head, host) {
        Ok(())
    } else {
        Err(Refusal::Origin)
    }
}

/// Whether the request comes from the page's own origin, or is a read that other pages may start.
fn may_ask(head: &request::Parts, host: &str) -> bool {
    let headers = &head.headers;
    let origin = headers.contains_key(header::ORIGIN).then(|| {
        let own = format!("http://{host}");
        only(headers, &header::ORIGIN).is_some_and(|origin| origin.eq_ignore_ascii_case(&own))
    });
    let site = headers.contains_key(SITE).then(|| only(headers, &SITE));
    let is_same_site = site.map(|site| site == Some("same-origin"));
    if head.method != Method::GET {
        return [origin, is_same_site].contains(&Some(true))
            && ![origin, is_same_site].contains(&Some(false));
    }
    let is_link =
        only(headers, &MODE) == Some("navigate") && only(headers, &DEST) == Some("document");
    let is_typed = site == Some(Some("none"));
    origin != Some(false) && (is_same_site != Some(false) || is_typed || is_link)
}

/// Whether another page caused the request, by a link.
pub(crate) fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    headers.contains_key(SITE) && !matches!(only(headers, &SITE), Some("same-origin" | "none"))
}

/// A header that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn is_allowed(host: &str, allowed: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let host = authority.host().to_ascii_lowercase();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
        || allowed.iter().any(|allowed| allowed == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: Method, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = http::Request::builder().method(method).uri("/_inspector/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(&head, &["dev.internal".to_owned()])
    }

    #[test]
    fn only_this_machine_and_allowed_hosts_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "app.localhost:1",
            "127.0.0.1:4000",
            "127.9.9.9",
            "[::1]:4000",
            "[::ffff:127.0.0.1]",
            "dev.internal:9",
        ] {
            assert_eq!(checked(Method::GET, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "localhost@evil.example",
            "user@localhost",
            "127.0.0.1.evil.example",
            "evillocalhost",
            "192.168.0.1",
            "[::2]:1",
            "a b",
        ] {
            let refused = checked(Method::GET, &[("host", host)]);
            assert_eq!(refused, Err(Refusal::Host), "{host}");
        }
        assert_eq!(checked(Method::GET, &[]), Err(Refusal::Host));
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(checked(Method::GET, &two), Err(Refusal::Host));
    }

    #[test]
    fn an_absolute_target_must_name_the_same_host() {
        let request = http::Request::get("http://evil.example/_inspector/")
            .header("host", "localhost")
            .body(());
        let (head, ()) = request.unwrap().into_parts();
        assert_eq!(check(&head, &[]), Err(Refusal::Host));
    }

    #[test]
    fn a_change_must_come_from_the_page_itself() {
        let host = ("host", "127.0.0.1:4000");
        let own = ("origin", "http://127.0.0.1:4000");
        for headers in [
            &[host, own][..],
            &[host, ("sec-fetch-site", "same-origin")],
            &[host, own, ("sec-fetch-site", "same-origin")],
        ] {
            assert_eq!(checked(Method::POST, headers), Ok(()), "{headers:?}");
        }
        for headers in [
            &[host][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://127.0.0.1:3000")],
            &[host, ("origin", "https://127.0.0.1:4000")],
            &[host, ("origin", "http://localhost:4000")],
            &[host, ("origin", "http://evil.example")],
            &[host, own, ("origin", "http://evil.example")],
            &[host, own, ("sec-fetch-site", "same-site")],
            &[host, own, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("origin", "null"), ("sec-fetch-site", "same-origin")],
        ] {
            assert_eq!(
                checked(Method::POST, headers),
                Err(Refusal::Origin),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn another_page_may_link_here_and_no_more() {
        let host = ("host", "localhost:4000");
        let elsewhere = ("sec-fetch-site", "cross-site");
        let (navigate, document) = (
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        );
        for headers in [
            &[host][..],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("sec-fetch-site", "same-origin")],
            &[host, elsewhere, navigate, document],
        ] {
            assert_eq!(checked(Method::GET, headers), Ok(()), "{headers:?}");
        }
        for headers in [
            &[host, elsewhere][..],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, elsewhere, navigate, ("sec-fetch-dest", "iframe")],
            &[host, elsewhere, ("sec-fetch-dest", "script")],
            &[host, ("origin", "http://evil.example")],
        ] {
            assert_eq!(
                checked(Method::GET, headers),
                Err(Refusal::Origin),
                "{headers:?}"
            );
        }
    }
}
