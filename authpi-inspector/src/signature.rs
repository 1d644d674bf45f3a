//! How an attempt was signed.

use authpi_sdk::signature::SignatureScheme;
use http::HeaderMap;

use crate::SignatureView;

impl SignatureView {
    /// The signature of a request with these headers; `None` if it has none.
    pub fn of(scheme: &SignatureScheme, headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (header, method, prefix) = if *scheme == SignatureScheme::authpi() {
            (
                "x-webhook-signature",
                "HMAC-SHA256, hexadecimal",
                String::new(),
            )
        } else if *scheme == SignatureScheme::timestamped() {
            let name = "x-webhook-signature";
            let time = text(name)?.strip_prefix("t=")?.split(',').next()?;
            (
                name,
                "HMAC-SHA256, hexadecimal, after v1=",
                format!("{time}."),
            )
        } else if *scheme == SignatureScheme::standard_webhooks() {
            let prefix = format!("{}.{}.", text("webhook-id")?, text("webhook-timestamp")?);
            (
                "webhook-signature",
                "HMAC-SHA256, base64, after v1,",
                prefix,
            )
        } else {
            return Some(Self {
                header: "(custom)".to_owned(),
                method: "a custom signature scheme".to_owned(),
                prefix: String::new(),
            });
        };
        headers.contains_key(header).then(|| Self {
            header: header.to_owned(),
            method: method.to_owned(),
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_prefix_is_what_each_scheme_signs_before_the_body() {
        let prefix = |scheme: SignatureScheme| {
            let at = Timestamp::from_second(1_700_000_000).unwrap();
            let headers = scheme.sign(&"whs_c2VjcmV0".into(), "msg_1", at, b"{}");
            SignatureView::of(&scheme, &headers.unwrap())
                .unwrap()
                .prefix
        };
        assert_eq!(prefix(SignatureScheme::authpi()), "");
        assert_eq!(prefix(SignatureScheme::timestamped()), "1700000000.");
        let standard = prefix(SignatureScheme::standard_webhooks());
        assert_eq!(standard, "msg_1.1700000000.");
        assert_eq!(
            SignatureView::of(&SignatureScheme::authpi(), &HeaderMap::new()),
            None
        );
    }
}
