//! The passt process: its arguments, its start, what it says when it fails, its end.
//!
//! passt drops its privileges and everything else by itself, namespaces and a seccomp filter
//! included; as root it becomes nobody. It ends when the other end of its socket is closed: with the
//! VM and the supervisor, whoever kills them.
//! Called by [`super`], by the launcher, which executes it, and by `doctor`, which looks for it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{setsockopt, sockopt};
use vmm::virtio::net::{Endpoint, MTU};

use super::super::child::Child;
use super::super::control_group::ControlGroup;
use super::super::launcher::Launcher;
use super::super::program::{FIRST_FD, Program};
use super::super::{paths, poll};
use super::host::Routes;
use super::ports;
use super::{GATEWAY_MAC, PortRequest, Protocol, PublishedPort};

/// Its name, looked up in PATH.
pub const PASST: &str = "passt";

/// It takes some 20 ms; a busy emulated host many times that.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// For what the guest sent last to go out.
const END_TIMEOUT: Duration = Duration::from_secs(1);
const END_POLL: Duration = Duration::from_millis(1);

/// Buffers of the socket in bytes, as far as the user may: some sixty of the longest frames. passt
/// drops what has no room.
const BUFFER_BYTES: usize = 4 << 20;

/// Bytes of what it says that are read.
const WORDS_BYTES_MAX: u64 = 16 << 10;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(
        "passt is not installed, and containers have their network by it\n\
         hint: install it (sudo apt-get install passt), or use --network none"
    )]
    Missing,
    #[error("{0}")]
    PortTaken(String),
    #[error("{0}")]
    PortRefused(String),
    #[error(
        "passt may not create a user namespace\n\
         hint: allow it (sysctl kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces), or use --network none"
    )]
    NoUserNamespace,
    #[error("passt: {0}")]
    Failed(String),
    #[error("{operation}")]
    Host {
        operation: &'static str,
        source: std::io::Error,
    },
}

fn host_error(operation: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::Host { operation, source }
}

/// Where passt is.
#[must_use]
pub fn find() -> Option<PathBuf> {
    paths::program(PASST)
}

/// A process; dropping it waits for its end.
#[derive(Debug)]
pub(super) struct Passt {
    child: Child,
    /// What it says.
    words: File,
}

impl Passt {
    /// Has it started at its end of a [`socket_pair`], in the control group of its VM.
    pub(super) fn start(
        launcher: &Launcher,
        group: &ControlGroup,
        socket: UnixStream,
        endpoint: &Endpoint,
        ports: &[PublishedPort],
    ) -> anyhow::Result<Self> {
        let words = memfd_create("passt", MFdFlags::MFD_CLOEXEC)
            .map(File::from)
            .map_err(|error| host_error("create a file")(error.into()))?;
        let said = words.try_clone().map_err(host_error("share a file"))?;
        let child = launcher.passt(endpoint, ports, said.into(), socket.into(), group)?;
        Ok(Self { child, words })
    }

