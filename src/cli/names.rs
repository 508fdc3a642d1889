//! Ids and names of containers: 64 random hex digits, and an adjective with somebody's name.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

use crate::sandbox::paths::Root;
use crate::sandbox::state;

const ADJECTIVES: [&str; 48] = [
    "able", "airy", "amber", "apt", "bold", "brave", "brisk", "calm", "clear", "clever", "cosy",
    "crisp", "deft", "eager", "early", "fair", "firm", "fleet", "fond", "frank", "free", "fresh",
    "gentle", "glad", "grand", "hardy", "keen", "kind", "late", "light", "lively", "loyal",
    "lucid", "mellow", "merry", "neat", "noble", "plain", "proud", "quick", "quiet", "ready",
    "sharp", "sound", "steady", "swift", "warm", "wise",
];

const PEOPLE: [&str; 48] = [
    "babbage",
    "bell",
    "boole",
    "bose",
    "brahe",
    "cantor",
    "cerf",
    "church",
    "codd",
    "curie",
    "dahl",
    "darwin",
    "dijkstra",
    "engelbart",
    "erdos",
    "euler",
    "faraday",
    "fermat",
    "franklin",
    "galois",
    "gauss",
    "germain",
    "goldberg",
    "hamilton",
    "hamming",
    "hopper",
    "huffman",
    "kepler",
    "knuth",
    "lamport",
    "liskov",
    "lovelace",
    "maxwell",
    "mccarthy",
    "meitner",
    "milner",
    "noether",
    "nygaard",
    "pascal",
    "perlman",
    "popek",
    "ritchie",
    "shannon",
    "strachey",
    "thompson",
    "turing",
    "wilkes",
    "zuse",
];

/// Tries before a number is added: with thousands of containers names run out.
const TRIES: usize = 16;

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read random bytes")?;
    Ok(bytes)
}

/// A new id.
pub fn random_id() -> Result<String> {
    Ok(random::<32>()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A name that no container has.
pub fn random_name(root: &Root) -> Result<String> {
    let taken = state::list(root)?;
    for _ in 0..TRIES {
        let [a, b] = random::<2>()?;
        let pick = |list: &[&'static str], byte: u8| {
            list.get(usize::from(byte) % list.len())
                .copied()
                .unwrap_or("bulk")
        };
        let name = format!("{}_{}", pick(&ADJECTIVES, a), pick(&PEOPLE, b));
        if taken.iter().all(|(_, config)| config.name != name) {
            return Ok(name);
        }
    }
    Ok(format!(
        "container_{}",
        random_id()?.get(..12).unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_hex() {
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(a.len(), state::ID_LEN);
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }

    #[test]
    fn names_fit_dockers_rule() {
        for word in ADJECTIVES.iter().chain(&PEOPLE) {
            assert!(crate::cli::values::container_name(word).is_ok(), "{word}");
        }
    }
}
