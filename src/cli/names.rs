//! Ids and names of containers: 64 random hex digits, and an adjective with somebody's name.
//! Called by `run`, `create` and `build`.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

use crate::sandbox::containers;
use crate::sandbox::paths::Root;

/// Parted by blanks.
const ADJECTIVES: &str = "\
    able airy alert amber ample apt avid balmy blithe bold brave breezy bright brisk calm candid \
    casual cheery chief civil clean clear clever cosy crisp curious deft dutiful eager early easy \
    earnest fair famous fancy fearless fertile firm fleet fluent fond frank free fresh frosty \
    gallant gentle giddy glad golden grand handy hardy hearty honest humble ideal jolly keen kind \
    late light lively lofty loyal lucid lucky mellow merry mighty mild modest neat nimble noble \
    patient placid plain polite prime proud quick quiet rapid ready regal robust rosy serene sharp \
    silent sleek smooth solid sound steady stoic sunny swift tidy warm wise witty";

/// People whose work computing, physics, mathematics and medicine stand on; parted by blanks.
const PEOPLE: &str = "\
    abel adleman agnesi ampere archimedes avogadro babbage backus bardeen bell bernoulli blum boole \
    born bose brahe brattain cantor carson cerf chomsky church codd conway cook coulomb cray curie \
    dahl darwin dijkstra dirac einstein engelbart erdos euclid euler faraday fermat fermi feynman \
    fibonacci fleming floyd fourier franklin galois gauss germain goldberg goldwasser hamilton \
    hamming heisenberg hero hertz hilbert hoare hopper hubble huffman joule karp kay kepler \
    kernighan knuth lamarr lamport laplace leavitt leibniz liskov lovelace mandelbrot maxwell \
    mccarthy mendel milner minsky neumann newton noether nygaard ohm pascal pasteur perlman planck \
    popek ramanujan ritchie rivest rubin shannon strachey tesla thompson turing volta wilkes wirth \
    wozniak zuse";

/// Tries before digits take the place of names: with thousands of containers names run out.
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
    let taken = containers::list(root)?;
    for _ in 0..TRIES {
        let name = format!("{}_{}", pick(ADJECTIVES)?, pick(PEOPLE)?);
        if taken.iter().all(|(_, config)| config.name != name) {
            return Ok(name);
        }
    }
    let id = random_id()?;
    Ok(format!("container_{}", id.get(..12).unwrap_or_default()))
}

/// One of the words. A few are a little more likely than others, which does no harm.
fn pick(words: &'static str) -> Result<&'static str> {
    let count = words.split_whitespace().count();
    let at = usize::from(u16::from_le_bytes(random()?)) % count;
    words.split_whitespace().nth(at).context("pick a name")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::values::container_name;

    #[test]
    fn ids_are_random_hex() {
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(a.len(), crate::sandbox::state::ID_LEN);
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }

    #[test]
    fn words_are_many_each_there_once_and_fit_for_names() {
        for list in [ADJECTIVES, PEOPLE] {
            let words: BTreeSet<_> = list.split_whitespace().collect();
            assert_eq!(words.len(), list.split_whitespace().count());
            assert!(words.len() >= 100, "{}", words.len());
            for word in words {
                container_name(word).unwrap();
                assert!(word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
            }
        }
        assert!(PEOPLE.contains(pick(PEOPLE).unwrap()));
    }
}
