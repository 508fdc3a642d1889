//! SPDX license expressions (SPDX specification, annex "License expressions"), as far as
//! crates use them: identifiers, `WITH`, `AND`, `OR`, brackets, and the old `/` for `OR`.

/// Whether an expression can be met with the licenses in `allowed` only.
pub(crate) fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let tokens: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser {
        tokens: &tokens,
        allowed,
        well_formed: true,
    };
    let met = parser.any_of();
    met && parser.well_formed && parser.tokens.is_empty()
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    allowed: &'a [String],
    well_formed: bool,
}

impl Parser<'_> {
    fn take(&mut self, wanted: &str) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if *first == wanted => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    /// `a OR b`, which binds weakest.
    fn any_of(&mut self) -> bool {
        let mut met = self.all_of();
        while self.take("OR") {
            met |= self.all_of();
        }
        met
    }

    /// `a AND b`.
    fn all_of(&mut self) -> bool {
        let mut met = self.one();
        while self.take("AND") {
            met &= self.one();
        }
        met
    }

    /// An identifier, with an exception or without, or brackets.
    fn one(&mut self) -> bool {
        if self.take("(") {
            let met = self.any_of();
            self.well_formed &= self.take(")");
            return met;
        }
        let mut name = self.word();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.word());
        }
        self.allowed.contains(&name)
    }

    fn word(&mut self) -> String {
        match self.tokens.split_first() {
            Some((first, rest)) => {
                self.tokens = rest;
                (*first).to_owned()
            }
            None => {
                self.well_formed = false;
                String::new()
            }
        }
    }
}

#[test]
fn an_expression_is_met_as_its_operators_say() {
    let allowed = [
        "MIT",
        "Apache-2.0",
        "Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ]
    .map(String::from);
    let met = [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR X",
    ];
    let not_met = [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND X",
        "GPL-3.0 WITH MIT",
        "MIT MIT",
        "(MIT",
        "MIT OR",
    ];
    for expression in met {
        assert!(is_allowed(expression, &allowed), "{expression}");
    }
    for expression in not_met {
        assert!(!is_allowed(expression, &allowed), "{expression:?}");
    }
}
