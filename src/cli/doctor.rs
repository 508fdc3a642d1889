//! `bulkhead doctor`: what [`crate::doctor`] finds, a line each.

use anyhow::Result;

use super::output;
use crate::doctor::{self, Level};

/// Prints the report; the exit code says whether VMs can run.
///
/// # Errors
/// When standard output is closed.
pub fn run() -> Result<u8> {
    let findings = doctor::report();
    for finding in &findings {
        let word = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        output::line(&format!("{word}  {}", finding.text))?;
        if let Some(hint) = &finding.hint {
            output::line(&format!("      hint: {hint}"))?;
        }
    }
    if findings.iter().any(|finding| finding.level == Level::Fail) {
        output::line("VMs can't run here")?;
        return Ok(1);
    }
    output::line("VMs can run here")?;
    Ok(0)
}
