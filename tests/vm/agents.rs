//! Hostile agents, in the agent's place below the guest's own kernel: frames that are none, events
//! out of order, exit codes of processes that never were, floods. `tests/hostile-agent` has what they
//! do; how they are watched is in `bare`.

pub(crate) mod verbs;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::hostile;

use crate::bare::{Seen, beside_a_neighbour};
use crate::world::World;

crate::tests![
    frames_that_are_none_end_the_vm,
    events_out_of_order_end_the_vm,
    sentences_of_a_guest_are_short_and_move_no_cursor,
    a_lying_exit_code_is_an_exit_code,
    output_that_comes_after_the_last_word_is_read,
    a_flood_of_the_log_has_a_limit,
    a_flood_of_events_ends_the_vm,
    every_port_is_there_once,
    endless_output_is_not_kept_and_ends_by_force,
];

/// What a guest chose is quoted so long at most, console and all.
const SENTENCE_MAX: usize = 2000;

/// Runs agents that are refused with a sentence that has `text`, one after the other.
fn refused(world: &World, lies: &[&str], text: &str) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let guest = vm.work().join("guest");
    for lie in lies {
        hostile::agent(&vm.guest(), &guest, lie)?;
        let out = vm
            .bulkhead(["run", "--rm", "-m", "128m", "busybox", "true"])
            .env("BULKHEAD_GUEST", &guest)
            .env("BULKHEAD_TEMPLATES", "off")
            .output()?;
        let sentence = out.refusal(text).with_context(|| (*lie).to_owned())?;
        ensure!(sentence.len() <= SENTENCE_MAX, "{lie}: {}", sentence.len());
        ensure!(!sentence.contains('\u{1b}'), "{lie}: it moves the cursor");
        ensure!(!sentence.contains("panicked"), "{lie}: {sentence}");
        before
            .no_leftovers(&vm)
            .with_context(|| (*lie).to_owned())?;
    }
    Ok(())
}

fn frames_that_are_none_end_the_vm(world: &World) -> Result<()> {
    refused(
        world,
        &[
            "too-long",
            "longest",
            "empty",
            "unknown",
            "deep",
            "not-text",
            "wrong-type",
        ],
        "the agent broke the protocol",
    )?;
    // The guest goes away in the middle of one.
    refused(world, &["cut"], "the VM ended")
}

fn events_out_of_order_end_the_vm(world: &World) -> Result<()> {
    let lies = [
        "exited-first",
        "exited-before-started",
        "started-first",
        "held",
    ];
    refused(world, &lies, "the agent broke the protocol")?;
    // Once it says that the process runs, the container was started, and ends by what comes then.
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let guest = vm.work().join("guest");
    for lie in [
        "started-twice",
        "nobody-exited",
        "nobody-started",
        "frozen",
        "updated",
        "clock",
        "task-ended",
        "converting",
        "bye",
        "code-300",
    ] {
        hostile::agent(&vm.guest(), &guest, lie)?;
        let out = vm
            .bulkhead(["run", "--rm", "-m", "128m", "busybox", "true"])
            .env("BULKHEAD_GUEST", &guest)
            .env("BULKHEAD_TEMPLATES", "off")
            .output()?;
        ensure!(out.code == 125, "{lie}: {out}");
        ensure!(out.stderr.contains("broke the protocol"), "{lie}: {out}");
        ensure!(out.stderr.len() <= SENTENCE_MAX, "{lie}: {out}");
        ensure!(!out.stderr.contains('\u{1b}'), "{lie}: {out}");
        before.no_leftovers(&vm).with_context(|| lie.to_owned())?;
    }
    Ok(())
}

fn sentences_of_a_guest_are_short_and_move_no_cursor(world: &World) -> Result<()> {
    refused(world, &["hello-twice"], "the agent broke the protocol")?;
    refused(world, &["other-version"], "protocol")?;
    // What it says is quoted, without what moves the cursor.
    refused(world, &["long-failure"], "\u{fffd}[2J")
}

/// Which is the guest's to choose, and an exit code and nothing else.
fn a_lying_exit_code_is_an_exit_code(world: &World) -> Result<()> {
    for (lie, code) in [("code-3", 3), ("code-3-twice", 3), ("signal-255", 255)] {
        let vm = world.own()?;
        let seen = run(&vm, lie)?;
        ensure!(seen.out.code == code, "{lie}: {}", seen.out);
        ensure!(seen.out.stdout.is_empty(), "{lie}: {}", seen.out);
    }
    Ok(())
}

/// The guest leaves while its output is still on the way.
fn output_that_comes_after_the_last_word_is_read(world: &World) -> Result<()> {
    let seen = run(&world.own()?, "bye-before-output")?;
    ensure!(seen.out.code == 6, "{}", seen.out);
    ensure!(seen.out.stdout == "late\n", "{}", seen.out);
    Ok(())
}

fn run(vm: &harness::Sandbox, lie: &str) -> Result<Seen> {
    beside_a_neighbour(
        vm,
        |vm, folder| hostile::agent(&vm.guest(), folder, lie),
        &[],
    )
    .with_context(|| lie.to_owned())
}

fn a_flood_of_the_log_has_a_limit(world: &World) -> Result<()> {
    let seen = run(&world.own()?, "log")?;
    crate::bare::check_log(seen.log_len)?;
    ensure!(seen.out.code == 4, "{}", seen.out);
    Ok(())
}

fn a_flood_of_events_ends_the_vm(world: &World) -> Result<()> {
    let Seen { out, .. } = run(&world.own()?, "events")?;
    ensure!(out.code == 125, "{out}");
    ensure!(out.stderr.contains("broke the protocol"), "{out}");
    Ok(())
}

/// The three streams of the process, without input two, and none of them twice.
fn every_port_is_there_once(world: &World) -> Result<()> {
    let Seen { out, log, .. } = run(&world.own()?, "ports")?;
    ensure!(out.code == 5, "{out}");
    let told = log
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("hostile: ")?
                .strip_suffix(" more connections")
        })
        .context("it said nothing")?;
    let count: u32 = told.parse().context("read a count")?;
    ensure!(count == 2, "{count} connections");
    Ok(())
}

/// Nobody reads it, then somebody does and goes away: the supervisor holds some KiB of it.
fn endless_output_is_not_kept_and_ends_by_force(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    let guest = vm.work().join("guest");
    hostile::agent(&vm.guest(), &guest, "output")?;
    let (reader, writer) = std::io::pipe().context("create a pipe")?;
    let running = vm
        .bulkhead(["run", "--rm", "--name", "endless", "--log-driver", "none"])
        .args(["-m", "128m", "busybox", "true"])
        .env("BULKHEAD_GUEST", &guest)
        .env("BULKHEAD_TEMPLATES", "off")
        .stdout_to(std::fs::File::from(std::os::fd::OwnedFd::from(writer)))
        .spawn()?;
    let mut first = [0; 64 << 10];
    std::io::Read::read_exact(&mut &reader, &mut first).context("read its output")?;
    ensure!(first.iter().all(|byte| *byte == b'x'), "another output");
    std::thread::sleep(Duration::from_secs(3));
    let supervisor = vm.wait_for_process("__supervisor")?.id;
    let most = crate::limits::status_kib(supervisor, "VmHWM")?;
    println!("supervisor {most} KiB");
    ensure!(
        most <= crate::bare::SUPERVISOR_KIB,
        "a supervisor of {most} KiB"
    );
    vm.bulkhead(["rm", "-f", "endless"]).output()?.code(0)?;
    drop(reader);
    running.wait()?;
    before.no_leftovers(&vm)
}
