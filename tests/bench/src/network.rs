//! Throughput between a guest and its host through passt, next to QEMU's microvm machine with the
//! same kernel, the same program at its end and passt. The host's end, which has the clock, is here.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::web::host_address;

use crate::host::Host;
use crate::qemu::Qemu;
use crate::table::{Table, ratio, spread};

/// Bytes of a stream.
const BYTES: u64 = 64 << 20;

const MIB: f64 = 1_048_576.0;

/// What both have.
pub const MEMORY_MIB: u64 = 512;

const CHUNK_BYTES: usize = 256 << 10;

/// MiB/s of some runs.
#[derive(Default)]
struct Rates {
    sent: Vec<f64>,
    received: Vec<f64>,
}

/// Measures in turns and adds the rows.
pub fn measure(host: &Host, traffic: &Path, table: &mut Table) -> Result<()> {
    make_image(host, traffic)?;
    let qemu = Qemu::new(host, &[traffic], MEMORY_MIB)?;
    let address = host_address()?;
    let (mut ours, mut theirs) = (Rates::default(), Rates::default());
    for run in 0..=host.runs {
        let listener = listen()?;
        let target = format!("{address}:{}", listener.local_addr()?.port());
        // The first connection wakes passt, which resets it when it comes up late.
        let script = format!(
            "for i in 1 2 3 4 5; do /traffic send {target} 0 && break; done; \
             /traffic send {target} {BYTES} && /traffic receive {target}"
        );
        // The VM's own 64 MiB are added.
        let memory = format!("{}m", MEMORY_MIB - 64);
        let words = ["run", "--rm", "--cpus", "1", "-m", &memory, "traffic"];
        let mut child = host
            .command(&[&words[..], &["sh", "-c", &script]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start bulkhead")?;
        let own = exchange(&listener, &mut child);
        if own.is_err() {
            let _ = child.kill();
        }
        child.wait().context("wait for bulkhead")?;
        let own = own.context("a stream of bulkhead's")?;
        let mut vm = qemu.run(&script, "none")?;
        let other = exchange(&listener, &mut vm.qemu).context("a stream of QEMU's")?;
        // The first of each fills caches.
        if run > 0 {
            for (rates, (sent, received)) in [(&mut ours, own), (&mut theirs, other)] {
                rates.sent.push(sent);
                rates.received.push(received);
            }
        }
    }
    let how = format!("a stream of 64 MiB, {} runs in turn", host.runs);
    for (direction, own, other) in [
        ("guest to host", &ours.sent, &theirs.sent),
        ("host to guest", &ours.received, &theirs.received),
    ] {
        let name = format!("{direction} by passt");
        table.add(&name, spread(own, "MiB/s"), "", &how);
        table.add(
            &format!("{name}, QEMU"),
            spread(other, "MiB/s"),
            "",
            "microvm machine, our kernel, MTU 65520",
        );
        table.add(
            "ratio to QEMU",
            format!("{:.2}", ratio(own, other)),
            "at least 0.8",
            "median of pairs",
        );
    }
    Ok(())
}

/// busybox with `/traffic`, built here, as `traffic`.
pub fn make_image(host: &Host, traffic: &Path) -> Result<()> {
    let context = host.scratch().join("context");
    std::fs::create_dir_all(&context).context("create a context")?;
    std::fs::copy(traffic, context.join("traffic")).context("copy a program")?;
    std::fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nCOPY traffic /traffic\n",
    )
    .context("write a Dockerfile")?;
    let context = context.to_str().context("a path is not UTF-8")?;
    host.output(&["build", "-q", "-t", "traffic", context])
        .map(drop)
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind("0.0.0.0:0").context("listen")?;
    // A client that has died is to be noticed.
    listener.set_nonblocking(true).context("listen")?;
    Ok(listener)
}

/// Takes a stream and gives one; MiB/s of each.
fn exchange(listener: &TcpListener, child: &mut Child) -> Result<(f64, f64)> {
    let sent = loop {
        let mut stream = accept(listener, child)?;
        let begun = Instant::now();
        match drain(&mut stream) {
            // Those before the stream have nothing in them.
            Ok(0) | Err(_) => {}
            Ok(BYTES) => break rate(begun),
            Ok(count) => bail!("{count} of {BYTES} bytes arrived"),
        }
    };
    let mut stream = accept(listener, child)?;
    let begun = Instant::now();
    let chunk = vec![0; CHUNK_BYTES];
    for _ in 0..BYTES / (CHUNK_BYTES as u64) {
        stream.write_all(&chunk).context("send to the guest")?;
    }
    stream.shutdown(Shutdown::Write)?;
    // It closes when it has read all.
    drain(&mut stream)?;
    Ok((sent, rate(begun)))
}

fn rate(begun: Instant) -> f64 {
    f64::from(u32::try_from(BYTES).unwrap_or(u32::MAX)) / MIB / begun.elapsed().as_secs_f64()
}

fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("accept"),
        }
        if let Some(status) = child.try_wait().context("watch the client")? {
            let mut said = String::new();
            if let Some(mut stdout) = child.stdout.take() {
                stdout.read_to_string(&mut said)?;
            }
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut said)?;
            }
            bail!("no connection, {status}: {said}");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn drain(stream: &mut TcpStream) -> Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut count = 0;
    loop {
        match stream.read(&mut chunk).context("hear from the guest")? {
            0 => return Ok(count),
            read => count += read as u64,
        }
    }
}
