//! What GNU tar and libarchive's bsdtar make of a tar, for tests that compare a reader with them: they need
//! the packages tar and libarchive-tools.

use std::io::Write;
use std::process::{Command, Stdio};

/// GNU tar.
pub const GNU: &str = "GNU tar";

/// libarchive's.
pub const BSD: &str = "bsdtar";

/// An entry as all three can show it: kind, size of a file, name and target. What is not printable, or
/// means something in a list, is `?`.
pub type Listed = Vec<(char, u64, String)>;

/// Who of both lists something else than `own`, and what.
#[must_use]
pub fn differing(tar: &[u8], own: &Listed) -> Vec<(&'static str, Result<Listed, String>)> {
    [(GNU, gnu(tar)), (BSD, libarchive(tar))]
        .into_iter()
        .filter(|(_, listed)| listed.as_ref() != Ok(own))
        .collect()
}

/// What a list can show of a name.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    name.iter().map(|byte| letter(*byte)).collect()
}

fn letter(byte: u8) -> char {
    let plain = byte == b' ' || byte.is_ascii_graphic() && byte != b'\\';
    if plain { char::from(byte) } else { '?' }
}

/// Directories have a slash behind them, or not.
#[must_use]
pub fn normal(listed: Listed) -> Listed {
    let mut listed = listed;
    for (_, _, name) in &mut listed {
        while name.len() > 1 && name.ends_with('/') {
            name.pop();
        }
    }
    listed
}

/// What a program lists whose lines have so many words before the name; the size is one of them.
fn theirs(
    program: &str,
    words: &[&str],
    before: usize,
    size: usize,
    tar: &[u8],
) -> Result<Listed, String> {
    let mut child = Command::new("timeout")
        .args(["-k", "1", "10", program])
        .args(words)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program} (Debian's packages tar, libarchive-tools): {error}")
        });
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = tar.to_vec();
    let writer = std::thread::spawn(move || {
        // Who has seen the end reads no further.
        let _ = stdin.write_all(&bytes);
    });
    let output = child.wait_with_output().expect("wait");
    writer.join().expect("write");
    assert_ne!(output.status.code(), Some(124), "{program} hangs");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().next().unwrap_or_default().to_owned());
    }
    let mut listed = Listed::new();
    for line in output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let mut rest = line;
        let mut fields = Vec::new();
        for _ in 0..before {
            rest = rest.trim_ascii_start();
            let end = rest
                .iter()
                .position(|byte| *byte == b' ')
                .unwrap_or(rest.len());
            let (field, after) = rest.split_at(end);
            fields.push(String::from_utf8_lossy(field).into_owned());
            rest = after;
        }
        let kind = line.first().map_or('?', |byte| char::from(*byte));
        let bytes = if kind == '-' {
            let size = fields.get(size).and_then(|field| field.parse().ok());
            size.unwrap_or(u64::MAX)
        } else {
            0
        };
        listed.push((kind, bytes, unescaped(rest.get(1..).unwrap_or_default())));
    }
    Ok(normal(listed))
}

/// With each escape sequence as the one byte that it stands for.
fn unescaped(mut text: &[u8]) -> String {
    let mut letters = String::new();
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        if *first != b'\\' {
            letters.push(letter(*first));
            continue;
        }
        letters.push('?');
        let octal = text
            .iter()
            .take(3)
            .filter(|digit| digit.is_ascii_digit())
            .count();
        text = text
            .get(if octal == 3 { 3 } else { 1 }..)
            .unwrap_or_default();
    }
    letters
}

fn gnu(tar: &[u8]) -> Result<Listed, String> {
    let words = ["-tvPf", "-", "--numeric-owner", "--quoting-style=escape"];
    theirs("tar", &words, 5, 2, tar)
}

fn libarchive(tar: &[u8]) -> Result<Listed, String> {
    theirs("bsdtar", &["-tvPf", "-", "--numeric-owner"], 8, 4, tar)
}
