//! The classes of attack, with where a class is held that no image can show.

/// A class.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// Its number.
    pub number: u8,
    /// What its images try.
    pub about: &'static str,
    /// Why there is no image of it, and what holds it instead.
    pub elsewhere: Option<&'static str>,
}

const fn class(number: u8, about: &'static str) -> Class {
    Class {
        number,
        about,
        elsewhere: None,
    }
}

const fn elsewhere(number: u8, about: &'static str, why: &'static str) -> Class {
    Class {
        number,
        about,
        elsewhere: Some(why),
    }
}

/// All of them.
pub const CLASSES: [Class; 25] = [
    class(1, "names that lead out or are no names"),
    class(2, "symbolic links, and entries through them"),
    class(3, "hard links to what is elsewhere, later, or no file"),
    class(4, "parents that become something else"),
    class(5, "names that agent, kernel or host use themselves"),
    class(6, "devices, pipes, sockets"),
    class(
        7,
        "setuid, capabilities, extended attributes, overlayfs's own marks",
    ),
    class(
        8,
        "owners, permissions and times that are no numbers, or too large",
    ),
    class(9, "whiteouts"),
    class(
        10,
        "entries and layers in an odd order, twice, or miscounted",
    ),
    class(11, "headers of which readers of tar make different things"),
    elsewhere(
        12,
        "readers of tar that disagree",
        "no image, but a comparison of readers over all of these: `guest-agent/src/unpack/tests/readers.rs`",
    ),
    class(
        13,
        "compressed layers that are more, less or other than they say",
    ),
    class(14, "files of exabytes"),
    class(15, "digests and sizes that are not those of the bytes"),
    class(
        16,
        "manifests and indexes that are too much, ambiguous or of another kind",
    ),
    class(17, "addresses in manifests"),
    elsewhere(
        18,
        "registries' protocol",
        "no image, but a server: `images/tests/registry`, whose `main.rs` has the list",
    ),
    class(19, "names that are paths, or look like others"),
    class(20, "what a configuration asks for"),
    class(21, "archives whose members lead elsewhere"),
    class(22, "what is copied out, exported and listed"),
    class(23, "file systems in place of archives"),
    elsewhere(
        24,
        "chunks that are served when a guest asks",
        "there are none: a layer is whole and hashed before its disk is made, and a VM has its disk as a read-only descriptor (`tests/vm/jail.rs`)",
    ),
    class(25, "content in another's name, in a store that others use"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    const DOCUMENT: &str = include_str!("../../../docs/hostile.md");

    #[test]
    fn the_document_has_a_row_for_each_class() {
        let cases = cases();
        for class in CLASSES {
            let count = cases.iter().filter(|case| case.class == class.number);
            let held = match class.elsewhere {
                None => count.count().to_string(),
                Some(why) => why.to_owned(),
            };
            let row = format!("| e{} | {} | {held} |", class.number, class.about);
            assert!(DOCUMENT.contains(&row), "docs/hostile.md lacks: {row}");
        }
        let all = format!("{} images", cases.len());
        assert!(
            DOCUMENT.contains(&all),
            "docs/hostile.md does not say {all}"
        );
    }
}