    /// Waits until it serves, all its ports bound: that is when it answers the [`greeting`].
    pub(super) fn wait(
        &mut self,
        launcher: &Launcher,
        socket: &UnixStream,
        ports: &[PublishedPort],
    ) -> Result<(), StartError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match self.read_frame(socket, deadline) {
                // What else may come is for the guest, which is not there yet.
                Ok(frame) if is_answer(&frame) => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    // What it has to say is said when it has ended.
                    self.kill(Some(launcher));
                    return Err(failure(&mut self.words, ports, &error));
                }
            }
        }
    }

    /// Reads one frame and not a byte more: what follows is the VM's.
    fn read_frame(&self, socket: &UnixStream, deadline: Instant) -> std::io::Result<Vec<u8>> {
        let read = |bytes: &mut [u8]| -> std::io::Result<()> {
            let mut done = 0;
            while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
                match (&mut &*socket).read(rest) {
                    Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => done += count,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        self.wait_for(socket, deadline)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        let mut length = [0; 4];
        read(&mut length)?;
        let length = usize::from(u16::try_from(u32::from_be_bytes(length)).unwrap_or(u16::MAX));
        let mut frame = vec![0; length];
        read(&mut frame)?;
        Ok(frame)
    }

    /// Waits until there is something to read; an error where it ends instead. Its end of the socket
    /// may be open elsewhere, so that its death alone is no end of the stream.
    fn wait_for(&self, socket: &UnixStream, deadline: Instant) -> std::io::Result<()> {
        let mut fds =
            [socket.as_fd(), self.child.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match nix::poll::poll(&mut fds, poll::timeout_until(Some(deadline))) {
            Ok(0) if Instant::now() >= deadline => Err(std::io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => Ok(()),
            Ok(_) => match fds.map(|fd| fd.any().unwrap_or(false)) {
                [false, true] => Err(std::io::Error::other("it has ended")),
                _ => Ok(()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// What it says, when it has ended though nobody wanted it to.
    pub(super) fn end_by_itself(&mut self) -> Option<StartError> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                let error = std::io::Error::other(format!("it ended with {status}"));
                Some(failure(&mut self.words, &[], &error))
            }
            _ => None,
        }
    }

    /// Waits for its end, which comes with that of its socket, and else has it ended.
    pub(super) fn end(&mut self, launcher: Option<&Launcher>) {
        let begun = Instant::now();
        while begun.elapsed() < END_TIMEOUT {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(END_POLL),
                _ => return,
            }
        }
        self.kill(launcher);
    }

    /// Root's has become another user, whom a supervisor that is shut in can't end.
    fn kill(&mut self, launcher: Option<&Launcher>) {
        let killed = self.child.kill().is_ok()
            || launcher.is_some_and(|launcher| launcher.kill(self.child.as_fd()).is_ok());
        if killed {
            let _ = self.child.wait();
        }
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// The VM's end, which does not block, and passt's.
pub(super) fn socket_pair() -> Result<(UnixStream, UnixStream), StartError> {
    let (ours, theirs) = UnixStream::pair().map_err(host_error("create a socket pair"))?;
    for socket in [&ours, &theirs] {
        enlarge(socket);
    }
    ours.set_nonblocking(true)
        .map_err(host_error("set up a socket"))?;
    Ok((ours, theirs))
}

/// As large as the user may: root any size, others up to `net.core.wmem_max`.
fn enlarge(socket: &UnixStream) {
    // Smaller ones are slower, and do.
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER_BYTES).is_err() {
        let _ = setsockopt(socket, sockopt::SndBuf, &BUFFER_BYTES);
    }
}

/// passt as it is executed: with the host's routes as they are now, since the host may have moved
/// since the container's start.
///
/// # Errors
/// [`StartError::Missing`].
pub(in super::super) fn program(
    endpoint: &Endpoint,
    ports: &[PublishedPort],
    words: OwnedFd,
    socket: OwnedFd,
) -> anyhow::Result<Program> {
    Ok(Program {
        path: find().ok_or(StartError::Missing)?,
        arguments: arguments(endpoint, GATEWAY_MAC, &Routes::read(), ports),
        stdout: None,
        stderr: words,
        descriptors: vec![socket],
        group: None,
    })
}

fn arguments(
    endpoint: &Endpoint,
    gateway_mac: [u8; 6],
    routes: &Routes,
    ports: &[PublishedPort],
) -> Vec<String> {
    let mut all: Vec<String> = [
        "--foreground",
        "--quiet",
        "--no-dhcp",
        "--no-dhcpv6",
        "--no-ra",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut option = |name: &str, value: String| all.extend([name.to_owned(), value]);
    option("--fd", FIRST_FD.to_string());
    option("--mtu", MTU.to_string());
    option("--mac-addr", mac_text(gateway_mac));
    option("--address", endpoint.v4.to_string());
    option("--netmask", endpoint.v4_prefix.to_string());
    option("--gateway", endpoint.gateway.v4.to_string());
    if endpoint.gateway.dns {
        option("--dns-forward", endpoint.gateway.v4.to_string());
    }
    if let Some(v6) = endpoint.v6 {
        option("--address", v6.to_string());
        option("--gateway", endpoint.gateway.v6.to_string());
    }
    // It looks for an interface with a default route; where there is none it must be told one.
    match (&routes.v4, &routes.v6) {
        (None, Some(name)) => option("--interface", name.clone()),
        (None, None) => option("--interface", "lo".to_owned()),
        (Some(_), _) => {}
    }
    for port in ports {
        let name = match port.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        option(name, specification(port));
    }
    if endpoint.v6.is_none() {
        all.push("--ipv4-only".to_owned());
    }
    all
}

/// `[ADDRESS/]PORT:PORT`.
fn specification(port: &PublishedPort) -> String {
    let address = port.host_ip.map_or(String::new(), |ip| format!("{ip}/"));
    format!("{address}{}:{}", port.host_port, port.container_port)
}

/// As `ip link` writes it.
#[must_use]
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What is sent for the guest ahead of it, whole: an announcement where there is IPv6, and who has
/// the gateway's address, which passt answers. From it passt learns the guest's Ethernet address,
/// without which no connection from outside would find the guest.
pub(super) fn greeting(endpoint: &Endpoint) -> Vec<u8> {
    let announcement = endpoint.v6.map(|_| announcement(endpoint));
    let mut bytes = Vec::new();
    for frame in announcement.into_iter().chain([question(endpoint)]) {
        bytes.extend(u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}

/// An ARP request for the gateway (RFC 826).
fn question(endpoint: &Endpoint) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(endpoint.mac);
    frame.extend([8, 6]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(endpoint.mac);
    frame.extend(endpoint.v4.octets());
    frame.extend([0; 6]);
    frame.extend(endpoint.gateway.v4.octets());
    frame
}

/// Whether a frame is an ARP reply (RFC 826). Since 2025-09 passt also asks for the guest by itself,
/// before its ports are bound.
fn is_answer(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 2])
}

/// A neighbor advertisement of the guest's link-local address (RFC 4861), to which passt sends what
/// comes from the host's loopback. It is not answered, and its checksum not looked at.
fn announcement(endpoint: &Endpoint) -> Vec<u8> {
    let own = endpoint.link_local().octets();
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(endpoint.mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
    frame.extend(own);
    frame.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    frame.extend(own);
    frame
}

/// Says in one sentence why passt does not serve.
fn failure(words: &mut File, ports: &[PublishedPort], error: &std::io::Error) -> StartError {
    let mut text = String::new();
    let _ = words
        .seek(SeekFrom::Start(0))
        .and_then(|_| words.take(WORDS_BYTES_MAX).read_to_string(&mut text));
    // A host without a system log has passt complain of it, and as root of that; the last is said
    // behind the reason.
    let idle = [
        "Failed to send ",
        "Don't run as root",
        "Started as root",
        "No external routable",
        "Can't run AVX2 build",
        "Couldn't listen on requested ports",
    ];
    let reason = text
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !idle.iter().any(|start| line.starts_with(start)));
    match reason {
        Some(line) if line.contains("user namespace") => StartError::NoUserNamespace,
        Some(line) => {
            port_failure(line, ports).unwrap_or_else(|| StartError::Failed(line.to_owned()))
        }
        None => StartError::Failed(format!("it does not answer: {error}")),
    }
}

/// What a line says of a port that could not be bound.
fn port_failure(line: &str, ports: &[PublishedPort]) -> Option<StartError> {
    let (port, cause) = unbound(line)?;
    let cause = cause.to_lowercase();
    let text = match ports.iter().find(|published| port.is(published)) {
        Some(port) => {
            let request = PortRequest {
                host_ip: port.host_ip,
                host_ports: None,
                container_port: port.container_port,
                protocol: port.protocol,
            };
            ports::refusal(&request, port.host_port, &cause)
        }
        None => line.to_owned(),
    };
    Some(match cause.as_str() {
        IN_USE => StartError::PortTaken(text),
        _ => StartError::PortRefused(text),
    })
}

/// The one cause for which another port may do.
const IN_USE: &str = "address already in use";

/// How passt names a port.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    /// Its option and what that is given.
    Option(&'a str, &'a str),
    /// Its protocol and number.
    Number(&'a str, u16),
}

impl Named<'_> {
    fn is(&self, port: &PublishedPort) -> bool {
        match *self {
            Self::Option(option, given) => {
                given == specification(port) && (option == "-u") == (port.protocol == Protocol::Udp)
            }
            Self::Number(protocol, number) => {
                number == port.host_port && protocol.eq_ignore_ascii_case(port.protocol.word())
            }
        }
    }
}

/// The port that passt could not bind, and why, as versions from 2023 to 2026 say it:
///
/// ```text
/// Failed to bind any port for '-t 8080:80', exiting
/// Failed to bind port 8080 (Address already in use) for option '-t 8080:80'
/// Listen failed for HOST TCP port 0.0.0.0/8080: Address already in use
/// ```
fn unbound(line: &str) -> Option<(Named<'_>, &str)> {
    if let Some(rest) = line.strip_prefix("Listen failed for HOST ") {
        let (protocol, rest) = rest.split_once(" port ")?;
        let (port, cause) = rest.split_once('/')?.1.split_once(": ")?;
        return Some((Named::Number(protocol, port.parse().ok()?), cause));
    }
    let rest = line.strip_prefix("Failed to bind ")?;
    // The oldest says no cause: it is this one, as all were probed before.
    let cause = match rest.starts_with("any port ") {
        true => IN_USE,
        false => rest.split_once('(')?.1.split_once(')')?.0,
    };
    let mut quoted = line.split('\'').nth(1)?.split_whitespace();
    Some((Named::Option(quoted.next()?, quoted.next()?), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [PublishedPort; 2] = [
        PublishedPort {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        },
        PublishedPort {
            host_ip: Some(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            host_port: 53,
            container_port: 5353,
            protocol: Protocol::Udp,
        },
    ];

    fn said(text: &str) -> StartError {
        let mut words = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut words, text.as_bytes()).unwrap();
        failure(&mut words, &PORTS, &std::io::ErrorKind::TimedOut.into())
    }

    #[test]
    fn a_port_that_is_taken_is_named_whatever_the_version() {
        let tcp = "0.0.0.0:8080:172.17.0.2:80/tcp: address already in use";
        let udp = "127.0.0.1:53:172.17.0.2:5353/udp: address already in use";
        for (text, end) in [
            (
                "Failed to send 47 bytes to syslog\nDon't run as root. Changing to nobody...\n\
                 Failed to send 67 bytes to syslog\nFailed to bind any port for '-t 8080:80', exiting\n",
                tcp,
            ),
            (
                "Started as root, will change to nobody.\n\
                 Failed to bind port 8080 (Address already in use) for option '-t 8080:80'\n",
                tcp,
            ),
            (
                "Failed to bind port 53 (Address already in use) for option '-u 127.0.0.1/53:5353'\n",
                udp,
            ),
            (
                "Started as root, will change to nobody.\n\
                 Listen failed for HOST TCP port 0.0.0.0/8080: Address already in use\n\
                 Couldn't listen on requested ports\n",
                tcp,
            ),
            (
                "Listen failed for HOST UDP port 127.0.0.1/53: Address already in use\n",
                udp,
            ),
        ] {
            let error = said(text);
            assert!(matches!(error, StartError::PortTaken(_)), "{error:?}");
            assert!(error.to_string().ends_with(end), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_that_may_not_be_had_is_not_taken() {
        for text in [
            "Listen failed for HOST UDP port 127.0.0.1/53: Permission denied\nCouldn't listen on requested ports",
            "Failed to bind port 53 (Permission denied) for option '-u 127.0.0.1/53:5353'",
        ] {
            let error = said(text);
            assert!(matches!(error, StartError::PortRefused(_)), "{error:?}");
            let text = error.to_string();
            assert!(
                text.contains(":5353/udp: permission denied\nhint: "),
                "{text}"
            );
        }
    }

    #[test]
    fn other_words_are_passts_own() {
        for (text, want) in [
            (
                "Can't run AVX2 build, using non-AVX2 version: x\nno\n\n",
                "passt: no",
            ),
            (
                "Failed to bind any port for what",
                "passt: Failed to bind any port for what",
            ),
            (
                "Listen failed for HOST TCP port 80",
                "passt: Listen failed for HOST TCP port 80",
            ),
            (
                "Started as root, will change to nobody.\n",
                "passt: it does not answer: timed out",
            ),
            ("", "passt: it does not answer: timed out"),
        ] {
            assert_eq!(said(text).to_string(), want, "{text}");
        }
        let error = said("Couldn't create user namespace: Operation not permitted");
        assert!(matches!(error, StartError::NoUserNamespace), "{error:?}");
    }

    #[test]
    fn only_a_reply_is_an_answer() {
        let mut frame = vec![0; 12];
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        assert!(is_answer(&frame));
        frame[21] = 1; // Its own question.
        assert!(!is_answer(&frame));
        assert!(!is_answer(&frame[..21]));
        frame[13] = 0; // IPv4.
        assert!(!is_answer(&frame));
    }
}
