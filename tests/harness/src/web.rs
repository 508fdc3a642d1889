//! Files of this host over HTTP, for containers that fetch something.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Component, Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// When every file was changed, as the server says it.
const MODIFIED: &str = "Mon, 01 Jan 2024 00:00:00 GMT";

/// The host's own address, by which a container sees it.
///
/// # Errors
///
/// The host has no route.
pub fn host_address() -> Result<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket
        .connect("192.0.2.1:9")
        .context("this host has no route, which tests of networks need")?;
    match socket.local_addr()?.ip() {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(address) => bail!("{address} is no IPv4 address"),
    }
}

/// Serves the files of a folder over HTTP to whoever asks, as long as the tests run; the port.
///
/// # Errors
///
/// There is no port left.
pub fn serve(folder: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0").context("listen")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            thread::spawn(move || answer(&folder, stream));
        }
    });
    Ok(port)
}

fn answer(folder: &Path, mut stream: TcpStream) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("a request")??;
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let path = Path::new(path.trim_start_matches('/'));
    let is_below = |part| matches!(part, Component::Normal(_));
    ensure!(path.components().all(is_below), "a path beneath the folder");
    let mut file = folder.join(path);
    if file.is_dir() {
        file = file.join("index.html");
    }
    let kind = match file.extension() {
        Some(extension) if extension == "html" => "text/html",
        _ => "application/octet-stream",
    };
    let (status, mut content) = match fs::File::open(&file) {
        Ok(mut opened) => {
            let mut content = Vec::new();
            opened.read_to_end(&mut content)?;
            ("200 OK", content)
        }
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nLast-Modified: {MODIFIED}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    let mut all = head.into_bytes();
    all.append(&mut content);
    stream.write_all(&all)?;
    Ok(())
}
