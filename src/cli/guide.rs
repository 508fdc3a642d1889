//! The table of docs/guide/docker.md: every verb of Docker and every flag of `run` and `build`, from the
//! tables that the parser is made of. A hidden verb prints it; a test holds the page to it.

use super::build::surface::BUILD;
use super::surface::{Fate, Flag, RUN};
use super::verbs::VERBS;

/// The table, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("### Verbs\n\n| verb | |\n|---|---|\n");
    for (verb, fate) in VERBS {
        text.push_str(&format!("| `{verb}` | {} |\n", says(fate)));
    }
    for (verb, flags) in [("run", &RUN[..]), ("build", &BUILD)] {
        text.push_str(&format!(
            "\n### Flags of `{verb}`\n\n| flag | |\n|---|---|\n"
        ));
        for flag in flags {
            text.push_str(&format!("| {} | {} |\n", name(flag), says(flag.fate)));
        }
    }
    text
}

fn name(flag: &Flag) -> String {
    match flag.short {
        Some(short) => format!("`-{short}`, `--{}`", flag.name),
        None => format!("`--{}`", flag.name),
    }
}

fn says(fate: Fate) -> String {
    let text = match fate {
        Fate::Works => "works".to_owned(),
        Fate::Differs(how) => format!("differs: {how}"),
        Fate::Only(values, why) => {
            let values: Vec<String> = values
                .iter()
                .filter(|value| !value.is_empty())
                .map(|value| format!("`{value}`"))
                .collect();
            match values.as_slice() {
                [] => format!("refused: {why}"),
                some => format!("only {}: {why}", some.join(", ")),
            }
        }
        Fate::Warns(why) => format!("no effect, with a warning: {why}"),
        Fate::Refused(why) => format!("refused: {why}"),
    };
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_this_table() {
        let page = include_str!("../../docs/guide/docker.md");
        let (_, made) = page
            .split_once("<!-- made by cargo xtask guide -->\n")
            .unwrap();
        assert!(made == table(), "run cargo xtask guide");
    }

    #[test]
    fn verbs_are_there_or_refused() {
        let command = crate::cli::command();
        for (verb, fate) in VERBS {
            let is_there = command.find_subcommand(verb).is_some();
            match fate {
                Fate::Refused(_) => assert!(!is_there || verb == "search", "{verb}"),
                _ => assert!(is_there, "{verb}"),
            }
        }
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            let is_known = VERBS.iter().any(|(known, _)| *known == name);
            assert!(is_known || ["contrast", "doctor"].contains(&name), "{name}");
        }
    }
}
