//! TLS for the client. Missing certificates or features are an error when the client is built, not
//! a panic or a failed call later.

use super::build_error::BuildError;

/// Sets up TLS for the HTTP client. An `http` base URL needs no certificates.
#[cfg(feature = "rustls")]
pub(crate) fn set_up(
    http: reqwest::ClientBuilder,
    https: bool,
) -> Result<reqwest::ClientBuilder, BuildError> {
    use std::sync::Arc;

    use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
    use rustls_platform_verifier::Verifier;

    let broken = |error: rustls::Error| BuildError::new("could not set up TLS").caused_by(error);
    // The provider of the process takes precedence. If there is none, ring is installed as the
    // default: with this crate's features enabled, another `reqwest` client in this process,
    // without a TLS feature of its own, would find no provider and panic when it is built.
    if CryptoProvider::get_default().is_none() {
        // Another thread may have installed one first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let provider = CryptoProvider::get_default().map_or_else(
        || Arc::new(rustls::crypto::ring::default_provider()),
        Arc::clone,
    );
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(broken)?;
    let config = if https {
        let verifier = Verifier::new(provider).map_err(|error| {
            BuildError::new("the system has no usable CA certificates").caused_by(error)
        })?;
        config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth()
    } else {
        config
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    };
    Ok(http.tls_backend_preconfigured(config))
}

/// Sets up TLS for the HTTP client. An `http` base URL needs no certificates.
#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
pub(crate) fn set_up(
    http: reqwest::ClientBuilder,
    https: bool,
) -> Result<reqwest::ClientBuilder, BuildError> {
    if https && !certificates() {
        return Err(BuildError::new("the system has no usable CA certificates"));
    }
    Ok(http.tls_backend_native())
}

/// Whether OpenSSL will find any certificate. Without this check, a failed handshake would be the
/// first sign that there is none.
#[cfg(all(
    feature = "native-tls",
    not(feature = "rustls"),
    not(any(target_os = "windows", target_vendor = "apple"))
))]
fn certificates() -> bool {
    let found = openssl_probe::probe();
    let file = found.cert_file.is_some_and(|file| {
        file.metadata()
            .is_ok_and(|file| file.is_file() && file.len() > 0)
    });
    let dir = |dir: &std::path::PathBuf| {
        dir.read_dir()
            .is_ok_and(|mut entries| entries.next().is_some())
    };
    file || found.cert_dir.iter().any(dir)
}

/// The system manages its certificates itself.
#[cfg(all(
    feature = "native-tls",
    not(feature = "rustls"),
    any(target_os = "windows", target_vendor = "apple")
))]
fn certificates() -> bool {
    true
}

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
pub(crate) fn set_up(
    http: reqwest::ClientBuilder,
    https: bool,
) -> Result<reqwest::ClientBuilder, BuildError> {
    if https {
        return Err(BuildError::new(
            "the base URL is https, but authpi-sdk was built without TLS: enable its feature `rustls` or `native-tls`",
        ));
    }
    Ok(http)
}
