//! Words: quotes, escapes, every form of a variable, and the limits.

use std::cell::Cell;

use crate::dockerfile::expand::{Lexer, Variables};
use crate::limits::{EXPANSION_DEPTH, EXPANSION_WORK, WORD_BYTES};

fn variables(list: &[(&str, &str)]) -> Variables {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    list.iter().map(owned).collect()
}

fn expand_with(escape: char, text: &str, list: &[(&str, &str)]) -> Result<String, String> {
    let variables = variables(list);
    let work = Cell::new(EXPANSION_WORK);
    Lexer::new(escape, &variables, &work).word(text)
}

const SET: &[(&str, &str)] = &[
    ("a", "one"),
    ("b_2", "two"),
    ("path", "/usr/local/lib.tar.gz"),
    ("null", ""),
    ("star", "*"),
    ("ü", "umlaut"),
    ("1", "digit"),
];

#[test]
fn every_form_of_a_variable() {
    for (text, want) in [
        ("plain", "plain"),
        ("$a", "one"),
        ("x$a.y", "xone.y"),
        ("$ab", ""),
        ("${a}b", "oneb"),
        ("$b_2", "two"),
        ("$ü", "umlaut"),
        ("$1x", "digitx"),
        ("$.", "$."),
        ("$", "$"),
        ("$$a", "a"),
        ("${none}", ""),
        // Defaults.
        ("${a:-w}", "one"),
        ("${null:-w}", "w"),
        ("${none:-w}", "w"),
        ("${null-w}", ""),
        ("${none-w}", "w"),
        ("${none:-}", ""),
        // Alternatives.
        ("${a:+w}", "w"),
        ("${null:+w}", ""),
        ("${null+w}", "w"),
        ("${none+w}", ""),
        // Demands.
        ("${a:?e}", "one"),
        ("${null?e}", ""),
        // Nested ones, and quotes in them.
        ("${none:-${null:-$a}}", "one"),
        ("${none:-a b}", "a b"),
        ("${none:-\"a}b\"}", "a}b"),
        ("${none:-'$a'}", "$a"),
        ("${none:-\\}}", "}"),
        ("a${none:-b}c", "abc"),
        // Beginnings and ends.
        ("${path#*/}", "usr/local/lib.tar.gz"),
        ("${path##*/}", "lib.tar.gz"),
        ("${path%.*}", "/usr/local/lib.tar"),
        ("${path%%.*}", "/usr/local/lib"),
        ("${path#/usr}", "/local/lib.tar.gz"),
        ("${path#nothing}", "/usr/local/lib.tar.gz"),
        ("${path%nothing}", "/usr/local/lib.tar.gz"),
        ("${path#}", "/usr/local/lib.tar.gz"),
        (
            "${path%???}",
            "/usr/local/lib.tar.gz".strip_suffix(".gz").unwrap(),
        ),
        ("${path##*}", ""),
        ("${path#*}", "/usr/local/lib.tar.gz"),
        ("${none#x}", ""),
        ("${star#\\*}", ""),
        ("${a#\\?}", "one"),
        ("${a#$none}", "one"),
        ("${a%${a#o}}", "o"),
        // Replacements.
        ("${path/lib/x}", "/usr/local/x.tar.gz"),
        ("${path/l/L}", "/usr/Local/lib.tar.gz"),
        ("${path//l/L}", "/usr/LocaL/Lib.tar.gz"),
        ("${path/\\//-}", "-usr/local/lib.tar.gz"),
        ("${path//\\//-}", "-usr-local-lib.tar.gz"),
        ("${path//l}", "error: syntax error: missing '/' in ${}"),
        ("${path/l*l/X}", "/usr/Xib.tar.gz"),
        ("${path//?ar/X}", "/usr/local/lib.X.gz"),
        ("${path/nothing/X}", "/usr/local/lib.tar.gz"),
        ("${path/*/X}", "X"),
        ("${path//*/X}", "X"),
        ("${a/n/${b_2}}", "otwoe"),
        ("${a/n/}", "oe"),
        ("${none//a/b}", ""),
        // Quotes and escapes.
        ("'$a'", "$a"),
        ("\"$a\"", "one"),
        ("\"'$a'\"", "'one'"),
        ("'\"$a\"'", "\"$a\""),
        ("\\$a", "$a"),
        ("\"\\$a\"", "$a"),
        ("\\\\$a", "\\one"),
        ("a\\tb", "atb"),
        ("\"a\\tb\"", "a\\tb"),
        ("\"a\\\\tb\"", "a\\tb"),
        ("a\\", "a"),
        ("a\\ b", "a b"),
        ("a  b", "a  b"),
        ("<<a", "<<a"),
        ("a<b", "a<b"),
    ] {
        let expanded = match expand_with('\\', text, SET) {
            Ok(expanded) => expanded,
            Err(error) => format!("error: {}", error.split_once("\": ").unwrap().1),
        };
        assert_eq!(expanded, want, "{text}");
    }
}

