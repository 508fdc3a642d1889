//! An agent that lies: booted by the guest's kernel in the agent's place, it says to the host what
//! the protocol forbids, or what it allows and is not true.
//!
//! `tests/vm/agents.rs` writes its orders into [`ORDERS`]. Of the real agent it has the messages
//! only.
#![no_main]
// System calls without a wrapper, and the start of a program without Rust's own (see the agent's).
#![allow(unsafe_code)]

mod archives;
mod serve;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::time::Duration;

use protocol::frame::MAX_FRAME;
use protocol::message::{Event, ExitStatus, FailureKind, Request};
use protocol::task::Outcome;
use protocol::{CONTROL_PORT, FIRST_STREAM_PORT, HOST_CID, PROTOCOL_VERSION};

/// Where the tests find the orders: this text, then 48 bytes `MODE`, blanks at the end.
static ORDERS: [u8; 64] = *b"bulkhead-orders:silent                                          ";

/// Length of the text that marks them.
const MARK: usize = 16;

/// Bytes written at once by what floods.
const CHUNK: usize = 64 << 10;

/// What was said may still be on its way to a busy host.
const PATIENCE: Duration = Duration::from_secs(10);

/// The C runtime's entry point.
// SAFETY: no other object of the program defines `main`, and the signature is C's.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> std::ffi::c_int {
    // SAFETY: a static of plain bytes, which the tests have changed in the file.
    let orders = unsafe { std::ptr::read_volatile(&raw const ORDERS) };
    let text = String::from_utf8_lossy(&orders[MARK..]).into_owned();
    let mut control = connect(CONTROL_PORT).map(Control);
    let lied = match &mut control {
        Ok(control) => lie(control, text.trim()),
        Err(error) => Err(std::io::Error::other(error.to_string())),
    };
    if let Err(error) = lied {
        let _ = writeln!(console(), "hostile: {error}");
    }
    // The host ends a VM that breaks the protocol; where it does not, this does. The connection stays
    // meanwhile: a busy host may hear of its end before it has read what was said.
    std::thread::sleep(PATIENCE);
    reboot()
}

/// Ends the VM.
fn reboot() -> std::ffi::c_int {
    // SAFETY: nothing is to be kept.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) }
}

fn console() -> Box<dyn Write> {
    match File::options().write(true).open("/dev/console") {
        Ok(file) => Box::new(file),
        Err(_) => Box::new(std::io::sink()),
    }
}

