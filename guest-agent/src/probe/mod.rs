//! The probe: looks at the kernel from inside a container, as the container's own processes may.
//!
//! Started by `bulkhead contrast` in place of an image's program, in a VM and in a plain container,
//! with that container's user, capabilities and filter. It writes [`READY`] and waits for a line, so
//! that the host can look at what it costs before it has done anything; then it measures and writes
//! one line with a [`Report`]; and then it answers each line of its input with the time since boot,
//! until its input ends. It must not know which of both kinds of container it is in.

mod quotas;
mod seen;
mod syscalls;

use std::ffi::OsString;
use std::io::{BufRead, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use protocol::probe::{CommandEnd, READY, Report, TEXT_BYTES_MAX};

use crate::spawn;

/// Longest time of the command that was given.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two looks at whether it has ended.
const COMMAND_POLL: Duration = Duration::from_millis(5);

/// Longest line of the input in bytes; the rest of a longer one is another line.
const LINE_MAX: u64 = 256;

/// Does all of it and ends.
pub fn run(command: Vec<OsString>) -> ! {
    let code = match answer(command) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    spawn::exit(code)
}

fn answer(command: Vec<OsString>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    let mut input = std::io::stdin().lock();
    if !next_line(&mut input)? {
        return Ok(());
    }
    let report = report(command);
    serde_json::to_writer(&mut out, &report)?;
    writeln!(out)?;
    out.flush()?;
    while next_line(&mut input)? {
        writeln!(out, "{}", spawn::boottime_ns() / 1_000_000)?;
        out.flush()?;
    }
    Ok(())
}

/// Waits for a line; `false` at the end of the input.
fn next_line(input: &mut impl BufRead) -> std::io::Result<bool> {
    let mut line = Vec::new();
    Ok(input.take(LINE_MAX).read_until(b'\n', &mut line)? > 0)
}

fn report(command: Vec<OsString>) -> Report {
    // First what others must not have changed: the command, and then what the calls leave behind.
    let seen = seen::seen();
    let kernel = seen::kernel();
    let files = seen::files();
    let command = run_command(command);
    let quotas = quotas::quotas();
    let ia32 = syscalls::tried_ia32();
    let syscalls = syscalls::tried();
    Report {
        kernel,
        seen,
        interfaces: syscalls::interfaces(),
        syscalls,
        ia32,
        files,
        quotas,
        command,
    }
}

fn run_command(command: Vec<OsString>) -> Option<CommandEnd> {
    use std::os::unix::process::ExitStatusExt;
    let mut words = command.into_iter();
    let program = words.next()?;
    let begin = Instant::now();
    let wall = |begin: Instant| u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let found = error.kind() != std::io::ErrorKind::NotFound;
            return Some(CommandEnd {
                code: Some(if found { 126 } else { 127 }),
                wall_ms: wall(begin),
            });
        }
    };
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            let signal = status.signal().map(|signal| signal.saturating_add(128));
            let code = status.code().or(signal);
            return Some(CommandEnd {
                code: Some(
                    code.and_then(|code| u8::try_from(code).ok())
                        .unwrap_or(u8::MAX),
                ),
                wall_ms: wall(begin),
            });
        }
        if begin.elapsed() > COMMAND_TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return Some(CommandEnd {
                code: None,
                wall_ms: wall(begin),
            });
        }
        std::thread::sleep(COMMAND_POLL);
    }
}

/// The beginning of a text in one line, within the report's limit.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        let gap = usize::from(!line.is_empty());
        if line.len() + gap + word.len() > TEXT_BYTES_MAX {
            break;
        }
        if gap == 1 {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_within_the_limit() {
        assert_eq!(one_line(" a\n b\t\tc "), "a b c");
        assert_eq!(one_line(&"ab ".repeat(1000)).len(), 254);
        assert_eq!(one_line(&"x".repeat(1000)), "");
    }

    #[test]
    fn a_command_ends_with_dockers_codes() {
        let code = |words: &[&str]| {
            let words = words.iter().map(OsString::from).collect();
            run_command(words).unwrap().code
        };
        assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
        assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
        assert_eq!(code(&["no-such-program"]), Some(127));
        assert_eq!(run_command(Vec::new()), None);
    }

    #[test]
    fn a_report_of_this_machine_is_within_its_limits() {
        let report = Report {
            kernel: seen::kernel(),
            seen: seen::seen(),
            files: seen::files(),
            ..protocol::probe::sample()
        };
        let bytes = serde_json::to_vec(&report).unwrap();
        assert_eq!(Report::parse(&bytes).unwrap(), report);
        assert!(report.seen.processes > 0 && report.seen.mounts > 0);
        assert!(report.kernel.uptime_ms > 0);
    }
}
