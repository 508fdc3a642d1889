//! Hostile guests without Linux, in the kernel's place: registers, rings, requests, packets. Each
//! ends with one sentence or by itself, leaves nothing, and neither its VMM nor its supervisor grows
//! beyond a limit. A neighbour VM answers all the while; its latency is printed, not judged.
//!
//! What they do is in `tests/hostile-guest`. The seed is printed, and taken from
//! BULKHEAD_HOSTILE_SEED when that is set.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::process::{Process, executing};
use harness::{Output, Sandbox, hostile};

use crate::world::World;

crate::tests![
    every_register_in_every_state,
    half_a_million_random_accesses,
    bad_rings_on_every_queue,
    bad_requests_to_every_device,
    bad_requests_to_the_file_server,
    bad_vsock_packets,
    bad_frames_on_the_control_port,
    floods_of_both_consoles,
    a_guest_that_spins_is_removed,
];

/// Those that need two CPUs.
pub(crate) fn of_several_cpus() -> Vec<(&'static str, crate::Test)> {
    vec![(
        "vm::bare::two_vcpus_race_for_every_queue",
        two_vcpus_race_for_every_queue,
    )]
}

/// Those of another share of the tests.
pub(crate) fn others() -> Vec<(&'static str, crate::Test)> {
    vec![("vm::bare::half_a_million_others", half_a_million_others)]
}

/// Hidden verbs of the processes that are the VM and its supervisor.
const VMM: &str = "__vmm";
const SUPERVISOR: &str = "__supervisor";
const FILES: &str = "__files";

/// Memory of a hostile guest: `tests/hostile-guest` knows it.
const MEMORY_MIB: u64 = 128;

/// What a VMM has beside its guest's memory at most: its program, queues and buffers. Its resource
/// limit of address space allows 256 MiB.
const VMM_OVERHEAD_KIB: u64 = 64 << 10;

/// A supervisor's memory at most: its program, buffers of streams, a frame of 1 MiB or some.
pub(crate) const SUPERVISOR_KIB: u64 = 64 << 10;

/// A file server's memory at most: its program, the requests of its threads, and what these touch of the
/// guest's memory.
const FILE_SERVER_KIB: u64 = 32 << 10;

/// A VM that is not ready after a minute is ended, emulated or not.
const PATIENCE: Duration = Duration::from_secs(300);

/// Pause between two questions to the neighbour, so that the hostile one has its time, too.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// How a hostile guest's command ended, and what was seen meanwhile.
pub(crate) struct Seen {
    pub(crate) out: Output,
    /// The most that a file server's process had, in KiB; 0 without shares.
    files_kib: u64,
    /// What guest and VMM said, and how many bytes that took.
    pub(crate) log: String,
    pub(crate) log_len: usize,
}

/// Runs a command on a hostile guest that `prepare` puts into a folder, beside a neighbour.
pub(crate) fn beside_a_neighbour(
    vm: &Sandbox,
    prepare: impl FnOnce(&Sandbox, &std::path::Path) -> Result<()>,
    flags: &[&str],
) -> Result<Seen> {
    let guest = vm.work().join("guest");
    prepare(vm, &guest)?;
    let before = vm.snapshot()?;
    vm.bulkhead([
        "run",
        "-d",
        "--name",
        "neighbour",
        "-m",
        "128m",
        "--cpus",
        "1",
    ])
    .args(["busybox", "sleep", "100000"])
    .output()?
    .code(0)?;
    let neighbours = executing(&vm.program())?;
    let quiet = (0..5).map(|_| ask(vm)).collect::<Result<Vec<_>>>()?;
    let memory = format!("{MEMORY_MIB}m");
    let mut running = vm
        .bulkhead(["run", "--name", "hostile", "-m", &memory])
        .args(flags)
        .args(["busybox", "true"])
        .env("BULKHEAD_GUEST", &guest)
        .env("BULKHEAD_TEMPLATES", "off")
        .timeout(PATIENCE)
        .spawn()?;
    let mut meanwhile = Vec::new();
    let mut asked = Instant::now();
    let mut peaks = Peaks::default();
    while !running.has_ended()? {
        peaks.look(vm, &neighbours)?;
        if asked.elapsed() > ASK_EVERY {
            meanwhile.push(ask(vm)?);
            asked = Instant::now();
        }
        std::thread::sleep(harness::POLL_INTERVAL);
    }
    let out = running.wait()?;
    println!(
        "neighbour: median {} ms before, {} ms meanwhile of {}; \
         VMM {} KiB, supervisor {} KiB, file server {} KiB",
        median(quiet).as_millis(),
        median(meanwhile.clone()).as_millis(),
        meanwhile.len(),
        peaks.vmm,
        peaks.supervisor,
        peaks.files,
    );
    let log = log_of(vm, "hostile")?;
    let log_len = log.len();
    let log = String::from_utf8_lossy(&log).into_owned();
    vm.bulkhead(["rm", "-f", "hostile"]).output()?.code(0)?;
    ask(vm)?;
    vm.bulkhead(["rm", "-f", "neighbour"]).output()?.code(0)?;
    before.no_leftovers(vm)?;
    peaks.check()?;
    ensure!(!out.stderr.contains("panicked"), "{out}");
    ensure!(!log.contains("panicked"), "{log}");
    Ok(Seen {
        out,
        files_kib: peaks.files,
        log,
        log_len,
    })
}

