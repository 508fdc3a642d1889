//! A registry that serves whatever bytes it is given under whatever names, and checks nothing: for images
//! that a real one would not take.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// Bytes of a request's head; ours have some hundred.
const HEAD_MAX: usize = 64 << 10;

/// What there is, by path: media type and content.
type Files = Arc<Mutex<BTreeMap<String, (String, Vec<u8>)>>>;

/// One that runs as long as the tests do.
pub struct ByteRegistry {
    port: u16,
    files: Files,
}

impl ByteRegistry {
    /// Starts one without content.
    ///
    /// # Errors
    ///
    /// There is no port left.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let port = listener.local_addr().context("listen")?.port();
        let files = Files::default();
        let shared = Arc::clone(&files);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = Arc::clone(&shared);
                // Who asks may go away at any time.
                thread::spawn(move || answer(&files, stream).unwrap_or_default());
            }
        });
        Ok(Self { port, files })
    }

    /// Has an image and no other; the name to pull it by. `digest` is the manifest's own.
    #[must_use]
    pub fn put(
        &self,
        tag: &str,
        digest: &str,
        manifest: (&str, &[u8]),
        blobs: &BTreeMap<String, Vec<u8>>,
    ) -> String {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.clear();
        let (media_type, bytes) = manifest;
        let mut add = |path: String, media_type: &str, bytes: &[u8]| {
            files.insert(
                format!("/v2/hostile/{path}"),
                (media_type.to_owned(), bytes.to_vec()),
            );
        };
        for (name, bytes) in blobs {
            add(format!("blobs/{name}"), "application/octet-stream", bytes);
            // Manifests that an index leads to.
            add(
                format!("manifests/{name}"),
                "application/vnd.oci.image.manifest.v1+json",
                bytes,
            );
        }
        add(format!("manifests/{tag}"), media_type, bytes);
        add(format!("manifests/{digest}"), media_type, bytes);
        format!("127.0.0.1:{}/hostile:{tag}", self.port)
    }
}

fn answer(files: &Files, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        // TLS is tried first, and hung up on.
        if stream.read(&mut byte)? == 0
            || byte == [0x16] && head.is_empty()
            || head.len() > HEAD_MAX
        {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = path.split('?').next().unwrap_or_default();
    let found = {
        let files = files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(path).cloned()
    };
    let (status, media_type, content) = match (path, found) {
        ("/v2/", _) => ("200 OK", "application/json".to_owned(), b"{}".to_vec()),
        (_, Some((media_type, content))) => ("200 OK", media_type, content),
        (_, None) => (
            "404 Not Found",
            "application/json".to_owned(),
            b"{}".to_vec(),
        ),
    };
    let reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    stream.write_all(reply.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(&content)?;
    }
    stream.flush()
}
