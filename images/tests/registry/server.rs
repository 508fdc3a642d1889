//! A registry that does whatever a test wants, over plain TCP or TLS: one request a connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sample::{Sample, hex, sha};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the server hung up before it had read the body, and so before it replied.
    pub(crate) is_cut: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What comes after the head of a reply.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// All of it, with its length.
    Whole(Vec<u8>),
    /// A length, and fewer bytes than that before the connection ends.
    Cut(usize, Vec<u8>),
    /// No length: bytes until the connection ends.
    UntilClose(Vec<u8>),
    /// The same bytes again and again, until the client has had enough.
    Endless(&'static [u8]),
    /// A length, some bytes, and then nothing until the client has had enough.
    Stalled(usize, Vec<u8>),
    /// A length, and a byte now and then until the client has had enough.
    Trickle(usize),
}

/// From one byte of a trickle to the next.
const TRICKLE: Duration = Duration::from_millis(10);

/// A reply.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Body) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
        }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, Body::Whole(body.into()))
    }

    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{code} it is\"}}]}}");
        Self::new(status, Body::Whole(body.into_bytes()))
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn redirect(location: &str) -> Self {
        Self::new(307, Body::Whole(Vec::new())).with("Location", location)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// How the body of a request is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All of it.
    Whole,
    /// So many bytes, and then the connection ends without a reply.
    Cut(usize),
    /// So many bytes, and then nothing until the client has had enough.
    Stalled(usize),
    /// So many bytes, nothing for a while, and then the rest.
    Paused(usize),
}

/// How long a server that pauses does.
pub(crate) const PAUSE: Duration = Duration::from_millis(1500);

type Reader = dyn Fn(&Request) -> Reading + Send + Sync;

/// What a server does with requests.
#[derive(Clone)]
struct Behaviour {
    reader: Arc<Reader>,
    handler: Arc<Handler>,
}

/// A running server; dropping it stops it.
pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(None, |_| Reading::Whole, handler)
    }

    /// One that reads the bodies of requests as `reader` says of their heads.
    pub(crate) fn start_reading(
        reader: impl Fn(&Request) -> Reading + Send + Sync + 'static,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::run(None, reader, handler)
    }

    pub(crate) fn start_tls(
        tls: rustls::ServerConfig,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::run(Some(Arc::new(tls)), |_| Reading::Whole, handler)
    }

    fn run(
        tls: Option<Arc<rustls::ServerConfig>>,
        reader: impl Fn(&Request) -> Reading + Send + Sync + 'static,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let behaviour = Behaviour {
            reader: Arc::new(reader),
            handler: Arc::new(handler),
        };
        let (shared_log, shared_stop) = (Arc::clone(&log), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared_stop.load(Ordering::SeqCst) {
                    return;
                }
                let (behaviour, log, tls) =
                    (behaviour.clone(), Arc::clone(&shared_log), tls.clone());
                let stream = stream.unwrap();
                std::thread::spawn(move || match tls {
                    None => serve(stream, &behaviour, &log),
                    Some(tls) => {
                        let connection = rustls::ServerConnection::new(tls).unwrap();
                        serve(
                            rustls::StreamOwned::new(connection, stream),
                            &behaviour,
                            &log,
                        );
                    }
                });
            }
        });
        Self {
            address,
            log,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// `host/repository:tag`
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Requests whose path holds `part`.
    pub(crate) fn requests_for(&self, part: &str) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| request.path.contains(part))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Clients go away whenever they like, so failed writes are no failures here.
fn serve(mut stream: impl Read + Write, behaviour: &Behaviour, log: &Mutex<Vec<Request>>) {
    let Some(request) = read_request(&mut stream, &*behaviour.reader) else {
        return;
    };
    log.lock().unwrap().push(request.clone());
    let reply = (behaviour.handler)(&request);
    if request.is_cut {
        if matches!((behaviour.reader)(&request), Reading::Stalled(_)) {
            // Whoever sends has to notice; the connection is there for longer than that may take.
            std::thread::sleep(std::time::Duration::from_secs(20));
        }
        return;
    }
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = match &reply.body {
        Body::Whole(bytes) => Some(bytes.len()),
        Body::Cut(length, _) | Body::Stalled(length, _) | Body::Trickle(length) => Some(*length),
        Body::UntilClose(_) | Body::Endless(_) => None,
    };
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    let _ = stream.write_all(head.as_bytes());
    match reply.body {
        Body::Whole(bytes) | Body::Cut(_, bytes) | Body::UntilClose(bytes) => {
            let _ = stream.write_all(&bytes);
        }
        Body::Endless(bytes) => while stream.write_all(bytes).is_ok() {},
        Body::Stalled(_, bytes) => {
            let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
            // Returns when the client closes.
            let _ = stream.read(&mut [0]);
        }
        Body::Trickle(length) => {
            for _ in 0..length {
                if stream
                    .write_all(b" ")
                    .and_then(|()| stream.flush())
                    .is_err()
                {
                    break;
                }
                std::thread::sleep(TRICKLE);
            }
        }
    }
    let _ = stream.flush();
}

fn read_request(stream: &mut impl Read, reader: &Reader) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        // A client that tries TLS first sends no such head; it is hung up on.
        if stream.read(&mut byte).ok()? == 0 || head.len() > 1 << 16 || head.first() == Some(&0x16)
        {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut request = Request {
        method,
        path,
        headers,
        body: Vec::new(),
        is_cut: false,
    };
    let length: usize = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let reading = reader(&request);
    let len = match reading {
        Reading::Whole => length,
        Reading::Paused(len) => len.min(length),
        Reading::Cut(len) | Reading::Stalled(len) => {
            request.is_cut = true;
            len.min(length)
        }
    };
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    if matches!(reading, Reading::Paused(_)) {
        std::thread::sleep(PAUSE);
        body.resize(length, 0);
        stream.read_exact(body.get_mut(len..)?).ok()?;
    }
    request.body = body;
    Some(request)
}

/// Serves a sample well, under any repository, tags and digests alike, ranges too.
pub(crate) fn site(sample: &Sample) -> impl Fn(&Request) -> Reply + Send + Sync + Clone + 'static {
    let sample = sample.clone();
    move |request| {
        let path = request.path.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        if request.path.contains("/manifests/") {
            return if !last.starts_with("sha256:") || last == sha(&sample.manifest) {
                Reply::ok(sample.manifest.clone())
            } else {
                Reply::error(404, "MANIFEST_UNKNOWN")
            };
        }
        match sample
            .blobs()
            .into_iter()
            .find(|blob| last == format!("sha256:{}", hex(blob)))
        {
            Some(blob) => ranged(request, &blob),
            None => Reply::error(404, "BLOB_UNKNOWN"),
        }
    }
}

/// `content`, or the part of it that the request wants.
pub(crate) fn ranged(request: &Request, content: &[u8]) -> Reply {
    let from = request.header("range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    match from {
        None => Reply::ok(content),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            Reply::new(206, Body::Whole(content[from..].to_vec())).with("Content-Range", &range)
        }
    }
}
