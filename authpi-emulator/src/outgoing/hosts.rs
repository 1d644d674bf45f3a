//! The hosts that the emulator delivers to: this machine, and the allowed hosts.

use std::net::{IpAddr, Ipv6Addr};

use url::{Host, Url};

/// Hosts besides this machine that deliveries may go to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts(Vec<Host<String>>);

impl Hosts {
    /// Allows a host, written as in a URL but without scheme and port. An IPv6 address needs no
    /// brackets.
    pub(crate) fn allow(&mut self, host: &str) -> Result<(), String> {
        let parsed = match host.parse::<Ipv6Addr>() {
            Ok(address) => Ok(Host::Ipv6(address)),
            Err(_) => Host::parse(host),
        };
        let parsed = parsed.map_err(|_| {
            format!("`{host}` is not a host: name it without scheme, port and path")
        })?;
        self.0.push(parsed);
        Ok(())
    }

    /// The allowed hosts, as in a URL.
    #[cfg(feature = "inspector")]
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(Host::to_string).collect()
    }

    /// Whether deliveries to this URL are possible, or the reason that they are not.
    pub(crate) fn check(&self, url: &str) -> Result<(), String> {
        let parsed =
            Url::parse(url).map_err(|error| format!("cannot call the webhook's URL: {error}"))?;
        if parsed.scheme() != "http" {
            return Err("the emulator delivers over plain HTTP only".to_owned());
        }
        let host = parsed.host().ok_or("the webhook's URL has no host")?;
        let here = match host {
            Host::Domain(name) => {
                name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost")
            }
            Host::Ipv4(address) => IpAddr::V4(address).is_loopback(),
            Host::Ipv6(address) => address.to_canonical().is_loopback(),
        };
        if here || self.0.iter().any(|allowed| *allowed == host) {
            return Ok(());
        }
        Err(format!(
            "the emulator delivers only to this machine; allow the host with --allow-host {host} (Builder::allow_host)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_called_unless_a_host_is_allowed() {
        let mut hosts = Hosts::default();
        for url in [
            "http://localhost:1/x",
            "http://127.9.9.9",
            "http://[::1]:8080/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(hosts.check(url), Ok(()), "{url}");
        }
        let elsewhere = [
            "http://app:8080/",
            "http://192.168.0.1/",
            "http://[fd00::1]/",
            "http://my_app.internal/x",
        ];
        for url in elsewhere {
            assert!(
                hosts
                    .check(url)
                    .is_err_and(|why| why.contains("--allow-host ")),
                "{url}"
            );
        }
        for host in ["APP", "192.168.0.1", "fd00::1", "my_app.internal"] {
            hosts.allow(host).unwrap();
        }
        for url in elsewhere {
            assert_eq!(hosts.check(url), Ok(()), "{url}");
        }
        for url in [
            "http://app.example.com/",
            "http://localhost.example.com/",
            "http://192.168.0.2/",
        ] {
            assert!(hosts.check(url).is_err(), "{url}");
        }
        assert!(
            hosts
                .check("https://localhost/")
                .is_err_and(|why| why.contains("plain HTTP only"))
        );
        assert!(hosts.check("nonsense").is_err());
    }

    #[test]
    fn what_is_not_a_host_alone_is_refused() {
        for host in ["", "http://app", "app:8080", "app/hooks", "a b", "[::1"] {
            assert!(
                Hosts::default()
                    .allow(host)
                    .is_err_and(|why| why.contains("without scheme")),
                "{host:?}"
            );
        }
    }
}
