//! Makes the archives that the lists describe. `list` calls it.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A tar of the members in `text`, packed as the name says.
///
/// # Errors
///
/// A line is none of the form, or there is no such program.
pub(crate) fn archive(name: &str, text: &str) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        member(&mut tar, line).with_context(|| line.to_owned())?;
    }
    let bytes = tar.into_inner()?;
    match name.rsplit('.').next() {
        Some("gz" | "tgz") => filtered("gzip -c", &bytes),
        Some("bz2") => filtered("bzip2 -c", &bytes),
        Some("xz") => filtered("xz -c", &bytes),
        Some("zst") => filtered("zstd -q -c", &bytes),
        _ => Ok(bytes),
    }
}

fn member(tar: &mut tar::Builder<Vec<u8>>, line: &str) -> Result<()> {
    let words: Vec<&str> = line.splitn(5, ' ').collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mtime(1_000_000_000);
    if let [_, _, mode, owner, ..] = words.as_slice() {
        let (uid, gid) = owner.split_once(':').context("UID:GID")?;
        header.set_mode(u32::from_str_radix(mode, 8)?);
        header.set_uid(uid.parse()?);
        header.set_gid(gid.parse()?);
    } else {
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
    }
    let link = |header: &mut tar::Header, kind, name: &str, target: &str| {
        header.set_entry_type(kind);
        // As written: some are to lead out.
        header.set_link_name_literal(target)?;
        set_name(header, name)
    };
    match words.as_slice() {
        ["file", name, _, _, content] => {
            header.set_size(content.len() as u64 + 1);
            set_name(&mut header, name)?;
            header.set_cksum();
            return Ok(tar.append(&header, format!("{content}\n").as_bytes())?);
        }
        ["dir", name, ..] => {
            header.set_entry_type(tar::EntryType::Directory);
            set_name(&mut header, name)?;
        }
        ["link", name, target] => link(&mut header, tar::EntryType::Symlink, name, target)?,
        ["hard", name, _, _, target] => link(&mut header, tar::EntryType::Link, name, target)?,
        _ => bail!("no member"),
    }
    header.set_cksum();
    Ok(tar.append(&header, &b""[..])?)
}

/// Sets the name as it is, though it may lead out.
fn set_name(header: &mut tar::Header, name: &str) -> Result<()> {
    let field = &mut header.as_old_mut().name;
    let place = field.get_mut(..name.len()).context("a shorter name")?;
    place.copy_from_slice(name.as_bytes());
    Ok(())
}

/// What a program makes of these bytes.
///
/// # Errors
///
/// It is not there, or fails.
pub(crate) fn filtered(command: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut words = command.split(' ');
    let mut child = Command::new(words.next().unwrap_or_default())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command}"))?;
    let mut stdin = child.stdin.take().context("write to it")?;
    // What is written is shorter than what a pipe takes.
    stdin.write_all(bytes)?;
    drop(stdin);
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("{command} ended with {}", out.status);
    }
    Ok(out.stdout)
}
