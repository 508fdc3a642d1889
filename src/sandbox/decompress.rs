//! Decompresses an archive that the user brings, in a VM: nothing is decompressed on the host.
//!
//! Called by `load`, `import` and `build`. A thread hands the VM what comes, and the reader has what the VM
//! makes of it: a guest's bytes, for those who read archives of strangers. It knows no archive.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use images::archive::{MAGIC_LEN, compression_of};
use protocol::FIRST_STREAM_PORT;
use protocol::message::{Event, Request};

use super::access::Limited;
use super::agent::AgentError;
use super::disks;
use super::paths::{GuestFiles, Root};
use super::vm::RunningVm;

/// From the VM's first instruction to the agent's hello.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// From the end of the stream to the agent's word about it.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// vsock port of what is compressed.
const COMPRESSED: u32 = FIRST_STREAM_PORT;

/// vsock port of what it is.
const PLAIN: u32 = FIRST_STREAM_PORT + 1;

/// Bytes handed on at once.
const PIECE: usize = 256 << 10;

/// Reads `source`, through a VM where it begins as what is compressed.
///
/// # Errors
/// When it can't be read, or no VM can be started.
pub fn plain(root: &Root, mut source: impl Read + Send + 'static) -> Result<Box<dyn Read>> {
    let mut head = Vec::new();
    Read::by_ref(&mut source)
        .take(MAGIC_LEN)
        .read_to_end(&mut head)
        .context("read the archive")?;
    let program = compression_of(&head);
    let whole = Cursor::new(head).chain(source);
    let Some(program) = program else {
        return Ok(Box::new(whole));
    };
    let decompressed = Decompressed::start(root, whole).with_context(|| {
        format!("start a VM that decompresses the archive, which {program} compressed")
    })?;
    Ok(Box::new(decompressed))
}

/// What a VM makes of what is compressed.
struct Decompressed {
    stream: Limited<UnixStream>,
    /// Until it has ended.
    vm: Option<RunningVm>,
    log: File,
    /// Why the source could not be read to its end.
    unread: Receiver<std::io::Error>,
}

impl Decompressed {
    fn start(root: &Root, source: impl Read + Send + 'static) -> Result<Self> {
        let mut log = tempfile::tempfile().context("create the VM's log")?;
        let ports = vec![COMPRESSED, PLAIN];
        let guest = GuestFiles::find()?;
        let mut vm = disks::start_converter(root, &guest, disks::unused()?, ports, &log)?;
        let (Some(to), Some(stream)) = (vm.streams.remove(&COMPRESSED), vm.streams.remove(&PLAIN))
        else {
            bail!("the VM has no streams");
        };
        let request = Request::Decompress {
            compressed: COMPRESSED,
            plain: PLAIN,
        };
        let begun = vm.agent.greet(Some(Instant::now() + BOOT_TIMEOUT));
        if let Err(error) = begun.and_then(|()| Ok(vm.agent.send(&request)?)) {
            return Err(vm.post_mortem(&error, &mut log));
        }
        let (sender, unread) = channel();
        // Whoever reads no more leaves it to wait for its source, and both end with the command.
        thread::Builder::new()
            .name("compressed".to_owned())
            .spawn(move || feed(source, to, &sender))
            .context("start a thread")?;
        Ok(Self {
            stream: Limited::new(stream),
            vm: Some(vm),
            log,
            unread,
        })
    }

    /// What the agent says of the archive's end.
    fn end(&mut self, mut vm: RunningVm) -> Result<()> {
        let told = vm.agent.next(Some(Instant::now() + END_TIMEOUT));
        // To the guest that was the archive's end.
        if let Ok(error) = self.unread.try_recv() {
            return Err(error).context("read what is compressed");
        }
        match told {
            Ok(Event::Decompressed) => Ok(()),
            Ok(Event::Failed { message, .. }) => bail!(super::printable(&message)),
            Ok(other) => bail!(super::unexpected(&other)),
            Err(AgentError::Timeout) => Err(AgentError::Timeout.into()),
            Err(error) => Err(vm.post_mortem(&error.into(), &mut self.log)),
        }
    }
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = match self.stream.read(buffer) {
            // A VM that died with bytes on their way.
            Err(error) if super::has_gone_away(&error) => 0,
            other => other?,
        };
        if len == 0
            && !buffer.is_empty()
            && let Some(vm) = self.vm.take()
        {
            self.end(vm)
                .map_err(|error| std::io::Error::other(format!("{error:#}")))?;
        }
        Ok(len)
    }
}

/// Hands over all of `source`, until nobody takes it.
fn feed(mut source: impl Read, mut to: UnixStream, unread: &Sender<std::io::Error>) {
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => {
                if to.write_all(piece.get(..len).unwrap_or_default()).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                // Before the guest learns of an end.
                let _ = unread.send(error);
                break;
            }
        }
    }
    // Fails where the guest is gone.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails after some bytes.
    struct Broken(&'static [u8]);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other("the disk is broken")),
                len => Ok(len),
            }
        }
    }

    #[test]
    fn what_is_not_compressed_is_read_as_it_is() {
        let root = Root::at("/nonexistent".into());
        for bytes in [&b""[..], b"short", b"BZhello, a file of a plain archive"] {
            let mut out = Vec::new();
            plain(&root, bytes).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_source_that_breaks_is_told_before_its_end() {
        let (to, mut guest) = UnixStream::pair().unwrap();
        let (sender, unread) = channel();
        feed(Broken(b"head"), to, &sender);
        let mut out = Vec::new();
        guest.read_to_end(&mut out).unwrap();
        assert_eq!(out, b"head");
        assert_eq!(unread.try_recv().unwrap().to_string(), "the disk is broken");
    }

    #[test]
    fn nobody_who_takes_it_ends_the_feeding() {
        let (to, guest) = UnixStream::pair().unwrap();
        drop(guest);
        let (sender, unread) = channel();
        feed(std::io::repeat(b'x'), to, &sender);
        assert!(unread.try_recv().is_err());
    }
}
