//! A registry that goes wrong on purpose: serves an OCI layout over the distribution API, with
//! one fault. It also keeps a record of what it was asked, so that a test sees whether a pull
//! resumes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use fixtures::oci;
use serde_json::Value;

use crate::POLL_INTERVAL;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every request is answered with this status.
    Status(u16),
    /// Layers are answered with this status, all else is fine.
    LayerStatus(u16),
    /// The connection ends after half of each layer.
    HalfLayers,
    /// Layers have the right length and one wrong byte.
    WrongByte,
    /// Layers are longer than the manifest says.
    ExtraBytes,
    /// The manifest is this long.
    LongManifest(usize),
    /// Layers come in small pieces with a pause after each, until the test lets go.
    Slow,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`.
    pub method: String,
    /// The path.
    pub path: String,
    /// First byte that a `Range` asked for.
    pub first_byte: Option<u64>,
}

/// The registry. Dropped, it ends.
pub struct FaultyRegistry {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    layout: PathBuf,
    fault: Mutex<Fault>,
    requests: Mutex<Vec<Request>>,
    ended: AtomicBool,
}

impl FaultyRegistry {
    /// Serves the layout in `folder`, under any name; tags are the layout's names.
    ///
    /// # Errors
    ///
    /// There is no port.
    pub fn start(folder: &Path, fault: Fault) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let port = listener.local_addr().context("listen")?.port();
        let shared = Arc::new(Shared {
            layout: folder.to_owned(),
            fault: Mutex::new(fault),
            requests: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if serving.ended.load(Ordering::Relaxed) {
                    break;
                }
                let serving = Arc::clone(&serving);
                thread::spawn(move || serving.serve(socket));
            }
        });
        Ok(Self { port, shared })
    }

    /// The full name of an image in it.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Changes what goes wrong from now on.
    pub fn set_fault(&self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer.
struct Reply {
    status: u16,
    media_type: String,
    body: Vec<u8>,
    /// Place of the body in the whole, for a `Range`.
    first_byte: Option<(u64, u64)>,
    pace: Pace,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Whole,
    Half,
    Slow,
}

impl Reply {
    fn status(status: u16) -> Self {
        let body = serde_json::json!({"errors": [{"code": "UNKNOWN", "message": "on purpose"}]});
        Self {
            status,
            media_type: "application/json".into(),
            body: body.to_string().into_bytes(),
            first_byte: None,
            pace: Pace::Whole,
        }
    }

    fn found(media_type: &str, body: Vec<u8>) -> Self {
        Self {
            status: 200,
            media_type: media_type.into(),
            body,
            first_byte: None,
            pace: Pace::Whole,
        }
    }
}

impl Shared {
    /// One connection: requests until it ends. Errors are the client's leaving.
    fn serve(&self, socket: TcpStream) {
        let Ok(reader) = socket.try_clone() else {
            return;
        };
        let mut reader = BufReader::new(reader);
        while let Some(request) = read_request(&mut reader) {
            lock(&self.requests).push(request.clone());
            let reply = self.answer(&request);
            if self.send(&socket, &request, &reply).is_err() || reply.pace == Pace::Half {
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let fault = *lock(&self.fault);
        if let Fault::Status(status) = fault {
            return Reply::status(status);
        }
        if request.path == "/v2/" {
            return Reply::found("application/json", b"{}".to_vec());
        }
        let parts: Vec<_> = request
            .path
            .trim_start_matches("/v2/")
            .rsplitn(3, '/')
            .collect();
        match parts.as_slice() {
            [reference, "manifests", _] => self.manifest(reference, fault),
            [digest, "blobs", _] => self.blob(digest, request, fault),
            _ => Reply::status(404),
        }
    }

    fn manifest(&self, reference: &str, fault: Fault) -> Reply {
        if let Fault::LongManifest(length) = fault {
            let mut body = br#"{"schemaVersion":2,"annotations":{"pad":""#.to_vec();
            body.resize(length, b'x');
            return Reply::found(oci::MANIFEST, body);
        }
        let digest = if reference.starts_with("sha256:") {
            Some(reference.to_owned())
        } else {
            self.tagged(reference)
        };
        match digest.and_then(|digest| self.read(&digest)) {
            Some(body) => Reply::found(oci::MANIFEST, body),
            None => Reply::status(404),
        }
    }

    /// The digest of the image whose name in the layout ends with this tag.
    fn tagged(&self, tag: &str) -> Option<String> {
        let index = fs::read(self.layout.join("index.json")).ok()?;
        let index: Value = serde_json::from_slice(&index).ok()?;
        let entry = index["manifests"].as_array()?.iter().find(|entry| {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
            name.is_some_and(|name| name.ends_with(&format!(":{tag}")))
        })?;
        Some(entry["digest"].as_str()?.to_owned())
    }

    fn read(&self, digest: &str) -> Option<Vec<u8>> {
        let hex = digest.strip_prefix("sha256:")?;
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        fs::read(self.layout.join("blobs/sha256").join(hex)).ok()
    }

    fn blob(&self, digest: &str, request: &Request, fault: Fault) -> Reply {
        let Some(mut body) = self.read(digest) else {
            return Reply::status(404);
        };
        // Configurations are JSON; faults are for layers.
        let is_layer = body.first() != Some(&b'{');
        let mut pace = Pace::Whole;
        if is_layer {
            match fault {
                Fault::LayerStatus(status) => return Reply::status(status),
                Fault::WrongByte => body[0] ^= 1,
                Fault::ExtraBytes => body.extend_from_slice(b"more than was said"),
                Fault::HalfLayers => pace = Pace::Half,
                Fault::Slow => pace = Pace::Slow,
                Fault::None | Fault::Status(_) | Fault::LongManifest(_) => {}
            }
        }
        let total = body.len() as u64;
        let mut reply = Reply::found("application/octet-stream", body);
        reply.pace = pace;
        if let Some(first) = request.first_byte.filter(|first| *first < total) {
            reply.status = 206;
            reply
                .body
                .drain(..usize::try_from(first).unwrap_or(usize::MAX));
            reply.first_byte = Some((first, total));
        }
        reply
    }

    fn send(
        &self,
        mut socket: &TcpStream,
        request: &Request,
        reply: &Reply,
    ) -> std::io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} on-purpose\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Docker-Distribution-Api-Version: registry/2.0\r\nAccept-Ranges: bytes\r\n",
            reply.status,
            reply.media_type,
            reply.body.len()
        );
        if let Some((first, total)) = reply.first_byte {
            head.push_str(&format!(
                "Content-Range: bytes {first}-{}/{total}\r\n",
                total - 1
            ));
        }
        if reply.media_type == oci::MANIFEST {
            let digest = oci::sha256_hex(&reply.body);
            head.push_str(&format!("Docker-Content-Digest: sha256:{digest}\r\n"));
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            return Ok(());
        }
        match reply.pace {
            Pace::Whole => socket.write_all(&reply.body),
            Pace::Half => socket.write_all(&reply.body[..reply.body.len() / 2]),
            Pace::Slow => self.drip(socket, &reply.body),
        }
    }

    /// Half at once, then little by little as long as the fault stays.
    fn drip(&self, mut socket: &TcpStream, body: &[u8]) -> std::io::Result<()> {
        const PIECE_BYTES: usize = 1024;
        const PAUSE: Duration = POLL_INTERVAL;
        let (half, rest) = body.split_at(body.len() / 2);
        socket.write_all(half)?;
        for piece in rest.chunks(PIECE_BYTES) {
            if *lock(&self.fault) == Fault::Slow {
                thread::sleep(PAUSE);
            }
            socket.write_all(piece)?;
        }
        Ok(())
    }
}

/// `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|count| *count > 0)?;
    let mut words = line.split_ascii_whitespace();
    let mut request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        first_byte: None,
    };
    loop {
        let mut header = String::new();
        reader
            .read_line(&mut header)
            .ok()
            .filter(|count| *count > 0)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            return Some(request);
        }
        if let Some(range) = header.strip_prefix("range: bytes=") {
            request.first_byte = range.split('-').next()?.parse().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn ask(registry: &FaultyRegistry, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, registry.port)).expect("connect");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").expect("ask");
        socket.shutdown(Shutdown::Write).expect("shutdown");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("read");
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("head");
        let body = answer.split_off(end + 4);
        (String::from_utf8(answer).expect("head"), body)
    }

    #[test]
    fn a_layout_is_served_and_faults_are_faults() {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut layout = oci::Layout::create(folder.path()).expect("layout");
        let layer = layout
            .layer(&b"a layer's bytes"[..], oci::Compression::None)
            .expect("layer");
        let config = oci::ImageConfig::new(serde_json::json!({}));
        layout
            .image("x:latest", &config, std::slice::from_ref(&layer))
            .expect("image");
        layout.finish().expect("finish");

        let registry = FaultyRegistry::start(folder.path(), Fault::None).expect("start");
        let (head, manifest) = ask(&registry, "/v2/any/name/manifests/latest", "");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(String::from_utf8_lossy(&manifest).contains(&layer.descriptor.digest));
        let blob = format!("/v2/x/blobs/{}", layer.descriptor.digest);
        assert_eq!(ask(&registry, &blob, "").1, b"a layer's bytes");
        let (head, rest) = ask(&registry, &blob, "Range: bytes=8-\r\n");
        assert!(
            head.contains("206") && head.contains("bytes 8-14/15"),
            "{head}"
        );
        assert_eq!(rest, b"s bytes");
        assert_eq!(
            registry.requests().last().expect("request").first_byte,
            Some(8)
        );

        registry.set_fault(Fault::HalfLayers);
        assert_eq!(ask(&registry, &blob, "").1, b"a layer");
        registry.set_fault(Fault::WrongByte);
        assert_eq!(ask(&registry, &blob, "").1, b"` layer's bytes");
        registry.set_fault(Fault::LayerStatus(500));
        assert!(ask(&registry, &blob, "").0.starts_with("HTTP/1.1 500"));
        registry.set_fault(Fault::LongManifest(5000));
        assert_eq!(ask(&registry, "/v2/x/manifests/latest", "").1.len(), 5000);
        assert!(
            ask(&registry, "/elsewhere", "")
                .0
                .starts_with("HTTP/1.1 404")
        );
    }
}
