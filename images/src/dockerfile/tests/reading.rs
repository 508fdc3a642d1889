//! Bytes to logical lines: continuations, comments, directives, here-documents; and where errors are.

use crate::dockerfile::lines::{Heredoc, read};
use crate::dockerfile::parse;
use crate::limits::{DOCKERFILE_BYTES, HEREDOC_BYTES, HEREDOCS, INSTRUCTIONS, STAGES};

fn lines(text: &str) -> Vec<(String, (usize, usize))> {
    let read = read(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    read.lines
        .into_iter()
        .map(|line| (line.text, line.span))
        .collect()
}

fn error(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn lines_are_joined() {
    for (text, want) in [
        (
            "FROM a\nRUN b\n",
            vec![("FROM a", (1, 1)), ("RUN b", (2, 2))],
        ),
        ("FROM a", vec![("FROM a", (1, 1))]),
        (
            "\u{feff}FROM a\r\nRUN b\r\n",
            vec![("FROM a", (1, 1)), ("RUN b", (2, 2))],
        ),
        ("\n\n  FROM a  \n\n", vec![("FROM a  ", (3, 3))]),
        ("RUN a \\\n  b", vec![("RUN a   b", (1, 2))]),
        ("RUN a \\\r\n b\r\n", vec![("RUN a  b", (1, 2))]),
        ("RUN a \\ \t\n b", vec![("RUN a  b", (1, 2))]),
        // A comment or an empty line between is not there.
        (
            "RUN a \\\n# no\n  # no\n b \\\n\n c",
            vec![("RUN a  b  c", (1, 6))],
        ),
        ("RUN a # no comment", vec![("RUN a # no comment", (1, 1))]),
        // An escaped escape ends the line.
        (
            "RUN a \\\\\nRUN b",
            vec![("RUN a \\\\", (1, 1)), ("RUN b", (2, 2))],
        ),
        ("RUN a \\", vec![("RUN a ", (1, 1))]),
        ("RUN a \\\n# no", vec![("RUN a ", (1, 2))]),
        ("\\\nRUN a", vec![("RUN a", (1, 2))]),
        (
            "# c\nRUN a\n#c\n  #c\nRUN b",
            vec![("RUN a", (2, 2)), ("RUN b", (5, 5))],
        ),
    ] {
        let want: Vec<_> = want
            .into_iter()
            .map(|(text, span)| (text.to_owned(), span))
            .collect();
        assert_eq!(lines(text), want, "{text:?}");
    }
}

#[test]
fn directives_are_at_the_top() {
    let directives = |text: &str| read(text.as_bytes()).unwrap().directives;
    let all = directives("# syntax=docker/dockerfile:1\n#escape = `\n# CHECK=skip=all\nFROM a");
    assert_eq!(all.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(all.check.as_deref(), Some("skip=all"));
    assert_eq!(all.escape, '`');
    for late in [
        "\n# escape=`\nFROM a",
        "# a comment\n# escape=`\nFROM a",
        "# other=1\n# escape=`\nFROM a",
        "FROM a\n# escape=`",
    ] {
        assert_eq!(directives(late).escape, '\\', "{late:?}");
    }
    assert_eq!(
        lines("# escape=`\nRUN a `\n b\\\nRUN c\\"),
        [
            ("RUN a  b\\".to_owned(), (2, 3)),
            ("RUN c\\".to_owned(), (4, 4)),
        ]
    );
    for (text, want) in [
        (
            "# escape=`\n# escape=`\nFROM a",
            "dockerfile parse error on line 2: only one escape parser directive can be used",
        ),
        (
            "#escape=x\nFROM a",
            "dockerfile parse error on line 1: invalid escape token 'x' does not match ` or \\",
        ),
        (
            "# escape=\\\n# syntax=some/other:1\nFROM a",
            "dockerfile parse error on line 2: syntax \"some/other:1\" is not supported: the only one is docker/dockerfile",
        ),
    ] {
        assert_eq!(error(text), want, "{text:?}");
    }
    for known in [
        "docker/dockerfile",
        "docker.io/docker/dockerfile:1.7-labs",
        "docker/dockerfile-upstream:master",
    ] {
        parse(format!("# syntax={known}\nFROM a").as_bytes()).unwrap();
    }
}

fn documents(text: &str) -> Vec<Heredoc> {
    let mut read = read(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    read.lines.swap_remove(0).heredocs
}

#[test]
fn here_documents_follow_their_line() {
    let text = "RUN <<EOF\necho a\n# kept\n\nEOF\nRUN b";
    assert_eq!(
        lines(text),
        [
            ("RUN <<EOF".to_owned(), (1, 5)),
            ("RUN b".to_owned(), (6, 6)),
        ]
    );
    let one = &documents(text)[0];
    assert_eq!((&*one.name, &*one.content), ("EOF", "echo a\n# kept\n\n"));
    assert!(one.expands && !one.chomps);
    for (text, want) in [
        (
            "RUN cat <<A 3<<-B > x\n1\nA\n\t2\n\tB\n",
            vec![("A", "1\n"), ("B", "\t2\n")],
        ),
        (
            "COPY <<a <<b /d/\n1\na\n2\nb",
            vec![("a", "1\n"), ("b", "2\n")],
        ),
        ("ADD <<\"E F\" /d\n1\nE F", vec![("E F", "1\n")]),
        ("COPY --chmod=1 <<a /d\n1\r\na\r\n", vec![("a", "1\r\n")]),
        ("RUN <<EOF\nEOF", vec![("EOF", "")]),
        ("RUN a \\\n <<EOF\n\\\nEOF", vec![("EOF", "\\\n")]),
        ("ONBUILD RUN <<EOF\nx\nEOF", vec![("EOF", "x\n")]),
        ("run << EOF\nx\nEOF", vec![("EOF", "x\n")]),
        ("RUN <<$name\nx\n$name", vec![("$name", "x\n")]),
        // These are none.
        ("RUN echo '<<EOF'", vec![]),
        ("RUN echo \\<<EOF", vec![]),
        ("RUN echo <<<EOF", vec![]),
        ("RUN [\"cat\", \"<<EOF\"]", vec![]),
        ("ENV A=<<EOF", vec![]),
        ("RUN a <<", vec![]),
        ("RUN echo \"a <<EOF b\"", vec![]),
    ] {
        let found = documents(text);
        let found: Vec<_> = found
            .iter()
            .map(|one| (&*one.name, &*one.content))
            .collect();
        assert_eq!(found, want, "{text:?}");
    }
    for quoted in ["RUN <<'E'\nE", "RUN <<\"E\"\nE", "RUN <<E'O'F\nEOF"] {
        assert!(!documents(quoted)[0].expands, "{quoted:?}");
    }
    let tabs = documents("RUN <<-E\n\t\ta\n\t b\n\n\tE");
    assert_eq!(tabs[0].chomped(), "a\n b\n\n");
    assert_eq!(
        error("FROM a\nRUN <<EOF\nb"),
        "dockerfile parse error on line 2: unterminated heredoc"
    );
}

#[test]
fn errors_show_their_lines() {
    let text = "FROM a\n\nRUN b\nCOPPY x \\\n  y\nRUN c\nRUN d\nRUN e\n";
    let error = parse(text.as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "dockerfile parse error on line 4: unknown instruction: COPPY (did you mean COPY?)"
    );
    assert_eq!(
        (error.lines(), error.column()),
        (Some((4, 5)), Some((4, 1)))
    );
    assert_eq!(
        error.snippet("Dockerfile"),
        "\
Dockerfile:4
--------------------
   2 |
   3 |     RUN b
   4 | >>> COPPY x \\
     |     ^^^^^
   5 | >>>   y
   6 |     RUN c
   7 |     RUN d
--------------------
"
    );
    // In a continuation line the mark is there.
    let text = "FROM a\nLABEL a=b \\\n\tc\\\n d";
    let error = parse(text.as_bytes()).unwrap_err();
    assert_eq!(error.column(), Some((3, 2)));
    assert_eq!(
        error.snippet("d\u{1b}"),
        "\
d\\u{1b}:2
--------------------
   1 |     FROM a
   2 | >>> LABEL a=b \\
   3 | >>>     c\\
     |         ^
   4 | >>>  d
--------------------
"
    );
    assert_eq!(parse(b"").unwrap_err().snippet("x"), "");
}

#[test]
fn files_that_are_none() {
    for (bytes, want) in [
        (&b""[..], "the Dockerfile cannot be empty"),
        (b"\xef\xbb\xbf", "the Dockerfile cannot be empty"),
        (b"# nothing\n\n", "file with no instructions"),
        (b"ARG a\n", "dockerfile contains no stages to build"),
        (
            b"FROM a\nRUN \0",
            "dockerfile parse error on line 2: there is a NUL byte",
        ),
        (
            b"FROM a\nRUN \xff",
            "dockerfile parse error on line 2: the text is not UTF-8",
        ),
        // What begins as a comment does, and is none.
        (
            b"# syntax=docker/dockerfile:1 \xe9\nFROM a",
            "dockerfile parse error on line 1: the text is not UTF-8",
        ),
        (
            b"FROM a\nRUN <<E\n# \xe9\nE",
            "dockerfile parse error on line 3: the text is not UTF-8",
        ),
        (
            b"RUN a\nFROM a",
            "dockerfile parse error on line 1: no build stage in current context",
        ),
    ] {
        assert_eq!(parse(bytes).unwrap_err().to_string(), want);
    }
}

#[test]
fn a_comment_may_be_in_any_encoding() {
    let bytes = b"# caf\xe9\nFROM a\n \t#\xff = \xe9\nRUN b \\\n  # \xe9t\xe9\n  c\n";
    let lines = read(bytes).unwrap().lines;
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["FROM a", "RUN b   c"]);
    assert_eq!(lines[1].span, (4, 6));
}

#[test]
fn limits_are_named() {
    let large = vec![b'#'; DOCKERFILE_BYTES + 1];
    let error = |text: &[u8]| parse(text).unwrap_err().to_string();
    assert_eq!(
        error(&large),
        "the dockerfile has 1048577 bytes, above the limit of 1048576"
    );
    let many = format!("FROM a\n{}", "RUN b\n".repeat(INSTRUCTIONS));
    assert_eq!(
        error(many.as_bytes()),
        "dockerfile parse error on line 4097: there are more than 4096 instructions"
    );
    let many = "FROM a\n".repeat(STAGES + 1);
    assert_eq!(
        error(many.as_bytes()),
        "dockerfile parse error on line 257: there are more than 256 stages"
    );
    let many = format!(
        "FROM a\nRUN {}\n{}",
        "<<E ".repeat(HEREDOCS + 1),
        "E\n".repeat(HEREDOCS + 1)
    );
    assert_eq!(
        error(many.as_bytes()),
        "dockerfile parse error on line 2: there are more than 64 here-documents"
    );
    let long = format!("FROM a\nRUN <<E\n{}\nE\n", "x".repeat(HEREDOC_BYTES));
    assert_eq!(
        error(long.as_bytes()),
        "dockerfile parse error on line 2: a here-document is above the limit of 524288 bytes"
    );
}

#[test]
fn warnings_have_their_lines() {
    let text = "\
# check=error=true
from a as Up
MAINTAINER me
ENV k v
LABEL a b
RUN x \\

 y
FROM a AS up
FROM a AS scratch
";
    let dockerfile = parse(text.as_bytes()).unwrap();
    let warnings: Vec<_> = dockerfile
        .warnings()
        .iter()
        .map(|warning| (warning.line, &*warning.text))
        .collect();
    assert_eq!(
        warnings,
        [
            (
                1,
                "the check directive has no effect: checks can't be chosen"
            ),
            (2, "stage name 'Up' should be lowercase"),
            (
                3,
                "MAINTAINER is deprecated, use LABEL org.opencontainers.image.authors instead"
            ),
            (
                4,
                "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format"
            ),
            (
                5,
                "\"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format"
            ),
            (8, "empty continuation line"),
            (
                9,
                "duplicate stage name \"up\", stage names should be unique"
            ),
            (10, "stage name should not use reserved name \"scratch\""),
        ]
    );
    let text = "FROM a as b\nfrom a AS c\nFrom a as d";
    let dockerfile = parse(text.as_bytes()).unwrap();
    let warnings: Vec<_> = dockerfile
        .warnings()
        .iter()
        .map(|warning| (warning.line, &*warning.text))
        .collect();
    assert_eq!(
        warnings,
        [
            (1, "'as' and 'FROM' keywords' casing do not match"),
            (2, "'AS' and 'from' keywords' casing do not match"),
        ]
    );
}
