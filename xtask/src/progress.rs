//! One line per step, with the seconds it took, on standard error.
//! Every verb calls it; it knows nothing of what a step does.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// When steps are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Always: the verb's own output is the steps.
    Everyone,
    /// Only on a terminal: standard error belongs to the command that is run.
    Terminal,
}

/// A step under way. Ends with [`Step::done`]; one that is dropped has failed and says so.
pub(crate) struct Step {
    what: String,
    begun: Instant,
    shown: bool,
    ended: bool,
}

impl Step {
    /// Begins a step that everyone sees.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        Self::begin_for(Audience::Everyone, what)
    }

    /// Begins a step.
    pub(crate) fn begin_for(audience: Audience, what: impl Into<String>) -> Self {
        let shown = audience == Audience::Everyone || io::stderr().is_terminal();
        let step = Self {
            what: what.into(),
            begun: Instant::now(),
            shown,
            ended: false,
        };
        step.print("..", None);
        step
    }

    /// Ends the step well.
    pub(crate) fn done(self) {
        self.done_with("");
    }

    /// Ends the step well, with a remark (a path, a count).
    pub(crate) fn done_with(mut self, remark: impl AsRef<str>) {
        self.ended = true;
        self.print("ok", Some(remark.as_ref()));
    }

    fn print(&self, mark: &str, remark: Option<&str>) {
        if !self.shown {
            return;
        }
        let mut err = io::stderr().lock();
        // A closed standard error is no reason to fail a build.
        let _ = match remark {
            None => writeln!(err, "{mark} {}", self.what),
            Some(remark) => {
                let gap = if remark.is_empty() { "" } else { ": " };
                writeln!(
                    err,
                    "{mark} {}{gap}{remark} ({:.1} s)",
                    self.what,
                    self.begun.elapsed().as_secs_f64()
                )
            }
        };
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.print("!!", Some("failed"));
        }
    }
}
