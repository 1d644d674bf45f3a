//! Descriptions as doc comments.
//!
//! Two things in a description need care: code blocks, which rustdoc compiles as tests, and
//! brackets, which it takes for links to items. Lines are wrapped like the rest of the repository.

use proc_macro2::TokenStream;
use quote::quote;

const WIDTH: usize = 96;

/// `#[doc]` attributes for `text`, one per line.
pub(crate) fn attributes(text: &str) -> TokenStream {
    let lines = lines(text).into_iter().map(|line| {
        if line.is_empty() {
            line
        } else {
            format!(" {line}")
        }
    });
    quote! { #(#[doc = #lines])* }
}

/// `text` in lines that are safe in a doc comment.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut fence: Option<&str> = None;
    let mut indented = false;
    let mut after_blank = true;
    let mut paragraph = String::new();
    for line in text.trim_end().lines() {
        let (line, bare) = (line.trim_end(), line.trim_start());
        if let Some(mark) = fence {
            if bare.starts_with(mark) {
                fence = None;
            }
            out.push(line.to_owned());
            continue;
        }
        let code = line.starts_with("    ") || line.starts_with('\t');
        if indented && !code && !line.is_empty() {
            out.push("```".to_owned());
            indented = false;
        }
        if indented {
            out.push(line.strip_prefix("    ").unwrap_or(bare).to_owned());
        } else if code && after_blank {
            flush(&mut paragraph, &mut out);
            out.extend([
                "```text".to_owned(),
                line.strip_prefix("    ").unwrap_or(bare).to_owned(),
            ]);
            indented = true;
        } else if let Some(mark) = ["```", "~~~"]
            .into_iter()
            .find(|mark| bare.starts_with(mark))
        {
            flush(&mut paragraph, &mut out);
            fence = Some(mark);
            // Rust's attributes (`no_run`, `should_panic`, …) would also make it a test, so the
            // language is dropped.
            out.push(format!("{mark}text"));
        } else if line.is_empty() {
            flush(&mut paragraph, &mut out);
            if out.last().is_some_and(|last| !last.is_empty()) {
                out.push(String::new());
            }
        } else if bare.starts_with(['-', '*', '|', '#', '>'])
            || bare.starts_with(|c: char| c.is_ascii_digit())
        {
            flush(&mut paragraph, &mut out);
            item(line, &mut out);
        } else {
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(bare);
        }
        after_blank = line.is_empty();
    }
    flush(&mut paragraph, &mut out);
    if indented || fence.is_some() {
        out.push(fence.unwrap_or("```").to_owned());
    }
    while out.last().is_some_and(String::is_empty) {
        out.pop();
    }
    out
}

fn flush(paragraph: &mut String, out: &mut Vec<String>) {
    wrap(&escape(&std::mem::take(paragraph)), "", "", out);
}

/// Wraps an item of a list, with its further lines indented. A heading or a row of a table stays on
/// one line.
fn item(line: &str, out: &mut Vec<String>) {
    let bare = line.trim_start();
    let (margin, text) = (&line[..line.len() - bare.len()], escape(bare));
    match text.split_once(' ') {
        Some((mark, text)) if is_list_mark(mark) => {
            let rest = " ".repeat(margin.len() + mark.len() + 1);
            wrap(text, &format!("{margin}{mark} "), &rest, out);
        }
        _ => out.push(format!("{margin}{text}")),
    }
}

/// `-`, `*`, `1.` or `1)`.
fn is_list_mark(mark: &str) -> bool {
    let number = mark.strip_suffix(['.', ')']).unwrap_or_default();
    mark == "-" || mark == "*" || !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

/// `text` in lines of `WIDTH`; `first` and `rest` are the prefixes of the first line and the
/// others.
fn wrap(text: &str, first: &str, rest: &str, out: &mut Vec<String>) {
    let mut line = String::new();
    let mut margin = first;
    for word in text.split_whitespace() {
        let width = margin.chars().count() + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && width > WIDTH {
            out.push(format!("{margin}{line}"));
            line.clear();
            margin = rest;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        out.push(format!("{margin}{line}"));
    }
}

/// Outside of `code`: brackets without a Markdown link, angle brackets, and bare URLs.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for (n, piece) in text.split('`').enumerate() {
        if n > 0 {
            out.push('`');
        }
        if n % 2 == 1 {
            out.push_str(piece);
        } else if piece.contains("](") {
            out.push_str(&piece.replace('<', "\\<"));
        } else {
            let piece = piece
                .replace('[', "\\[")
                .replace(']', "\\]")
                .replace('<', "\\<");
            let words: Vec<_> = piece.split(' ').map(link).collect();
            out.push_str(&words.join(" "));
        }
    }
    out
}

fn link(word: &str) -> String {
    let Some(start) = word.find("https://").or_else(|| word.find("http://")) else {
        return word.to_owned();
    };
    let end = word.trim_end_matches(['.', ',', ')', ';', ':']).len();
    if start >= end {
        word.to_owned()
    } else {
        format!("{}<{}>{}", &word[..start], &word[start..end], &word[end..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_a_description_is_never_a_doctest() {
        let text = "Call:\n\n```\npanic!()\n```\n\n```rust,no_run\nx\n```\n\nor\n\n    let x = boom();\n\n    more\n\nend";
        let lines = lines(text);
        assert_eq!(
            lines.iter().filter(|line| *line == "```text").count(),
            3,
            "{lines:#?}"
        );
        assert!(
            lines
                .iter()
                .all(|line| !line.contains("rust") && !line.starts_with("    ")),
            "{lines:#?}"
        );
        assert_eq!(lines.last().map(String::as_str), Some("end"));
    }

    #[test]
    fn a_long_item_of_a_list_is_broken_and_stays_one_item() {
        let text = "word ".repeat(30);
        for mark in ["- ", "  * ", "12. "] {
            let lines = lines(&format!("{mark}{text}"));
            let margin = " ".repeat(mark.len());
            assert!(
                lines[0].starts_with(mark) && lines[1].starts_with(&margin),
                "{lines:#?}"
            );
            assert!(lines.iter().all(|line| line.len() <= WIDTH), "{lines:#?}");
        }
        for row in ["| a | ", "# ", "2 "] {
            assert_eq!(lines(&format!("{row}{text}")).len(), 1);
        }
    }

    #[test]
    fn an_unclosed_block_is_closed() {
        assert_eq!(lines("```\nx"), ["```text", "x", "```"]);
        assert_eq!(lines("a\n\n    x"), ["a", "", "```text", "x", "```"]);
    }

    #[test]
    fn brackets_and_addresses_are_no_broken_links() {
        assert_eq!(
            lines("see [seen: X], `a[0]`, Vec<T> and https://authpi.com/docs."),
            ["see \\[seen: X\\], `a[0]`, Vec\\<T> and <https://authpi.com/docs>."]
        );
    }
}