#[test]
fn the_escape_character_is_the_files() {
    for (text, want) in [
        ("`$a", "$a"),
        ("c:\\$a", "c:\\one"),
        ("``$a", "`one"),
        ("\"`\"\"", "\""),
        ("${none:-`}}", "}"),
    ] {
        assert_eq!(expand_with('`', text, SET).unwrap(), want, "{text}");
    }
}

#[test]
fn what_is_no_variable_is_an_error() {
    for (text, want) in [
        ("${", "syntax error: missing '}'"),
        ("${a", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:-a}", "syntax error: bad substitution"),
        ("${{a}}", "syntax error: bad substitution"),
        ("${a:b}", "unsupported modifier (:b) in substitution"),
        ("${a:#b}", "unsupported modifier (:#) in substitution"),
        ("${a:%b}", "unsupported modifier (:%) in substitution"),
        ("${a=b}", "unsupported modifier (=) in substitution"),
        ("${a:", "syntax error: missing '}'"),
        ("${a:-b", "syntax error: missing '}'"),
        ("${a/b", "syntax error: missing '/' in ${}"),
        ("${a/b/c", "syntax error: missing '}'"),
        (
            "${a#\\x}",
            "invalid pattern (\\\\x) in substitution: invalid escape '\\x'",
        ),
        ("${none?}", "none: is not allowed to be unset"),
        ("${none:?}", "none: is not allowed to be unset"),
        ("${null:?}", "null: is not allowed to be empty"),
        ("${none:?give $a}", "none: give one"),
        (
            "'a",
            "unexpected end of statement while looking for matching single-quote",
        ),
        (
            "\"a",
            "unexpected end of statement while looking for matching double-quote",
        ),
        (
            "${none:-\"a}",
            "unexpected end of statement while looking for matching double-quote",
        ),
    ] {
        let error = expand_with('\\', text, SET).unwrap_err();
        let shown = crate::escape::quoted(text);
        assert_eq!(
            error,
            format!("failed to process {shown}: {want}"),
            "{text}"
        );
    }
}

#[test]
fn words_are_divided_where_blanks_are_not_quoted() {
    let variables = variables(&[("ports", "80  443/tcp "), ("null", "")]);
    let work = Cell::new(EXPANSION_WORK);
    let lexer = Lexer::new('\\', &variables, &work);
    for (text, want) in [
        ("a b", vec!["a", "b"]),
        ("$ports", vec!["80", "443/tcp"]),
        ("x${ports}y", vec!["x80", "443/tcp", "y"]),
        ("\"$ports\"", vec!["80  443/tcp "]),
        ("a\\ b", vec!["a b"]),
        ("a${none:-b}", vec!["ab"]),
        ("$null", vec![]),
        ("  ", vec![]),
    ] {
        assert_eq!(lexer.words(text).unwrap(), want, "{text}");
    }
}

#[test]
fn here_documents_keep_their_quotes() {
    let variables = variables(&[("a", "one")]);
    let work = Cell::new(EXPANSION_WORK);
    let lexer = Lexer::new('`', &variables, &work).of_document();
    for (text, want) in [
        ("say \"$a\" '$a'\n", "say \"one\" 'one'\n"),
        ("\\$a `$a", "$a `one"),
        ("it's", "it's"),
    ] {
        assert_eq!(lexer.word(text).unwrap(), want, "{text}");
    }
}

#[test]
fn what_grows_has_limits() {
    let long = "x".repeat(WORD_BYTES / 2);
    let list: &[(&str, &str)] = &[("l", &long)];
    assert_eq!(expand_with('\\', "$l$l", list).unwrap().len(), WORD_BYTES);
    for text in [
        "$l$l$l",
        "\"$l$l$l\"",
        "${l//x/yyy}",
        "${none:-$l$l$l}",
        "${l//x/${l}}",
    ] {
        let error = expand_with('\\', text, list).unwrap_err();
        assert!(error.contains("above the limit of"), "{text}: {error}");
    }
    let nested = |depth: usize| format!("{}x{}", "${n:-".repeat(depth), "}".repeat(depth));
    assert_eq!(
        expand_with('\\', &nested(EXPANSION_DEPTH), &[]).unwrap(),
        "x"
    );
    let error = expand_with('\\', &nested(EXPANSION_DEPTH + 1), &[]).unwrap_err();
    assert!(
        error.ends_with("more than 32 variables are nested"),
        "{error}"
    );
    // Patterns that compare much are paid for.
    let pattern = format!("${{l//{}y/z}}", "?".repeat(WORD_BYTES / 4));
    let error = expand_with('\\', &pattern, list).unwrap_err();
    assert!(error.contains("bytes and comparisons"), "{error}");
}
