//! One run of a program: arguments, environment and streams in, exit code and output back. What
//! takes too long is killed and fails the test with all it had said.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::transcript::Transcript;
use crate::{PATIENCE, POLL_INTERVAL};

/// After a process has ended its output must end as well: nothing may stay that holds it.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(30);

/// So much of a long output is shown in a message, at each end.
const SHOWN_BYTES: usize = 4096;

/// A program that is about to be run.
pub struct Invocation {
    command: Command,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl Invocation {
    /// A program with an empty environment and nothing to read.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that a shell goes with all that it started.
            .process_group(0);
        Self {
            command,
            stdin: Vec::new(),
            timeout: PATIENCE,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the folder it starts in.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives it these bytes to read, then the end.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.stdin = bytes.into();
        self
    }

    /// Lets it read from this instead: a file, a pipe.
    #[must_use]
    pub fn stdin_from(mut self, input: impl Into<Stdio>) -> Self {
        self.command.stdin(input.into());
        self
    }

    /// Lets its standard output go to this; [`Output::stdout`] is empty then.
    #[must_use]
    pub fn stdout_to(mut self, output: File) -> Self {
        self.command.stdout(output);
        self
    }

    /// Sets how long it may take, instead of [`PATIENCE`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Its words, for messages.
    #[must_use]
    pub fn line(&self) -> String {
        let words: Vec<_> = std::iter::once(self.command.get_program())
            .chain(self.command.get_args())
            .map(OsStr::to_string_lossy)
            .collect();
        words.join(" ")
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn spawn(mut self) -> Result<Running> {
        let line = self.line();
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("start {line}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            let bytes = std::mem::take(&mut self.stdin);
            // Whoever does not read it all says so by other means.
            thread::spawn(move || {
                let _ = stdin.write_all(&bytes);
            });
        }
        let stdout = child.stdout.take().map(Transcript::of);
        let stderr = child.stderr.take().map(Transcript::of);
        Ok(Running {
            line,
            child,
            stdout: stdout.unwrap_or_else(|| Transcript::of(std::io::empty())),
            stderr: stderr.unwrap_or_else(|| Transcript::of(std::io::empty())),
            deadline: Instant::now() + self.timeout,
            reaped: None,
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// It does not start or end; any exit code is fine.
    pub fn output(self) -> Result<Output> {
        self.spawn()?.wait()
    }
}

/// A program that runs. Dropped, it is killed.
pub struct Running {
    line: String,
    child: Child,
    stdout: Transcript,
    stderr: Transcript,
    deadline: Instant,
    reaped: Option<ExitStatus>,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has written `text` on standard output.
    ///
    /// # Errors
    ///
    /// It ends, or its time is up, without.
    pub fn wait_for_stdout(&mut self, text: &str) -> Result<()> {
        self.wait_for(&self.stdout.clone(), "standard output", text)
    }

    /// Waits until it has written `text` on standard error.
    ///
    /// # Errors
    ///
    /// It ends, or its time is up, without.
    pub fn wait_for_stderr(&mut self, text: &str) -> Result<()> {
        self.wait_for(&self.stderr.clone(), "standard error", text)
    }

    fn wait_for(&mut self, transcript: &Transcript, stream: &str, text: &str) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if transcript.wait_for(text, 0, left).is_some() {
            return Ok(());
        }
        let output = self.stop();
        bail!("no {text:?} on {stream} of {output}");
    }

    /// What it has written on standard output so far.
    #[must_use]
    pub fn stdout_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stdout.bytes()).into_owned()
    }

    /// Sends it, and nothing it started, a signal.
    ///
    /// # Errors
    ///
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(pid(self.child.id())?, signal)
            .with_context(|| format!("send {signal:?} to {}", self.line))
    }

    /// Whether it has ended.
    ///
    /// # Errors
    ///
    /// It can't be waited for.
    pub fn has_ended(&mut self) -> Result<bool> {
        if self.reaped.is_none() {
            self.reaped = self.child.try_wait().context("wait for a program")?;
        }
        Ok(self.reaped.is_some())
    }

    /// Waits for its end and all of its output.
    ///
    /// # Errors
    ///
    /// Its time is up, or something that it left holds its output open.
    pub fn wait(mut self) -> Result<Output> {
        while !self.has_ended()? {
            if Instant::now() > self.deadline {
                let output = self.stop();
                bail!("killed, since it took too long: {output}");
            }
            thread::sleep(POLL_INTERVAL / 4);
        }
        for (name, stream) in [("output", &self.stdout), ("error", &self.stderr)] {
            if !stream.wait_for_end(OUTPUT_PATIENCE) {
                let line = self.line.clone();
                bail!("{line} ended but something holds its standard {name} open");
            }
        }
        Ok(self.record())
    }

    fn stop(&mut self) -> Output {
        self.kill_group();
        self.record()
    }

    fn kill_group(&mut self) {
        if self.reaped.is_none() {
            // Both fail only when all of them have ended already.
            if let Ok(pid) = pid(self.child.id()) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            self.reaped = self.child.wait().ok();
        }
    }

    fn record(&mut self) -> Output {
        let stdout_bytes = self.stdout.bytes();
        Output {
            line: self.line.clone(),
            code: self.reaped.map_or(i32::MIN, exit_code),
            stdout: String::from_utf8_lossy(&stdout_bytes).into_owned(),
            stdout_bytes,
            stderr: String::from_utf8_lossy(&self.stderr.bytes()).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// The process with this id.
///
/// # Errors
///
/// It is no id of a process.
pub fn pid(id: u32) -> Result<Pid> {
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .with_context(|| format!("{id} is no process id"))
}

/// The code, or the negative number of the signal that ended it.
fn exit_code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => -signal,
        (None, None) => i32::MIN,
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Output {
    /// What was run.
    pub line: String,
    /// Exit code; of a program that a signal ended, its negative number.
    pub code: i32,
    /// Standard output, with what is not UTF-8 replaced.
    pub stdout: String,
    /// Standard output as it was.
    pub stdout_bytes: Vec<u8>,
    /// Standard error, with what is not UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    /// Itself, if it ended with this code.
    ///
    /// # Errors
    ///
    /// It ended with another; the message has all of it.
    pub fn code(self, expected: i32) -> Result<Self> {
        if self.code == expected {
            return Ok(self);
        }
        bail!("expected exit code {expected} of {self}");
    }

    /// Its standard output, if it ended well and wrote nothing on standard error.
    ///
    /// # Errors
    ///
    /// It did not.
    pub fn only_stdout(self) -> Result<String> {
        let output = self.code(0)?;
        if !output.stderr.is_empty() {
            bail!("unexpected standard error of {output}");
        }
        Ok(output.stdout)
    }

    /// Checks for a refusal as users are to see them: exit code 125, one sentence (and maybe a
    /// hint) that has `text`, nothing on standard output. Returns the sentence.
    ///
    /// # Errors
    ///
    /// It is not so.
    pub fn refusal(self, text: &str) -> Result<String> {
        let output = self.code(125)?;
        let lines: Vec<_> = output
            .stderr
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with("See 'bulkhead"))
            .collect();
        let (sentence, rest) = match lines.as_slice() {
            [sentence, rest @ ..] => ((*sentence).to_owned(), rest),
            [] => bail!("nothing is said by {output}"),
        };
        if rest.iter().any(|line| !line.starts_with("hint: ")) || rest.len() > 1 {
            bail!("more than one sentence of {output}");
        }
        if !sentence.contains(text) {
            bail!("{text:?} is not said by {output}");
        }
        if !output.stdout.is_empty() || sentence.contains("panicked") {
            bail!("no clean refusal of {output}");
        }
        Ok(sentence)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{}\n  exit code: {}\n  stdout: {}\n  stderr: {}",
            self.line,
            self.code,
            shortened(&self.stdout),
            shortened(&self.stderr)
        )
    }
}

fn shortened(text: &str) -> String {
    let bytes = text.as_bytes();
    if bytes.len() <= 2 * SHOWN_BYTES {
        return text.trim_end().to_owned();
    }
    let (head, tail) = (&bytes[..SHOWN_BYTES], &bytes[bytes.len() - SHOWN_BYTES..]);
    format!(
        "{} … {} bytes … {}",
        String::from_utf8_lossy(head),
        bytes.len() - 2 * SHOWN_BYTES,
        String::from_utf8_lossy(tail)
    )
}

/// Words as they come in tests.
pub(crate) fn words<I: IntoIterator<Item: AsRef<OsStr>>>(words: I) -> Vec<OsString> {
    words.into_iter().map(|word| word.as_ref().into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation::new("/bin/sh").args(["-c", script])
    }

    #[test]
    fn streams_and_code_come_back_apart() {
        let output = shell("cat; echo wrong >&2; exit 7")
            .stdin("given")
            .output()
            .expect("run");
        assert_eq!((output.code, output.stdout.as_str()), (7, "given"));
        assert_eq!(output.stderr, "wrong\n");
        let message = output.code(0).expect_err("code").to_string();
        assert!(
            message.contains("given") && message.contains("wrong"),
            "{message}"
        );
    }

    #[test]
    fn a_signal_is_a_negative_code() {
        assert_eq!(shell("kill -TERM $$").output().expect("run").code, -15);
    }

    #[test]
    fn what_hangs_is_killed_with_its_children_and_told() {
        let error = shell("echo begun; sleep 1000 & wait")
            .timeout(Duration::from_millis(300))
            .output()
            .expect_err("timeout");
        assert!(error.to_string().contains("begun"), "{error}");
    }

    #[test]
    fn a_running_program_is_waited_for_and_signalled() {
        let mut running = shell("trap 'echo caught; exit 3' TERM; echo ready; while :; do :; done")
            .spawn()
            .expect("spawn");
        running.wait_for_stdout("ready\n").expect("ready");
        running.signal(Signal::TERM).expect("signal");
        let output = running.wait().expect("wait");
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (3, "ready\ncaught\n")
        );
    }

    #[test]
    fn a_refusal_is_one_sentence() {
        let refused = |script: &str| shell(script).output().expect("run").refusal("no such");
        assert!(refused("echo 'x: no such y' >&2; exit 125").is_ok());
        assert!(refused("echo 'x: no such y' >&2; echo 'hint: z' >&2; exit 125").is_ok());
        assert!(refused("echo 'x: no such y' >&2; exit 1").is_err());
        assert!(refused("echo 'no such'; exit 125").is_err());
        assert!(refused("echo 'no such' >&2; echo more >&2; exit 125").is_err());
        assert!(refused("echo 'other' >&2; exit 125").is_err());
    }
}
