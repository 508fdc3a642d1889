//! What the verbs print: lines, tables, and numbers and times in Docker's words.
//!
//! Standard output that is closed early (`| head`) is an error here, which `main` takes for success.
//! Called by the verbs and by `complaint`. It does not know what it prints.

use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::template::{Template, left_out};

/// Narrowest column of a table, its gap included, and the gap: Docker's.
const COLUMN_MIN: usize = 10;
/// See [`COLUMN_MIN`].
const COLUMN_GAP: usize = 3;

/// Prints a line to standard output. What images and registries say may be in it: at a terminal,
/// its control characters do nothing.
///
/// # Errors
/// When standard output is closed.
pub fn line(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    if stdout.is_terminal() {
        writeln!(stdout, "{}", harmless(text))?;
    } else {
        writeln!(stdout, "{text}")?;
    }
    Ok(())
}

/// Prints a line to standard error; that it may be closed is no reason to fail.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(text));
}

/// Text whose control characters, but for ends of lines and tabs, are no more.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            _ if c.is_control() => '\u{fffd}',
            _ => c,
        })
        .collect()
}

/// A column that a list can show: the name in templates, and the header.
pub type Column = (&'static str, &'static str);

/// How a list is printed.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    /// Every column there is.
    pub columns: &'a [Column],
    /// Those of the table, by name.
    pub table: &'a [&'a str],
    /// `--format`; an empty one is none.
    pub format: Option<&'a str>,
    /// Only this column, without header (`-q`).
    pub only: Option<&'a str>,
}

impl List<'_> {
    /// Prints the rows.
    ///
    /// # Errors
    /// A format that is none, or standard output is closed.
    pub fn print(&self, rows: &[Map<String, Value>]) -> Result<()> {
        for text in self.lines(rows)? {
            line(&text)?;
        }
        Ok(())
    }

    /// Checks the format; nothing is printed.
    ///
    /// # Errors
    /// A format that is none.
    pub fn check(&self) -> Result<()> {
        self.lines(&[]).map(drop)
    }

    fn lines(&self, rows: &[Map<String, Value>]) -> Result<Vec<String>> {
        let format = self.format.filter(|format| !format.is_empty());
        let format = match (format.unwrap_or("table"), self.only) {
            ("table", Some(only)) => format!("{{{{.{only}}}}}"),
            ("table", None) => {
                let cells: Vec<String> =
                    self.table.iter().map(|n| format!("{{{{.{n}}}}}")).collect();
                format!("table {}", cells.join("\t"))
            }
            ("raw", _) => bail!("--format raw is not supported; use json or a template"),
            (format, _) => format.to_owned(),
        };
        let (format, is_table) = match format.strip_prefix("table ") {
            Some(format) => (format, true),
            None => (format.as_str(), false),
        };
        let template = Template::parse_list(format)?;
        let mut lines = Vec::new();
        if is_table {
            let headers = self.columns.iter();
            let headers = headers.map(|(name, header)| ((*name).to_owned(), (*header).into()));
            let mut headers: Map<String, Value> = headers.collect();
            headers.insert(LABEL.to_owned(), json!({}));
            lines.push(template.render_header(&Value::Object(headers))?);
        }
        for row in rows {
            let mut row = row.clone();
            // It is asked for by name, and no column.
            let labels = row.remove(LABEL);
            let mut row = Value::Object(row);
            if let Some(labels) = labels {
                left_out::add(&mut row, LABEL, labels);
            }
            lines.push(template.render(&row)?);
        }
        Ok(if is_table { aligned(&lines) } else { lines })
    }
}

/// What rows have their labels under one by one, for `{{.Label "key"}}`. It is no column, and an empty map
/// where headers are made.
pub const LABEL: &str = "Label";

/// Whether a format shows all of an object as JSON.
#[must_use]
pub fn is_json(format: &str) -> bool {
    matches!(format, "json" | "{{json .}}" | "{{ json . }}")
}

