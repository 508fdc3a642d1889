//! The rows as a table of the terminal.

use super::rows::{Contrast, rows};

/// Columns of a value before it goes on in the next line.
const VALUE_WIDTH: usize = 44;

/// Lines to print.
pub fn lines(contrast: &Contrast) -> Vec<String> {
    let rows = rows(contrast);
    let name_width = rows.iter().map(|row| row.name.len() + 2).max().unwrap_or(0);
    let mut lines = vec![
        format!(
            "{} with --memory {} --cpus {}, on a host with kernel {}",
            contrast.image, contrast.memory, contrast.cpus, contrast.host.release
        ),
        String::new(),
        line(name_width, "", "MICROVM", "PLAIN CONTAINER"),
    ];
    let mut group = "";
    for row in &rows {
        if row.group != group {
            group = row.group;
            lines.push(group.to_uppercase());
        }
        let (vm, container) = (folded(&row.vm), folded(&row.container));
        for at in 0..vm.len().max(container.len()).max(1) {
            let piece = |list: &[String]| list.get(at).cloned().unwrap_or_default();
            let name = match at {
                0 => format!("  {}", row.name),
                _ => String::new(),
            };
            lines.push(line(name_width, &name, &piece(&vm), &piece(&container)));
        }
    }
    if let Err(why) = &contrast.container {
        lines.push(String::new());
        lines.push(format!("no plain container: {why}"));
    }
    lines
}

fn line(name_width: usize, name: &str, vm: &str, container: &str) -> String {
    let text = format!("{name:name_width$}  {vm:VALUE_WIDTH$}  {container}");
    text.trim_end().to_owned()
}

/// A text in lines of at most [`VALUE_WIDTH`] characters, broken between words where there are any.
fn folded(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        for (index, piece) in letters.chunks(VALUE_WIDTH).enumerate() {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(last)
                    if index == 0
                        && last.chars().count() + 1 + piece.chars().count() <= VALUE_WIDTH =>
                {
                    last.push(' ');
                    last.push_str(&piece);
                }
                _ => lines.push(piece),
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::sample;
    use super::*;

    #[test]
    fn both_sides_stand_side_by_side() {
        let lines = lines(&sample());
        let boot = lines
            .iter()
            .find(|line| line.trim_start().starts_with("boot id"))
            .unwrap();
        let words: Vec<&str> = boot.split_whitespace().collect();
        assert_eq!(words, ["boot", "id", "b0b0", "host"]);
        assert!(lines.iter().all(|line| line.chars().count() < 140));
    }

    #[test]
    fn long_values_are_folded() {
        assert_eq!(folded("a b"), ["a b"]);
        let long = folded(&format!("{} tail", "x".repeat(VALUE_WIDTH + 3)));
        assert_eq!(long.len(), 2);
        assert_eq!(long[1], "xxx tail");
        assert!(folded("").is_empty());
    }

    #[test]
    fn why_there_is_no_container_is_said() {
        let mut contrast = sample();
        contrast.container = Err("no runtime".to_owned());
        assert_eq!(
            lines(&contrast).last().unwrap(),
            "no plain container: no runtime"
        );
    }
}