/// How long the neighbour takes for a process that does nothing.
fn ask(vm: &Sandbox) -> Result<Duration> {
    let begun = Instant::now();
    let asked = vm.bulkhead(["exec", "neighbour", "true"]).output()?;
    asked.code(0)?;
    Ok(begun.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The most that the hostile VM's processes had, in KiB.
#[derive(Default)]
struct Peaks {
    vmm: u64,
    supervisor: u64,
    /// Of its two processes, none without shares.
    files: u64,
}

impl Peaks {
    fn look(&mut self, vm: &Sandbox, neighbours: &[Process]) -> Result<()> {
        for process in executing(&vm.program())? {
            if neighbours.iter().any(|known| known.id == process.id) {
                continue;
            }
            let most = if process.has_verb(VMM) {
                &mut self.vmm
            } else if process.has_verb(SUPERVISOR) {
                &mut self.supervisor
            } else if process.has_verb(FILES) {
                &mut self.files
            } else {
                continue;
            };
            // It may just have gone.
            let kib = crate::limits::status_kib(process.id, "VmHWM").unwrap_or_default();
            *most = kib.max(*most);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        ensure!(self.vmm > 0 && self.supervisor > 0, "they were not seen");
        let limit = (MEMORY_MIB << 10) + VMM_OVERHEAD_KIB;
        ensure!(self.vmm <= limit, "a VMM of {} KiB", self.vmm);
        ensure!(
            self.supervisor <= SUPERVISOR_KIB,
            "a supervisor of {} KiB",
            self.supervisor
        );
        ensure!(
            self.files <= FILE_SERVER_KIB,
            "a file server of {} KiB",
            self.files
        );
        Ok(())
    }
}

/// A container's log of its VM.
fn log_of(vm: &Sandbox, name: &str) -> Result<Vec<u8>> {
    let out = vm
        .bulkhead(["inspect", "-f", "{{.Id}}", name])
        .output()?
        .only_stdout()?;
    let path = vm.root().join("containers").join(out.trim()).join("vm.log");
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

/// The seed of this run.
fn seed() -> Result<u64> {
    let seed = match std::env::var("BULKHEAD_HOSTILE_SEED") {
        Ok(text) => text.parse().context("read BULKHEAD_HOSTILE_SEED")?,
        Err(_) => {
            let now = std::time::SystemTime::now();
            now.duration_since(std::time::UNIX_EPOCH)?.as_secs()
        }
    };
    println!("seed {seed}");
    Ok(seed)
}

/// Runs a mode of the hostile kernel.
fn bare(world: &World, orders: &str, flags: &[&str]) -> Result<Seen> {
    let vm = world.own()?;
    beside_a_neighbour(
        &vm,
        |vm, folder| hostile::kernel(&vm.guest(), folder, orders),
        flags,
    )
    .with_context(|| format!("orders {orders:?}"))
}

/// As [`bare`] for a mode that ends by itself.
fn to_its_end(world: &World, orders: &str, flags: &[&str]) -> Result<String> {
    let Seen { out, log, .. } = bare(world, orders, flags)?;
    println!("{}", said(&log));
    let mode = orders.split(' ').next().unwrap_or_default();
    ensure!(
        log.contains(&format!("hostile: {mode} done")),
        "{out}\n{log}"
    );
    out.refusal("reset itself")?;
    Ok(log)
}

/// What guest and VMM said, each once, but for the counting.
fn said(log: &str) -> String {
    let mut lines: Vec<_> = log
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("hostile: ") || line.starts_with("vmm: "))
        .filter(|line| !line.ends_with("0000 accesses"))
        .collect();
    lines.dedup();
    lines.join("\n")
}

/// How many accesses a guest had told when it ended.
fn accesses(log: &str) -> u64 {
    let counts = log.lines().filter_map(|line| {
        let count = line.trim().strip_prefix("hostile: ")?;
        count.strip_suffix(" accesses")?.parse().ok()
    });
    counts.max().unwrap_or_default()
}

/// Network, block, console, random numbers, balloon, vsock, file system (virtio 1.2 section 5).
const KINDS: [u32; 7] = [1, 2, 3, 4, 5, 19, 26];

/// The numbers in each line of the guest's that begins so.
fn numbers(log: &str, begin: &str) -> Vec<Vec<u64>> {
    log.lines()
        .filter_map(|line| line.trim().strip_prefix("hostile: ")?.strip_prefix(begin))
        .map(|rest| {
            let words = rest.split(|letter: char| !letter.is_ascii_digit());
            words.filter_map(|word| word.parse().ok()).collect()
        })
        .collect()
}

fn every_register_in_every_state(world: &World) -> Result<()> {
    let log = to_its_end(world, "registers", &["-v", "/tmp:/share:ro"])?;
    let count = accesses(&log);
    ensure!(count > 10_000, "{count} accesses");
    for kind in KINDS {
        let told = numbers(&log, &format!("device {kind} had "));
        let enough = |numbers: &Vec<u64>| matches!(numbers[..], [count] if count > 1000);
        ensure!(!told.is_empty() && told.iter().all(enough), "{kind}: {log}");
    }
    Ok(())
}

/// Half of the million of a run; the other half is another host's where there are two.
fn half_a_million_random_accesses(world: &World) -> Result<()> {
    random_accesses(world, seed()?)
}

fn half_a_million_others(world: &World) -> Result<()> {
    random_accesses(world, seed()?.wrapping_add(1 << 32))
}

/// Runs with seeds one after the other, as many as it takes: a VM that is not ready in time is ended,
/// and on a slow host that is before it is through.
fn random_accesses(world: &World, first: u64) -> Result<()> {
    const WANTED: u64 = 500_000;
    const RUNS_MAX: u64 = 20;
    let mut done = 0;
    for run in 0..RUNS_MAX {
        let orders = format!("random {} {}", first.wrapping_add(run), WANTED - done);
        let Seen { out, log, .. } = bare(world, &orders, &["-v", "/tmp:/share:ro"])?;
        if log.contains("random done") {
            out.refusal("reset itself")?;
        } else {
            out.refusal("did not answer in time")?;
        }
        let more = accesses(&log);
        ensure!(more > 0, "no access: {log}");
        done += more;
        println!("{done} accesses");
        if done >= WANTED {
            return Ok(());
        }
    }
    bail!("{done} accesses in {RUNS_MAX} runs")
}

fn bad_rings_on_every_queue(world: &World) -> Result<()> {
    let log = to_its_end(world, "rings", &["-v", "/tmp:/share:ro"])?;
    let told = log
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("hostile: ")?
                .strip_suffix(" bad rings")
        })
        .context("it counted none")?;
    let count: u32 = told.parse().context("read a count")?;
    ensure!(count > 1500, "{count} bad rings");
    for kind in KINDS {
        let told = numbers(&log, &format!("device {kind} had "));
        let enough = |numbers: &Vec<u64>| match numbers[..] {
            [count, queues] => queues > 0 && count > 100 * queues,
            _ => false,
        };
        ensure!(!told.is_empty() && told.iter().all(enough), "{kind}: {log}");
    }
    Ok(())
}

/// Registered where the host has two CPUs.
fn two_vcpus_race_for_every_queue(world: &World) -> Result<()> {
    let orders = format!("races {} 300", seed()?);
    let log = to_its_end(world, &orders, &["--cpus", "2", "-v", "/tmp:/share:ro"])?;
    for kind in KINDS {
        let line = format!("hostile: device {kind} raced for");
        ensure!(log.contains(&line), "not for {kind}: {log}");
    }
    Ok(())
}

fn bad_requests_to_every_device(world: &World) -> Result<()> {
    let log = to_its_end(world, &format!("devices {}", seed()?), &[])?;
    for line in [
        "2000 frames",
        "300 balloon requests",
        "200 console requests",
    ] {
        ensure!(log.contains(&format!("hostile: {line}")), "{line}: {log}");
    }
    // Of all requests most are no disk's; what only reads is done, where it is as it should be.
    for (kind, writes_min) in [("read-only", 100), ("writable", 0)] {
        let told = numbers(&log, &format!("{kind} block of "));
        ensure!(!told.is_empty(), "no {kind} disk: {log}");
        for numbers in told {
            let [_, done, refused, writes, wrong] = numbers[..] else {
                bail!("{numbers:?}: {log}");
            };
            ensure!(wrong == 0, "{wrong} were done: {log}");
            ensure!(done > 20 && refused > 500, "{done}, {refused}: {log}");
            ensure!(writes >= writes_min, "{writes} writes refused: {log}");
        }
    }
    let most = log
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("hostile: at most ")?
                .strip_suffix(" random bytes at once")
        })
        .context("no random bytes")?;
    let most: u32 = most.parse().context("read a count")?;
    ensure!(
        (1..=64 << 10).contains(&most),
        "{most} random bytes at once"
    );
    Ok(())
}

