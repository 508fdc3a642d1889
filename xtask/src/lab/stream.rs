//! Byte streams over a connection, with credit: `pump` sends what is read here, `Sink` writes
//! what arrives here. `client` and `server` call both; neither knows whose stream it is.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::wire::{Control, Frame, MAX_DATA_BYTES, Stream, WINDOW_BYTES};

/// The sending half of a connection, for many threads.
#[derive(Clone)]
pub(super) struct Link {
    socket: Arc<Mutex<TcpStream>>,
}

impl Link {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket: Arc::new(Mutex::new(socket)),
        }
    }

    /// Sends a frame whole.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub(super) fn send(&self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut *lock(&self.socket))
    }

    pub(super) fn control(&self, control: Control) -> io::Result<()> {
        self.send(&Frame::Control(control))
    }
}

/// How much may still be sent on a stream.
#[derive(Clone)]
pub(super) struct Credit {
    state: Arc<(Mutex<State>, Condvar)>,
}

enum State {
    Open { bytes: usize },
    Gone,
}

impl Credit {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::new((
                Mutex::new(State::Open {
                    bytes: WINDOW_BYTES,
                }),
                Condvar::new(),
            )),
        }
    }

    /// The peer has taken `count` more bytes.
    pub(super) fn add(&self, count: usize) {
        if let State::Open { bytes } = &mut *lock(&self.state.0) {
            *bytes = bytes.saturating_add(count);
        }
        self.state.1.notify_all();
    }

    /// The peer takes no more.
    pub(super) fn close(&self) {
        *lock(&self.state.0) = State::Gone;
        self.state.1.notify_all();
    }

    /// Waits until something may be sent; `None` when the peer takes no more.
    fn wait(&self) -> Option<usize> {
        let mut state = lock(&self.state.0);
        loop {
            match *state {
                State::Gone => return None,
                State::Open { bytes } if bytes > 0 => return Some(bytes),
                State::Open { .. } => {
                    state = self
                        .state
                        .1
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    /// Takes `count` bytes off; false when the peer takes no more.
    fn spend(&self, count: usize) -> bool {
        match &mut *lock(&self.state.0) {
            State::Gone => false,
            State::Open { bytes } => {
                *bytes = bytes.saturating_sub(count);
                true
            }
        }
    }
}

/// Sends all that `source` gives, then the end. Returns when there is no more to read, nobody
/// to take it, or the connection is gone.
pub(super) fn pump(mut source: impl Read, stream: Stream, link: &Link, credit: &Credit) {
    let mut buffer = vec![0; MAX_DATA_BYTES];
    while let Some(allowed) = credit.wait() {
        let room = allowed.min(MAX_DATA_BYTES);
        let count = match source.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal's master reads EIO once its last user has closed it: that is its end.
            Err(_) => break,
        };
        if !credit.spend(count)
            || link
                .send(&Frame::Data(stream, buffer[..count].to_vec()))
                .is_err()
        {
            return;
        }
    }
    // A lost connection is noticed by whoever reads from it.
    let _ = link.control(Control::End(stream));
}

/// A thread that writes what arrives on a stream.
pub(super) struct Sink {
    arriving: Option<Sender<Vec<u8>>>,
    writer: JoinHandle<()>,
}

impl Sink {
    /// Writes into `target`, confirms to the peer, and calls `ended` at the end of the stream.
    pub(super) fn new<W>(
        mut target: W,
        stream: Stream,
        link: Link,
        ended: impl FnOnce(W) + Send + 'static,
    ) -> Self
    where
        W: Write + Send + 'static,
    {
        let (arriving, received): (_, Receiver<Vec<u8>>) = mpsc::channel();
        let writer = thread::spawn(move || {
            let mut broken = false;
            for bytes in received {
                if broken {
                    continue;
                }
                match target.write_all(&bytes).and_then(|()| target.flush()) {
                    Ok(()) => {
                        let _ = link.control(Control::Credit(stream, bytes.len()));
                    }
                    Err(_) => {
                        broken = true;
                        let _ = link.control(Control::Gone(stream));
                    }
                }
            }
            ended(target);
        });
        Self {
            arriving: Some(arriving),
            writer,
        }
    }

    /// Takes bytes; never waits (the peer's credit bounds what piles up).
    pub(super) fn push(&self, bytes: Vec<u8>) {
        if let Some(arriving) = &self.arriving {
            // The writer only ends after the sender is dropped.
            let _ = arriving.send(bytes);
        }
    }

    /// No more bytes will come.
    pub(super) fn end(&mut self) {
        self.arriving = None;
    }

    /// Ends, and waits until everything has been written.
    pub(super) fn finish(mut self) {
        self.end();
        let _ = self.writer.join();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics with a lock held; and if it did, the guarded values are whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Two ends of a connection on the loopback.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        (near, far)
    }

    #[test]
    fn a_pump_stops_at_the_window_until_credit_comes() {
        let (near, mut far) = connection();
        let credit = Credit::new();
        let pump_credit = credit.clone();
        let total = WINDOW_BYTES + 10;
        let sender = thread::spawn(move || {
            pump(
                io::repeat(b'x').take(total as u64),
                Stream::Stdout,
                &Link::new(near),
                &pump_credit,
            );
        });
        let mut seen = 0;
        while seen < WINDOW_BYTES {
            let Some(Frame::Data(Stream::Stdout, bytes)) = Frame::read(&mut far).expect("read")
            else {
                panic!("no data")
            };
            seen += bytes.len();
        }
        assert_eq!(seen, WINDOW_BYTES);
        far.set_nonblocking(true).expect("nonblocking");
        assert_eq!(
            far.peek(&mut [0]).expect_err("nothing more").kind(),
            io::ErrorKind::WouldBlock
        );
        far.set_nonblocking(false).expect("blocking");
        credit.add(100);
        assert_eq!(
            Frame::read(&mut far).expect("read"),
            Some(Frame::Data(Stream::Stdout, vec![b'x'; 10]))
        );
        assert_eq!(
            Frame::read(&mut far).expect("read"),
            Some(Frame::Control(Control::End(Stream::Stdout)))
        );
        sender.join().expect("join");
    }

    #[test]
    fn a_sink_confirms_what_it_wrote_and_tells_when_its_reader_has_gone() {
        let (near, mut far) = connection();
        let (mut reader, writer) = io::pipe().expect("pipe");
        let sink = Sink::new(writer, Stream::Stderr, Link::new(near), drop);
        sink.push(b"abc".to_vec());
        assert_eq!(
            Frame::read(&mut far).expect("read"),
            Some(Frame::Control(Control::Credit(Stream::Stderr, 3)))
        );
        let mut bytes = [0; 3];
        reader.read_exact(&mut bytes).expect("read");
        assert_eq!(&bytes, b"abc");
        drop(reader);
        // A child of another test may have it until it executes its program.
        let confirmed = Some(Frame::Control(Control::Credit(Stream::Stderr, 4)));
        let last = loop {
            sink.push(b"lost".to_vec());
            let frame = Frame::read(&mut far).expect("read");
            if frame != confirmed {
                break frame;
            }
        };
        assert_eq!(last, Some(Frame::Control(Control::Gone(Stream::Stderr))));
        sink.finish();
    }
}
