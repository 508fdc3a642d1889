//! How text that a stranger wrote is put into a message: no control bytes, no bidi tricks, bounded.
//!
//! Used by every error of this crate that repeats bytes of a registry, an image or an archive, since
//! messages end in terminals and logs. It knows nothing of what the text means.

use crate::limits::MESSAGE_CHARS;

/// `text` with everything unprintable escaped, cut after [`MESSAGE_CHARS`] characters.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == MESSAGE_CHARS {
            out.push('…');
            break;
        }
        match character {
            '"' | '\'' => out.push(character),
            other => out.extend(other.escape_debug()),
        }
    }
    out
}

/// [`printable`] in double quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(
            printable("a\x1b[31m\u{202e}b\n"),
            "a\\u{1b}[31m\\u{202e}b\\n"
        );
        assert_eq!(printable("\u{9b}2J"), "\\u{9b}2J");
        assert_eq!(quoted("it's ünï"), "\"it's ünï\"");
    }

    #[test]
    fn long_text_is_cut() {
        let shown = printable(&"x".repeat(10_000));
        assert_eq!(shown.chars().count(), MESSAGE_CHARS + 1);
        assert!(shown.ends_with('…'));
    }
}
