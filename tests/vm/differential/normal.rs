//! What two engines can't have in common: ids, and how long ago something was. `differential`
//! compares texts without.

use std::sync::LazyLock;

use regex::Regex;

/// A pattern and what stands for it, in this order.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{64}\b", "<id>"),
        (r"\b[0-9a-f]{12}\b", "<short id>"),
        // In the width that `logs -t` has.
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", "<moment>"),
        (r"\b(Less than a|About a|\d+) (second|minute)s?\b", "<time>"),
        // Columns are as wide as what is in them.
        (" {3,}", "   "),
    ]
    .map(|(pattern, name)| (Regex::new(pattern).expect("a pattern"), name))
    .into()
});

/// `text` with the same word for each id, moment and time.
pub(super) fn text(text: &str) -> String {
    RULES.iter().fold(text.to_owned(), |text, (pattern, name)| {
        pattern.replace_all(&text, *name).into_owned()
    })
}