/// A cell with blanks up to its column's end. Not by a width of the library's, which has a limit that a
/// stranger's text may pass.
#[must_use]
pub fn padded(cell: &str, width: usize) -> String {
    let blanks = width.saturating_sub(cell.chars().count());
    format!("{cell}{}", " ".repeat(blanks))
}

/// Cells parted by tabs, in columns as wide as needed.
fn aligned(lines: &[String]) -> Vec<String> {
    let rows: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (at, cell) in row.iter().enumerate() {
            let width = (cell.chars().count() + COLUMN_GAP).max(COLUMN_MIN);
            match widths.get_mut(at) {
                Some(widest) => *widest = (*widest).max(width),
                None => widths.push(width),
            }
        }
    }
    let line = |row: &Vec<&str>| {
        let last = row.len().saturating_sub(1);
        let cells = row.iter().zip(&widths).enumerate();
        cells
            .map(|(at, (cell, width))| match at == last {
                true => (*cell).to_owned(),
                false => padded(cell, *width),
            })
            .collect::<String>()
    };
    rows.iter().map(line).collect()
}

/// A count of bytes as Docker's lists print it: `1.23MB`, units of 1000, three digits.
#[must_use]
pub fn size(bytes: u64) -> String {
    size_of_digits(bytes, 3)
}

/// As Docker's sums print it, with four digits: `1.234MB`.
#[must_use]
pub fn space(bytes: u64) -> String {
    size_of_digits(bytes, 4)
}

fn size_of_digits(bytes: u64, digits: usize) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    in_units(bytes, 1000.0, &units, digits)
}

fn in_units(bytes: u64, unit_bytes: f64, units: &[&str], digits: usize) -> String {
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= unit_bytes && unit + 1 < units.len() {
        value /= unit_bytes;
        unit += 1;
    }
    let whole = match value {
        1000.0.. => 4,
        100.0.. => 3,
        10.0.. => 2,
        _ => 1,
    };
    let digits = digits.saturating_sub(whole);
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", units.get(unit).copied().unwrap_or_default())
}

/// A count of bytes in units of 1024, as Docker prints memory: `3.839GiB`.
#[must_use]
pub fn binary_size(bytes: u64) -> String {
    in_units(
        bytes,
        1024.0,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
        4,
    )
}

/// A length of time as Docker says it: `About an hour`; of the future, none.
#[must_use]
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let (count, unit) = match seconds {
        ..1 => return "Less than a second".to_owned(),
        1 => return "1 second".to_owned(),
        2..MINUTE => (seconds, "seconds"),
        MINUTE..120 => return "About a minute".to_owned(),
        120..HOUR => (seconds / MINUTE, "minutes"),
        _ => {
            // Hours are rounded, what is longer is counted in whole ones.
            let hours = (seconds + HOUR / 2) / HOUR;
            match hours {
                1 => return "About an hour".to_owned(),
                2..48 => (hours, "hours"),
                48..336 => (hours / 24, "days"),
                336..1440 => (hours / (24 * 7), "weeks"),
                1440..17_520 => (hours / (24 * 30), "months"),
                _ => (seconds / DAY / 365, "years"),
            }
        }
    };
    format!("{count} {unit}")
}

