//! A real registry: Debian's docker-registry on a port of its own, with or without a password,
//! filled by skopeo.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{Invocation, PATIENCE, POLL_INTERVAL};

/// The only user of a registry with a password.
pub const USER: &str = "tester";
/// And the password.
pub const PASSWORD: &str = "open sesame";
/// What htpasswd(1) makes of it with bcrypt, cost 4: the registry takes nothing weaker.
const HTPASSWD: &str = "tester:$2y$04$aEVJS4LhyYunHtZrr0x5Ku7t.4LdmfT7DhVLuSHEalin.9hI4HFO.\n";

/// Who may read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open,
    /// Only [`USER`].
    Password,
}

/// A registry that runs. Dropped, it ends.
pub struct Registry {
    child: Child,
    port: u16,
    access: Access,
    folder: TempDir,
}

impl Registry {
    /// Starts one without content.
    ///
    /// # Errors
    ///
    /// docker-registry is not installed or does not come up; the message has its log.
    pub fn start(access: Access) -> Result<Self> {
        let folder = tempfile::tempdir().context("create a registry's folder")?;
        let port = free_port()?;
        let configuration = folder.path().join("config.yml");
        fs::write(folder.path().join("htpasswd"), HTPASSWD).context("configure a registry")?;
        fs::write(&configuration, configure(folder.path(), port, access))
            .context("configure a registry")?;
        let log = fs::File::create(folder.path().join("log")).context("create a log")?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .spawn()
            .context("start docker-registry (a Debian package)")?;
        let mut registry = Self {
            child,
            port,
            access,
            folder,
        };
        registry.wait_until_up()?;
        Ok(registry)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.try_wait().context("watch a registry")?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("docker-registry does not come up ({ended:?}): {log}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The full name of an image in it.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address())
    }

    /// Copies an image into it: `transport:path` as skopeo(1) writes it, such as
    /// `oci-archive:/path/debian.tar`. Returns the full name.
    ///
    /// # Errors
    ///
    /// skopeo is not installed or fails.
    pub fn push(&self, source: &str, image: &str) -> Result<String> {
        let name = self.name(image);
        let mut copy = Invocation::new("skopeo")
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", "/nonexistent")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ]);
        if self.access == Access::Password {
            copy = copy.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        copy.arg(source)
            .arg(format!("docker://{name}"))
            .output()?
            .code(0)?;
        Ok(name)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configure(folder: &Path, port: u16, access: Access) -> String {
    let folder = folder.display();
    let mut text = format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n\
         http:\n  addr: 127.0.0.1:{port}\n"
    );
    if access == Access::Password {
        text.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
        ));
    }
    text
}

/// A port that nothing listens on right now, at no address.
///
/// # Errors
///
/// There is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// The `auths` of a `~/.docker/config.json` that has the password for `address`.
#[must_use]
pub fn docker_config(address: &str, user: &str, password: &str) -> String {
    let auth = base64(format!("{user}:{password}").as_bytes());
    serde_json::json!({"auths": {address: {"auth": auth}}}).to_string()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0_u8; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 0x3f;
            text.push(if place <= group.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn a_password_is_asked_for_in_the_configuration_only_then() {
        let open = configure(Path::new("/f"), 5, Access::Open);
        assert!(open.contains("addr: 127.0.0.1:5\n") && !open.contains("htpasswd"));
        let closed = configure(Path::new("/f"), 5, Access::Password);
        assert!(closed.contains("path: /f/htpasswd\n"));
    }
}