/// Connects to a port of the host.
fn connect(port: u32) -> std::io::Result<File> {
    for _ in 0..5000 {
        // SAFETY: makes a descriptor; nothing is passed by pointer.
        let socket =
            unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it, for nobody else.
        let file = unsafe { File::from_raw_fd(socket) };
        // SAFETY: all bits zero is a valid sockaddr_vm.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK.try_into().unwrap_or_default();
        address.svm_port = port;
        address.svm_cid = HOST_CID;
        let len = size_of_val(&address).try_into().unwrap_or_default();
        // SAFETY: a whole sockaddr_vm with its length, which lives over the call.
        if unsafe { libc::connect(socket, (&raw const address).cast(), len) } == 0 {
            return Ok(file);
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::ENODEV) {
            return Err(std::io::Error::last_os_error());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(std::io::Error::other("no vsock device"))
}

/// The control connection.
struct Control(File);

impl Control {
    fn say(&mut self, event: &Event) -> std::io::Result<()> {
        let bytes = serde_json::to_vec(event)?;
        self.whole(&bytes)
    }

    /// A frame that tells this length, whatever it has.
    fn frame(&mut self, len: usize, bytes: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.0.write_all(&len.to_le_bytes())?;
        self.0.write_all(bytes)
    }

    /// A frame of these bytes.
    fn whole(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.frame(bytes.len(), bytes)
    }

    fn hello(&mut self, version: u32, kernel: &str) -> std::io::Result<()> {
        self.say(&Event::Hello {
            version,
            kernel: kernel.to_owned(),
            boottime_ns: u64::MAX,
        })
    }

    /// Reads a request.
    fn request(&mut self) -> std::io::Result<Request> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let mut bytes = Vec::new();
        let len = u64::from(u32::from_le_bytes(len));
        (&mut self.0).take(len).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Ends the VM when it is asked to, and for nothing else.
    fn until_shutdown(&mut self) -> std::io::Result<()> {
        while !matches!(self.request()?, Request::Shutdown) {}
        reboot();
        Ok(())
    }

    /// As an agent that runs what it was asked to.
    fn started(&mut self) -> std::io::Result<()> {
        self.hello(PROTOCOL_VERSION, "hostile")?;
        self.request()?;
        self.request()?;
        self.say(&Event::Started {
            process: 0,
            boottime_ns: 1,
        })
    }
}

fn exited(process: u32, status: ExitStatus) -> Event {
    Event::Exited {
        process,
        status,
        oom_killed: true,
    }
}

fn failed(message: String) -> Event {
    Event::Failed {
        process: 0,
        kind: FailureKind::Other,
        message,
    }
}

/// As long as a frame may be, with what moves a terminal's cursor.
fn long() -> String {
    "\u{1b}[2J\r\n".repeat(MAX_FRAME / 32)
}

/// The process's output ends, as it should.
fn streams_end() {
    for port in FIRST_STREAM_PORT..FIRST_STREAM_PORT + 3 {
        drop(connect(port));
    }
}

/// Does what the orders name.
#[allow(clippy::too_many_lines)] // a line or two for each lie
fn lie(control: &mut Control, mode: &str) -> std::io::Result<()> {
    let version = PROTOCOL_VERSION;
    if let Some(lie) = mode.strip_prefix("serve ") {
        return serve::serve(control, lie);
    }
    match mode {
        // Frames that are none.
        "too-long" => control.frame(MAX_FRAME + 1, b"{}"),
        "longest" => control.frame(usize::MAX, b"{}"),
        "cut" => {
            control.frame(1000, b"{\"hello\"")?;
            reboot();
            Ok(())
        }
        "empty" => control.whole(b""),
        "unknown" => control.whole(b"{\"surrender\":{}}"),
        "deep" => control.whole(&vec![b'['; MAX_FRAME]),
        "not-text" => control.whole(&[0xff; 8]),
        "wrong-type" => control.whole(b"{\"hello\":{\"version\":\"7\"}}"),
        "code-300" => {
            control.started()?;
            let bytes = br#"{"exited":{"process":0,"status":{"code":300},"oom_killed":false}}"#;
            control.whole(bytes)
        }
        // Events out of order.
        "exited-first" => control.say(&exited(0, ExitStatus::Code(0))),
        "exited-before-started" => {
            control.hello(version, "hostile")?;
            control.say(&exited(0, ExitStatus::Code(0)))
        }
        "started-first" => control.say(&Event::Started {
            process: 0,
            boottime_ns: 0,
        }),
        "hello-twice" => {
            control.hello(version, "hostile")?;
            control.hello(version, &long())
        }
        "other-version" => control.hello(version + 1, &long()),
        "started-twice" => {
            control.started()?;
            control.say(&Event::Started {
                process: 0,
                boottime_ns: 0,
            })
        }
        "nobody-exited" => {
            control.started()?;
            control.say(&exited(77, ExitStatus::Code(0)))
        }
        "nobody-started" => {
            control.started()?;
            control.say(&Event::Started {
                process: u32::MAX,
                boottime_ns: 0,
            })
        }
        "frozen" => {
            control.started()?;
            control.say(&Event::Frozen(true))
        }
        "clock" => {
            control.started()?;
            control.say(&Event::Clock(u64::MAX))
        }
        "updated" => {
            control.started()?;
            control.say(&Event::Updated(Some(long())))
        }
        "task-ended" => {
            control.started()?;
            control.say(&Event::TaskEnded {
                id: u32::MAX,
                outcome: Outcome::Failed {
                    kind: FailureKind::Other,
                    message: long(),
                },
            })
        }
        "held" => {
            control.hello(version, "hostile")?;
            control.say(&Event::Held)
        }
        "converting" => {
            control.started()?;
            control.say(&Event::Converting { bytes: u64::MAX })
        }
        "bye" => {
            control.started()?;
            control.say(&Event::Bye)
        }
        // Sentences that are none.
        "long-failure" => {
            control.hello(version, "hostile")?;
            control.request()?;
            control.say(&failed(long()))
        }
        // Exit codes of a process that never was.
        "code-3" | "code-3-twice" | "signal-255" => {
            control.started()?;
            let status = match mode {
                "signal-255" => ExitStatus::Signal(255),
                _ => ExitStatus::Code(3),
            };
            control.say(&exited(0, status))?;
            if mode == "code-3-twice" {
                control.say(&exited(0, ExitStatus::Code(0)))?;
            }
            streams_end();
            control.until_shutdown()
        }
        "bye-before-output" => {
            control.started()?;
            let mut output = connect(FIRST_STREAM_PORT + 1)?;
            control.say(&exited(0, ExitStatus::Code(6)))?;
            control.say(&Event::Bye)?;
            std::thread::sleep(Duration::from_secs(1));
            output.write_all(b"late\n")?;
            drop(output);
            streams_end();
            Ok(())
        }
        // Floods.
        "output" => {
            control.started()?;
            let mut output = connect(FIRST_STREAM_PORT + 1)?;
            let chunk = vec![b'x'; CHUNK];
            loop {
                output.write_all(&chunk)?;
            }
        }
        "log" => {
            control.started()?;
            let line = "y".repeat(1000) + "\n";
            for _ in 0..6 << 10 {
                console().write_all(line.as_bytes())?;
            }
            control.say(&exited(0, ExitStatus::Code(4)))?;
            streams_end();
            control.until_shutdown()
        }
        "ports" => {
            control.started()?;
            let mut taken = Vec::new();
            for port in (0..3000).chain([u32::MAX]) {
                taken.extend(connect(port).ok());
            }
            let text = format!("hostile: {} more connections\n", taken.len());
            console().write_all(text.as_bytes())?;
            control.say(&exited(0, ExitStatus::Code(5)))?;
            drop(taken);
            control.until_shutdown()
        }
        "events" => {
            control.started()?;
            // Each is one that a container of which nothing was asked can't send; sent at once, so
            // that the host has many to read when it sees the first.
            loop {
                control.say(&failed("x".repeat(1000)))?;
            }
        }
        _ => Ok(()),
    }
}
