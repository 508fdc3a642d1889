//! Frames between `lab` on this machine (`client`) and the exec server in the emulated host
//! (`server`): one TCP connection per command, three byte streams with credit each, and control
//! messages that are never stuck behind data. It opens no socket and runs nothing.
//!
//! ```text
//! client                                   server
//!   Hello{token, request} ------------------>
//!   <------------------------- Started | Refused
//!   Data(stdin) / End(stdin) --------------->    Credit(stdin, n): n bytes were written on
//!   <------------- Data|End(stdout, stderr)      Credit(stdout|stderr, n)
//!   Signal, Resize, Pulse ------------------>
//!   <-------------------------------- Exited     after all output
//! ```
//!
//! A frame is one tag byte, a big-endian u32 length, and so many bytes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Most data bytes in one frame. Large enough that headers don't matter.
pub(super) const MAX_DATA_BYTES: usize = 32 * 1024;

/// Bytes of one stream that may be under way unconfirmed: bounds what either side buffers.
pub(super) const WINDOW_BYTES: usize = 1024 * 1024;

/// Most bytes of a control message. Linux has at most 2 MiB of arguments and environment by
/// default, and JSON writes a byte as up to four characters.
const MAX_CONTROL_BYTES: usize = 8 * 1024 * 1024;

const CONTROL_TAG: u8 = 0xc0;

/// The three streams of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

impl Stream {
    const ALL: [Self; 3] = [Self::Stdin, Self::Stdout, Self::Stderr];

    fn tag(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Run a command.
    Run(Command),
    /// Write everything back and power off.
    PowerOff,
}

/// A command to run. Paths, arguments and variables are bytes, as Linux has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) arguments: Vec<Vec<u8>>,
    pub(super) environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) folder: Vec<u8>,
    /// A terminal of this size instead of three pipes.
    pub(super) terminal: Option<Size>,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) rows: u16,
    pub(super) columns: u16,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    Code(i32),
    Signal(i32),
}

/// Everything that is not data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Control {
    Hello {
        token: String,
        request: Request,
    },
    Started,
    /// It could not be started: the exit code to give and why.
    Refused {
        code: u8,
        reason: String,
    },
    /// No more data will come on this stream.
    End(Stream),
    /// The reader of this stream has gone: send no more.
    Gone(Stream),
    Credit(Stream, usize),
    Signal(i32),
    Resize(Size),
    /// Nothing: that it arrives is an interrupt, which the emulated host needs now and then.
    Pulse,
    Exited(Ending),
}

/// A message on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Data(Stream, Vec<u8>),
    Control(Control),
}

impl Frame {
    /// Writes the frame with one `write_all`, so frames of several threads don't mix.
    ///
    /// # Errors
    ///
    /// As the writer's.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Data(stream, bytes) => write_frame(to, stream.tag(), bytes),
            Self::Control(control) => write_frame(to, CONTROL_TAG, &serde_json::to_vec(control)?),
        }
    }

    /// Reads the next frame; `None` when the peer has closed between frames.
    ///
    /// # Errors
    ///
    /// The reader's, or `InvalidData` for an unknown tag, a length above the limit, or control
    /// that is not understood.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut tag = [0];
        loop {
            match from.read(&mut tag) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let [tag] = tag;
        let stream = Stream::ALL.into_iter().find(|stream| stream.tag() == tag);
        let limit = match stream {
            Some(_) => MAX_DATA_BYTES,
            None if tag == CONTROL_TAG => MAX_CONTROL_BYTES,
            None => return Err(invalid(format!("unknown frame tag {tag}"))),
        };
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length))
            .map_err(|error| invalid(error.to_string()))?;
        if length > limit {
            return Err(invalid(format!(
                "frame of {length} bytes, at most {limit} are allowed"
            )));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes)?;
        Ok(Some(match stream {
            Some(stream) => Self::Data(stream, bytes),
            None => Self::Control(serde_json::from_slice(&bytes)?),
        }))
    }
}

fn write_frame(to: &mut impl Write, tag: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|error| invalid(error.to_string()))?;
    let mut frame = Vec::with_capacity(bytes.len() + 5);
    frame.push(tag);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    to.write_all(&frame)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(frame: &Frame) -> Frame {
        let mut bytes = Vec::new();
        frame.write(&mut bytes).expect("write");
        Frame::read(&mut bytes.as_slice())
            .expect("read")
            .expect("frame")
    }

    #[test]
    fn frames_survive_the_wire() {
        let run = Request::Run(Command {
            arguments: vec![b"cat".to_vec(), vec![0xff, 0xfe]],
            environment: vec![(b"A".to_vec(), b"b=c".to_vec())],
            folder: b"/tmp".to_vec(),
            terminal: Some(Size {
                rows: 24,
                columns: 80,
            }),
        });
        for frame in [
            Frame::Data(Stream::Stdin, vec![0, 1, 255]),
            Frame::Data(Stream::Stderr, Vec::new()),
            Frame::Control(Control::Hello {
                token: "t".into(),
                request: run,
            }),
            Frame::Control(Control::Credit(Stream::Stdout, 7)),
            Frame::Control(Control::Exited(Ending::Signal(9))),
        ] {
            assert_eq!(read_back(&frame), frame);
        }
    }

    #[test]
    fn a_close_between_frames_is_the_end_and_within_one_an_error() {
        assert_eq!(Frame::read(&mut [].as_slice()).expect("end"), None);
        let error = Frame::read(&mut [1, 0, 0, 0, 9, 1].as_slice()).expect_err("cut short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn unknown_tags_and_long_frames_are_refused() {
        for bytes in [
            &[9, 0, 0, 0, 0][..],
            &[1, 0, 0, 0x80, 1][..],
            &[CONTROL_TAG, 0xff, 0, 0, 0][..],
        ] {
            assert_eq!(
                Frame::read(&mut &*bytes).expect_err("refused").kind(),
                io::ErrorKind::InvalidData
            );
        }
    }
}
