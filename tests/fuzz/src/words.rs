//! What is said of a stranger's bytes ends on a terminal.

use std::error::Error;

/// Fails when an error, or what is behind it, holds a character that a terminal acts on.
pub fn assert_printable(error: &dyn Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        assert_text_printable(&error.to_string());
        next = error.source();
    }
}

/// As [`assert_printable`], of a text.
pub fn assert_text_printable(text: &str) {
    let acts = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(acts), "{text:?}");
}
