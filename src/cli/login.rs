//! `bulkhead login` and `logout`: who one is at a registry, kept where Docker keeps it.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use images::registry::{self, Keychain, Login, Place, Registry, Secret};
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};

use super::{output, pull, variables};

/// Flags of `login`.
#[derive(Debug, clap::Args)]
#[command(after_help = variables::of_login())]
pub struct LoginArgs {
    /// User name
    #[arg(short, long, value_name = "string")]
    username: Option<String>,
    /// Password; other users of this machine can see it, use --password-stdin
    #[arg(short, long, value_name = "string")]
    password: Option<String>,
    /// Take the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    registry: pull::RegistryArgs,
    /// Registry: `HOST` or `HOST:PORT`; without one Docker Hub
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Words of `logout`.
#[derive(Debug, clap::Args)]
#[command(after_help = variables::of_logout())]
pub struct LogoutArgs {
    /// Registry: `HOST` or `HOST:PORT`; without one Docker Hub
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Bytes of a password on standard input; tokens have some KiB.
const PASSWORD_BYTES: u64 = 1 << 20;

/// What interrupts at a terminal.
const CONTROL_C: u8 = 3;

/// Logs in.
///
/// # Errors
/// What the registry says, or where the login is to be kept.
pub fn run(args: &LoginArgs) -> Result<()> {
    let given = given_password(args)?;
    let registry = registry(args.server.as_deref())?;
    let options = args.registry.options();
    let keychain = Keychain::open(None)?;
    let mut known = None;
    if args.username.is_none() && given.is_none() {
        known = keychain.password(registry.domain())?;
        if let Some((user, password)) = &known {
            output::line("Authenticating with existing credentials...")?;
            match registry::log_in(&registry, user, password, &options) {
                Ok(secret) => return keep(&keychain, &registry, user, secret),
                Err(error) => output::note(&format!("Login did not succeed, error: {error}")),
            }
        }
    }
    let known = known.map(|(user, _)| user);
    let (user, password) = ask(args.username.as_deref(), given, known, &registry)?;
    let secret = registry::log_in(&registry, &user, &password, &options)?;
    keep(&keychain, &registry, &user, secret)
}

/// Logs out.
///
/// # Errors
/// The name is no registry's, or standard output is closed.
pub fn log_out(args: &LogoutArgs) -> Result<()> {
    let registry = registry(args.server.as_deref())?;
    let key = registry::key_of(registry.domain());
    output::line(&format!("Removing login credentials for {key}"))?;
    // Older versions of Docker and other tools kept some with a scheme.
    let mut keys = vec![key.to_owned()];
    if key == registry.domain() {
        keys.extend([format!("http://{key}"), format!("https://{key}")]);
    }
    let keychain = Keychain::open(None)?;
    let failures: Vec<String> = keys
        .iter()
        .filter_map(|key| Some((key, keychain.forget(key).err()?)))
        .map(|(key, error)| format!("{key}: {:#}", anyhow::Error::from(error)))
        .collect();
    // As in Docker: some helpers fail for what they do not have.
    if failures.len() == keys.len() {
        output::note("WARNING: could not erase credentials:");
        for failure in failures {
            output::note(&failure);
        }
    }
    Ok(())
}

fn registry(server: Option<&str>) -> Result<Registry> {
    match server {
        None | Some("") => Ok(Registry::docker_hub()),
        Some(text) => {
            Registry::parse(text).with_context(|| format!("\"{text}\" is not a registry"))
        }
    }
}

/// The password of a flag or of standard input, in Docker's words where that can't be.
fn given_password(args: &LoginArgs) -> Result<Option<String>> {
    let given = args
        .password
        .clone()
        .filter(|password| !password.is_empty());
    if given.is_some() {
        output::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if args.password_stdin {
            bail!("--password and --password-stdin are mutually exclusive");
        }
    }
    if !args.password_stdin {
        return Ok(given);
    }
    if args.username.as_deref().unwrap_or_default().is_empty() {
        bail!("Must provide --username with --password-stdin");
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES)
        .read_to_string(&mut text)
        .context("read the password from standard input")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// What is missing of user name and password, from the terminal.
fn ask(
    user: Option<&str>,
    password: Option<String>,
    known: Option<String>,
    registry: &Registry,
) -> Result<(String, String)> {
    if password.is_none() && !std::io::stdin().is_terminal() {
        bail!("Error: Cannot perform an interactive login from a non TTY device");
    }
    let mut user = user.unwrap_or_default().trim().to_owned();
    if user.is_empty() {
        if *registry == Registry::docker_hub() {
            output::line(
                "Login with your Docker ID to push and pull images from Docker Hub. If you don't have a Docker ID, head over to https://hub.docker.com to create one.",
            )?;
        }
        prompt(&match &known {
            Some(known) => format!("Username ({known}): "),
            None => "Username: ".to_owned(),
        })?;
        user = line()?.trim().to_owned();
        if user.is_empty() {
            user = known.unwrap_or_default();
        }
    }
    if user.is_empty() {
        bail!("Error: Non-null Username Required");
    }
    let password = match password {
        Some(password) => password,
        None => {
            let password = hidden_line("Password: ");
            output::line("")?;
            password?
        }
    };
    if password.is_empty() {
        bail!("Error: Password Required");
    }
    Ok((user, password))
}

fn prompt(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{}", output::harmless(text))?;
    Ok(stdout.flush()?)
}

/// What is typed up to the end of the line, or to an interrupt, which is part of it.
fn line() -> Result<String> {
    let mut typed = Vec::new();
    for byte in std::io::stdin().lock().take(PASSWORD_BYTES).bytes() {
        match byte.context("read from the terminal")? {
            b'\n' => break,
            byte => typed.push(byte),
        }
        if typed.last() == Some(&CONTROL_C) {
            break;
        }
    }
    let text = String::from_utf8(typed).context("read from the terminal")?;
    Ok(text.trim_end_matches('\r').to_owned())
}

/// Asks for a line that the terminal does not show, not even what is typed at once. An interrupt
/// ends it as an ordinary character would, so that the terminal shows again what is typed before we
/// go.
fn hidden_line(question: &str) -> Result<String> {
    let stdin = std::io::stdin();
    let before = tcgetattr(stdin.as_fd()).context("ask the terminal for its mode")?;
    let mut hidden = before.clone();
    hidden
        .local_flags
        .remove(LocalFlags::ECHO | LocalFlags::ISIG);
    if let Some(end) = hidden
        .control_chars
        .get_mut(SpecialCharacterIndices::VEOL as usize)
    {
        *end = CONTROL_C;
    }
    tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &hidden).context("hide what is typed")?;
    let restore = Restore(before);
    let text = prompt(question).and_then(|()| line());
    drop(restore);
    let text = text?;
    if text.bytes().any(|byte| byte == CONTROL_C) {
        bail!("interrupted");
    }
    Ok(text)
}

/// Brings the terminal's mode back.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

fn keep(keychain: &Keychain, registry: &Registry, user: &str, secret: Secret) -> Result<()> {
    let key = registry::key_of(registry.domain());
    if let (Place::File(path), Secret::Password(_)) = (keychain.place(key)?, &secret) {
        output::note(&format!(
            "WARNING! Your password will be stored unencrypted in {}.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n",
            path.display()
        ));
    }
    let login = Login {
        user: user.to_owned(),
        secret,
    };
    keychain
        .keep(key, &login)
        .context("Error saving credentials")?;
    output::line("Login Succeeded")
}