/// Two shares, of which one is read-only, and a folder around them that is no share.
fn bad_requests_to_the_file_server(world: &World) -> Result<()> {
    let vm = world.own()?;
    let around = vm.work().join("around");
    for share in ["writable", "read-only"] {
        let folder = around.join(share);
        fs::create_dir_all(&folder).context("create a share")?;
        fs::write(folder.join("file"), "as it was").context("write a file")?;
    }
    let flags = ["writable:/w", "read-only:/r:ro"];
    let flags = flags.map(|flag| format!("{}/{flag}", around.display()));
    let orders = format!("files {} 4000", seed()?);
    let seen = beside_a_neighbour(
        &vm,
        |vm, folder| hostile::kernel(&vm.guest(), folder, &orders),
        &["-v", &flags[0], "-v", &flags[1]],
    )?;
    println!("{}", said(&seen.log));
    seen.out.refusal("reset itself")?;
    ensure!(seen.log.contains("hostile: files done"), "{}", seen.log);
    ensure!(seen.files_kib > 0, "the file server was not seen");
    let errors = seen
        .log
        .lines()
        .find_map(|line| {
            let told = line.trim().strip_prefix("hostile: 4000 file requests, ")?;
            told.strip_suffix(" errors")?.parse::<u32>().ok()
        })
        .context("it counted no errors")?;
    ensure!((1000..4000).contains(&errors), "{errors} refused of 4000");
    // Both shares and a file in each were reached; 1 is the root, where a name was not found.
    let nodes = seen
        .log
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("hostile: nodes [")?
                .strip_suffix(']')
        })
        .context("it looked for no node")?;
    ensure!(nodes.split(", ").all(|node| node != "1"), "{nodes}");
    let names = |folder: &std::path::Path| -> Result<Vec<_>> {
        let entries = fs::read_dir(folder).context("read a folder")?;
        let mut names = entries
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    assert_eq!(names(&around)?, ["read-only", "writable"]);
    assert_eq!(names(&around.join("read-only"))?, ["file"]);
    let content = fs::read_to_string(around.join("read-only/file")).context("read a file")?;
    assert_eq!(content, "as it was");
    ensure!(
        !std::path::Path::new("/etc/hostile").exists(),
        "a name led out"
    );
    Ok(())
}

