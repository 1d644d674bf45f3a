//! Texts within texts.

/// Whether `text` contains `wanted`, in either case of ASCII letters.
pub fn contains(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    let Some((first, rest)) = wanted.split_first() else {
        return true;
    };
    let starts = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| byte.eq_ignore_ascii_case(first));
    starts
        .filter_map(|(at, _)| text.get(at + 1..at + wanted.len()))
        .any(|found| found.eq_ignore_ascii_case(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_in_either_case() {
        for wanted in ["", "a", "ABÄ", "äc", "abÄc"] {
            assert!(contains("abÄcäC", wanted), "{wanted}");
        }
        for wanted in ["x", "äCa", "abÄcäCd"] {
            assert!(!contains("abÄcäC", wanted), "{wanted}");
        }
        assert!(!contains("", "a"));
    }
}