/// An RFC 3339 time as Docker's lists have it, in the user's own zone: `2025-01-02 03:04:05 +0000
/// UTC`; what is none, as it is.
#[must_use]
pub fn local_time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => {
            let local = time.to_zoned_datetime(jiff::tz::TimeZone::system());
            local.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_may_be_longer_than_the_library_pads() {
        let long = "é".repeat(70_000);
        let lines = [format!("{long}\tlast"), "a\tb".to_owned()];
        let lines = aligned(&lines);
        assert_eq!(
            lines,
            [
                format!("{long}   last"),
                format!("a{}b", " ".repeat(70_002)),
            ]
        );
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (12_345_678, "12.3MB"),
            (100_000_000, "100MB"),
            (123_456_789, "123MB"),
            (4_200_000_000, "4.2GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), want);
        }
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1_234_567, "1.235MB"),
            (123_456_789, "123.5MB"),
        ] {
            assert_eq!(space(bytes), want);
        }
        assert_eq!(binary_size(4_122_000_000), "3.839GiB");
        assert_eq!(binary_size(1020 << 20), "1020MiB");
    }

    #[test]
    fn durations_are_dockers() {
        for (seconds, want) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (90_000, "25 hours"),
            (200_000, "2 days"),
            (1_300_000, "2 weeks"),
            (40_000_000, "15 months"),
            (80_000_000, "2 years"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
    }

    fn lines(format: Option<&str>, only: Option<&str>) -> Result<Vec<String>> {
        let list = List {
            columns: &[("ID", "IMAGE ID"), ("Tag", "TAG"), ("Name", "REPOSITORY")],
            table: &["Name", "Tag", "ID"],
            format,
            only,
        };
        let row = |id: &str, tag: &str, name: &str| {
            let row = json!({"ID": id, "Tag": tag, "Name": name});
            row.as_object().unwrap().clone()
        };
        list.lines(&[row("86b36f", "1", "a.b:5000/x/y"), row("86b36f", "", "z")])
    }

    #[test]
    fn tables_have_dockers_columns() {
        assert_eq!(
            lines(None, None).unwrap(),
            [
                "REPOSITORY     TAG       IMAGE ID",
                "a.b:5000/x/y   1         86b36f",
                "z                        86b36f",
            ]
        );
        assert_eq!(lines(Some(""), None).unwrap(), lines(None, None).unwrap());
        assert_eq!(
            lines(Some("table {{lower .ID}} {{json .Tag}}"), None).unwrap()[..2],
            ["IMAGE ID TAG", "86b36f \"1\""]
        );
        assert_eq!(
            lines(Some(r"table {{.ID}}\t{{.Name}}"), Some("ID")).unwrap()[..2],
            ["IMAGE ID   REPOSITORY", "86b36f     a.b:5000/x/y"]
        );
    }

    #[test]
    fn lists_are_templates_json_or_one_column() {
        for none in [None, Some(""), Some("table")] {
            assert_eq!(lines(none, Some("ID")).unwrap(), ["86b36f", "86b36f"]);
        }
        assert_eq!(
            lines(Some(r"{{.Tag}}\t{{.Name}}"), None).unwrap()[0],
            "1\ta.b:5000/x/y"
        );
        assert_eq!(
            lines(Some("json"), None).unwrap()[0],
            r#"{"ID":"86b36f","Name":"a.b:5000/x/y","Tag":"1"}"#
        );
        assert!(lines(Some("{{.Foo}}"), None).is_err());
        assert!(lines(Some("raw"), None).is_err());
    }

    #[test]
    fn single_labels_are_asked_for_by_name() {
        let list = |format| List {
            columns: &[("Name", "NAMES")],
            table: &["Name"],
            format: Some(format),
            only: None,
        };
        let row = json!({"Name": "x", "Label": {"tier": "web"}});
        let rows = [row.as_object().unwrap().clone()];
        let lines = |format| list(format).lines(&rows).unwrap();
        assert_eq!(lines(r#"{{.Name}} {{.Label "tier"}}"#), ["x web"]);
        assert_eq!(lines(r#"{{.Label "none"}}"#), [""]);
        assert_eq!(lines(r#"table {{.Label "tier"}}"#), ["tier", "web"]);
        let long = r#"table {{.Label "com.x.cpu-count_of"}} {{.Name}}"#;
        assert_eq!(lines(long), ["cpu count of NAMES", " x"]);
        for json in ["json", "{{json .}}", "{{json . }}", "{{ . | json }}"] {
            assert_eq!(lines(json), [r#"{"Name":"x"}"#], "{json}");
        }
    }

    #[test]
    fn control_characters_do_nothing() {
        assert_eq!(
            harmless("a\x1b[2Jb\tc\nd\u{9b}"),
            "a\u{fffd}[2Jb\tc\nd\u{fffd}"
        );
    }
}