/// In the end it connects to the control port, too, and goes: the host sees that or the reset first.
fn bad_vsock_packets(world: &World) -> Result<()> {
    let orders = format!("packets {} 10000", seed()?);
    let Seen { out, log, .. } = bare(world, &orders, &[])?;
    println!("{}", said(&log));
    ensure!(log.contains("hostile: 10000 packets"), "{out}\n{log}");
    // What it sent to the port of standard output is output.
    let sentence = "the VM ended before the agent answered";
    ensure!(out.code == 125 && out.stderr.contains(sentence), "{out}");
    ensure!(out.stderr.lines().count() == 1, "{out}");
    Ok(())
}

fn bad_frames_on_the_control_port(world: &World) -> Result<()> {
    for kind in 0..3 {
        let orders = format!("frames {} {kind}", seed()?);
        let Seen { out, log, .. } = bare(world, &orders, &[])?;
        let sentence = out.refusal("the agent broke the protocol")?;
        println!("{sentence}\n{}", said(&log));
    }
    Ok(())
}

/// `vm.log` takes what it takes and no more.
fn floods_of_both_consoles(world: &World) -> Result<()> {
    let Seen { out, log_len, .. } = bare(world, "floods 1 16", &[])?;
    check_log(log_len)?;
    // Where each byte is an exit of an emulated CPU, it may not be done in the time of a start.
    let ends = ["reset itself", "did not answer in time"];
    let ended = ends.iter().any(|end| out.stderr.contains(end));
    ensure!(out.code == 125 && ended, "{out}");
    Ok(())
}

/// It has what the virtio console takes, and not more than that, the serial port's and some lines.
pub(crate) fn check_log(len: usize) -> Result<()> {
    println!("{len} bytes of log");
    let virtio = 4 << 20;
    let most = virtio + (256 << 10) + (64 << 10);
    ensure!((virtio..=most).contains(&len), "a log of {len} bytes");
    Ok(())
}

fn a_guest_that_spins_is_removed(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let guest = vm.work().join("guest");
    hostile::kernel(&vm.guest(), &guest, "spin")?;
    let running = vm
        .bulkhead(["run", "--rm", "--name", "hostile", "-m", "128m", "busybox"])
        .env("BULKHEAD_GUEST", &guest)
        .env("BULKHEAD_TEMPLATES", "off")
        .spawn()?;
    vm.wait_for_process(VMM)?;
    vm.bulkhead(["rm", "-f", "hostile"]).output()?.code(0)?;
    let out = running.wait()?;
    ensure!(out.code != 0, "{out}");
    before.no_leftovers(&vm)
}
