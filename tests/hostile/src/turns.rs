//! Which cases have their turn, and which of them with every verb: in an emulated host each takes some
//! seconds. A number, the seed, chooses; with so many numbers in a row all of them had their turn.

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One of [`CASES_ONE_OF`] cases, when nobody asks for hostile images.
    Some,
    /// All cases. One of [`VERBS_ONE_OF`] has every verb; the others are pulled, loaded, run and entered.
    All,
    /// Every verb for every case.
    EveryVerb,
}

/// Of so many cases one has its turn, see [`Depth::Some`].
pub const CASES_ONE_OF: usize = 6;

/// Of so many that have their turn one has every verb.
pub const VERBS_ONE_OF: usize = 6;

impl Depth {
    /// Whether the case with this number has its turn, and whether with every verb.
    #[must_use]
    pub fn turn(self, seed: usize, case: usize) -> Option<bool> {
        match self {
            Self::EveryVerb => Some(true),
            Self::All => Some(is_due(case, seed, VERBS_ONE_OF)),
            Self::Some if is_due(case, seed, CASES_ONE_OF) => {
                let (case, seed) = (case / CASES_ONE_OF, seed / CASES_ONE_OF);
                Some(is_due(case, seed, VERBS_ONE_OF))
            }
            Self::Some => None,
        }
    }
}

fn is_due(case: usize, seed: usize, one_of: usize) -> bool {
    (case + seed % one_of).is_multiple_of(one_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 60 cases: how often each had its turn with these seeds, and how often with every verb.
    fn turns(depth: Depth, seeds: std::ops::Range<usize>) -> Vec<(usize, usize)> {
        let of_case = |case| {
            let turns: Vec<bool> = seeds
                .clone()
                .filter_map(|seed| depth.turn(seed, case))
                .collect();
            let with_every_verb = turns.iter().filter(|all_verbs| **all_verbs);
            (turns.len(), with_every_verb.count())
        };
        (0..60).map(of_case).collect()
    }

    #[test]
    fn each_case_has_its_turn() {
        for begin in [0, 3, 20_783] {
            let six = turns(Depth::Some, begin..begin + 6);
            assert!(six.iter().all(|(turns, _)| *turns == 1), "{six:?}");
            let all = turns(Depth::All, begin..begin + 6);
            assert_eq!(all, [(6, 1); 60]);
        }
        // Rounds of six begin where the seed can be divided by it.
        for begin in [0, 36, 20_784] {
            assert_eq!(turns(Depth::Some, begin..begin + 36), [(6, 1); 60]);
        }
        assert_eq!(turns(Depth::EveryVerb, 7..8), [(1, 1); 60]);
    }
}
