//! A web server with a published port: how long from `run -d` to its first answer, and how many
//! requests it answers, next to podman, whose network is slirp4netns, and
//! to a VM of QEMU's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::registry::free_port;

use crate::host::Host;
use crate::network::{MEMORY_MIB, make_image};
use crate::peers::Podman;
use crate::qemu::Qemu;
use crate::table::{Table, ratio, spread};

/// What answers first: busybox's server, as it is.
const SERVER: [&str; 4] = [
    "busybox",
    "sh",
    "-c",
    "echo hello >/tmp/index.html; exec httpd -f -h /tmp",
];

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections of wrk at once.
const CONNECTIONS: &str = "-c16";

/// How long wrk asks.
const DURATION: &str = "-d4s";

/// How podman connects a container where there are no bridge plugins.
const SLIRP: [&str; 2] = ["--network", "slirp4netns"];

/// Measures in turns and adds the rows.
pub fn measure(host: &Host, busybox: &Path, traffic: &Path, table: &mut Table) -> Result<()> {
    let podman = Podman::new(host);
    podman.load(busybox)?;
    first_answer(host, &podman, table)?;
    make_image(host, traffic)?;
    let archive = host.scratch().join("traffic.tar");
    let path = archive.to_str().context("a path is not UTF-8")?;
    host.output(&["save", "-o", path, "traffic"])?;
    podman.load(&archive)?;
    let qemu = Qemu::new(host, &[traffic], MEMORY_MIB)?;
    requests(host, &podman, &qemu, table)
}

fn first_answer(host: &Host, podman: &Podman, table: &mut Table) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..=host.runs {
        let (port, publish) = publish(80)?;
        let run_web = ["run", "-d", "--name", "web", "-p", &publish];
        let begun = Instant::now();
        host.output(&[&run_web[..], &SERVER].concat())?;
        wait_for_answer(port, begun)?;
        let own = begun.elapsed().as_secs_f64();
        host.output(&["rm", "-f", "web"])?;
        let begun = Instant::now();
        podman.output(&[&run_web[..], &SLIRP, &SERVER].concat())?;
        wait_for_answer(port, begun)?;
        let other = begun.elapsed().as_secs_f64();
        podman.output(&["rm", "-f", "web"])?;
        // The first of each fills caches.
        if run > 0 {
            ours.push(own);
            theirs.push(other);
        }
    }
    let how = format!("{} runs in turn, median (min to max)", host.runs);
    table.add(
        "`run -d -p` of a web server to its first answer",
        spread(&ours, "s"),
        "",
        &how,
    );
    table.add("podman, slirp4netns", spread(&theirs, "s"), "", &how);
    table.add(
        "ratio to podman",
        format!("{:.2}", ratio(&ours, &theirs)),
        "",
        "median of pairs",
    );
    Ok(())
}

fn requests(host: &Host, podman: &Podman, qemu: &Qemu, table: &mut Table) -> Result<()> {
    const NAME: [&str; 4] = ["run", "-d", "--name", "requests"];
    const SERVER: [&str; 4] = ["traffic", "/traffic", "web", "80"];
    let (own_port, own_publish) = self::publish(80)?;
    let (port, publish) = self::publish(80)?;
    let (vm_port, vm_publish) = self::publish(80)?;
    host.output(&[&NAME[..], &["-p", &own_publish], &SERVER].concat())?;
    podman.output(&[&NAME[..], &["-p", &publish], &SLIRP, &SERVER].concat())?;
    let vm = qemu.run("/traffic web 80", &vm_publish)?;
    for port in [own_port, port, vm_port] {
        wait_for_answer(port, Instant::now())?;
    }
    let (mut ours, mut theirs, mut vms) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=host.runs {
        let (own, other, vm) = (wrk(own_port)?, wrk(port)?, wrk(vm_port)?);
        if run > 0 {
            ours.push(own);
            theirs.push(other);
            vms.push(vm);
        }
    }
    drop(vm);
    host.output(&["rm", "-f", "requests"])?;
    podman.output(&["rm", "-f", "requests"])?;
    let how = format!(
        "wrk -t1 {CONNECTIONS} {DURATION}, {} runs in turn",
        host.runs
    );
    table.add(
        "requests to a published port",
        spread(&ours, "/s"),
        "",
        &how,
    );
    for (peer, name, rates) in [
        ("podman", "podman, slirp4netns", &theirs),
        (
            "QEMU",
            "QEMU's microvm machine with passt, our kernel",
            &vms,
        ),
    ] {
        table.add(name, spread(rates, "/s"), "", &how);
        table.add(
            &format!("ratio to {peer}"),
            format!("{:.2}", ratio(&ours, rates)),
            "",
            "median of pairs",
        );
    }
    Ok(())
}

/// A port that was free, and the flag's value for it.
fn publish(container: u16) -> Result<(u16, String)> {
    let port = free_port()?;
    Ok((port, format!("{port}:{container}")))
}

/// Asks until there is an answer.
fn wait_for_answer(port: u16, begun: Instant) -> Result<()> {
    while !answers(port).unwrap_or(false) {
        if begun.elapsed() > PATIENCE {
            bail!("no answer at port {port}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn answers(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    // Who took the connection may have nobody to pass it on to.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 15];
    stream.read_exact(&mut head)?;
    Ok(head.starts_with(b"HTTP/1.") && head.ends_with(b"200 OK"))
}

/// Requests per second.
fn wrk(port: u16) -> Result<f64> {
    let output = Command::new("wrk")
        .args(["-t1", CONNECTIONS, DURATION])
        .arg(format!("http://127.0.0.1:{port}/"))
        .stdin(Stdio::null())
        .output()
        .context("run wrk (install the package wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
