//! `traffic`: a static program that benchmarks of networks run in guests, ours and peers', so that
//! all have the same program at their end. It must not know who measures what.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

const USAGE: &str = "usage:
  traffic send ADDRESS:PORT COUNT  connect, write COUNT bytes, wait until all are taken
  traffic receive ADDRESS:PORT     connect, read to the end
  traffic web PORT                 answer every HTTP request with `hello`";

/// What is read or written at once.
const CHUNK_BYTES: usize = 256 << 10;

/// The answer to everything (RFC 9112); connections persist.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> io::Result<()> {
    let invalid = |what: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidInput, what.to_string())
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["send", to, count] => send(to, count.parse().map_err(|error| invalid(&error))?),
        ["receive", from] => receive(from),
        ["web", port] => web(port.parse().map_err(|error| invalid(&error))?),
        _ => Err(invalid(&USAGE)),
    }
}

fn send(to: &str, count: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let chunk = vec![0; CHUNK_BYTES];
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        stream.write_all(&chunk[..now])?;
        left -= now as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The other side closes when it has read all.
    drain(&mut stream)
}

fn receive(from: &str) -> io::Result<()> {
    drain(&mut TcpStream::connect(from)?)
}

fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    while stream.read(&mut chunk)? > 0 {}
    Ok(())
}

fn web(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // Whose connection breaks is nobody else's matter.
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

/// Answers requests without a body until the connection ends.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        // The empty line ends a request.
        if line?.is_empty() {
            stream.write_all(ANSWER)?;
        }
    }
    Ok(())
}
