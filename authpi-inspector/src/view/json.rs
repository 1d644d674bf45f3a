//! Bodies: JSON as a tree that can be folded, and bytes.

use std::fmt::Write as _;

use maud::{Markup, html};
use serde_json::Value;

/// Larger bodies are not shown as a tree, and only in part as text.
const SHOWN: usize = 256 * 1024;
/// The number of bytes of a body that is not text.
const DUMPED: usize = 4096;
/// Deeper parts are folded at first.
const OPEN: usize = 3;

/// A value as a tree.
pub(super) fn tree(value: &Value) -> Markup {
    html! { div.tree { (node(None, value, 0)) } }
}

fn node(name: Option<&str>, value: &Value, depth: usize) -> Markup {
    let name = html! {
        @if let Some(name) = name { span.name { (name) } ": " }
    };
    let (members, count) = match value {
        Value::Object(members) if !members.is_empty() => (
            html! { @for (name, value) in members { li { (node(Some(name), value, depth + 1)) } } },
            format!("{{{}}}", members.len()),
        ),
        Value::Array(items) if !items.is_empty() => (
            html! {
                @for (index, value) in items.iter().enumerate() {
                    li { (node(Some(&index.to_string()), value, depth + 1)) }
                }
            },
            format!("[{}]", items.len()),
        ),
        scalar => {
            let kind = match scalar {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                _ => "other",
            };
            return html! { (name) span class=(kind) { (scalar) } };
        }
    };
    html! {
        details open[depth < OPEN] {
            summary { (name) span.count { (count) } }
            ul { (members) }
        }
    }
}

/// A body as a tree, if it is JSON.
pub(super) fn body_tree(body: &[u8]) -> Option<Markup> {
    if body.len() > SHOWN {
        return None;
    }
    serde_json::from_slice(body).ok().map(|value| tree(&value))
}

/// The bytes of a body: its text, or a hexadecimal dump; and whether something was left out.
pub(super) fn raw(body: &[u8]) -> (String, bool) {
    match std::str::from_utf8(body) {
        Ok(text) => {
            let end = text.floor_char_boundary(SHOWN);
            (text[..end].to_owned(), end < text.len())
        }
        Err(_) => (
            hexadecimal(&body[..body.len().min(DUMPED)]),
            body.len() > DUMPED,
        ),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (row, bytes) in bytes.chunks(16).enumerate() {
        let _ = write!(dump, "{:08x} ", row * 16);
        for byte in bytes {
            let _ = write!(dump, " {byte:02x}");
        }
        dump.push('\n');
    }
    dump
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_folds_deep_parts_and_escapes_texts() {
        let value = json!({"a": {"b": {"c": {"d": "<script>"}}}, "empty": [], "list": [1]});
        let tree = tree(&value).into_string();
        assert_eq!(tree.matches("<details open>").count(), 4, "{tree}");
        assert_eq!(tree.matches("<details>").count(), 1, "{tree}");
        assert!(tree.contains("&lt;script&gt;") && !tree.contains("<script>"));
    }

    #[test]
    fn bytes_that_are_not_text_are_dumped() {
        assert_eq!(raw("ä".as_bytes()), ("ä".to_owned(), false));
        assert_eq!(raw(b"\xff\x00"), ("00000000  ff 00\n".to_owned(), false));
        let long = "ä".repeat(SHOWN);
        let (text, is_cut) = raw(long.as_bytes());
        assert!(text.len() <= SHOWN && is_cut);
        assert!(body_tree(long.as_bytes()).is_none());
    }
}
