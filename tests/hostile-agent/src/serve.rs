//! An agent that does what it is asked for, but for one lie: to a container's files, to another process in
//! it, to a conversion, to what decompresses or to the steps of a build.

use std::fs::File;
use std::io::{Result, Write};

use protocol::message::{Converted, Event, ExitStatus, FailureKind, ProcessId, Request};
use protocol::spec::ProcessSpec;
use protocol::task::{Outcome, PathStat, Task, TaskId};
use protocol::{PROTOCOL_VERSION, task};

use crate::{CHUNK, Control, archives, connect, exited, long, reboot};

/// Answers requests until the VM is to end.
pub fn serve(control: &mut Control, lie: &str) -> Result<()> {
    control.hello(PROTOCOL_VERSION, "hostile")?;
    let mut builds = false;
    loop {
        match control.request()? {
            Request::Run(spec) => {
                started(control, 0)?;
                if builds {
                    step(control, lie, &spec.process)?;
                }
            }
            Request::Hold(_) => held(control, lie)?,
            Request::Build(_) => {
                builds = true;
                held(control, lie)?;
            }
            Request::Seal => control.say(&Event::Sealed(match lie {
                "sealed" => Some(long()),
                _ => None,
            }))?,
            Request::Convert(spec) => convert(control, lie, spec.blob_bytes)?,
            Request::Decompress { compressed, plain } => {
                decompress(control, lie, compressed, plain)?;
            }
            Request::Exec { process, spec } => exec(control, lie, process, &spec)?,
            Request::Task { id, task, port } => do_task(control, lie, id, &task, port)?,
            Request::Freeze(freeze) => control.say(&Event::Frozen(freeze))?,
            Request::Update(_) => control.say(&Event::Updated(None))?,
            Request::Clock => control.say(&Event::Clock(0))?,
            Request::Wake { .. }
            | Request::Signal { .. }
            | Request::Resize { .. }
            | Request::ShiftClock(_) => {}
            Request::Shutdown => {
                control.say(&Event::Bye)?;
                reboot();
            }
        }
    }
}

fn started(control: &mut Control, process: ProcessId) -> Result<()> {
    control.say(&Event::Started {
        process,
        boottime_ns: 1,
    })
}

fn held(control: &mut Control, lie: &str) -> Result<()> {
    match lie {
        "hello-again" => loop {
            control.hello(PROTOCOL_VERSION, "hostile")?;
        },
        _ => control.say(&Event::Held),
    }
}

/// Streams that end at once.
fn no_output(spec: &ProcessSpec) {
    let ports = [spec.stdio.stdin, spec.stdio.stdout, spec.stdio.stderr];
    for port in ports.into_iter().flatten() {
        drop(connect(port));
    }
}

/// A step of a build that does nothing.
fn step(control: &mut Control, lie: &str, spec: &ProcessSpec) -> Result<()> {
    match lie {
        "step-output" => flood(spec),
        "step-ended" => task_ended(control, 0, Outcome::Done),
        _ => {
            no_output(spec);
            control.say(&exited(0, ExitStatus::Code(0)))
        }
    }
}

fn flood(spec: &ProcessSpec) -> Result<()> {
    let port = spec.stdio.stdout.unwrap_or_default();
    let mut output = connect(port)?;
    let chunk = vec![b'x'; CHUNK];
    loop {
        output.write_all(&chunk)?;
    }
}

fn exec(control: &mut Control, lie: &str, process: ProcessId, spec: &ProcessSpec) -> Result<()> {
    match lie {
        "exec-twice" => {
            started(control, process)?;
            started(control, process)
        }
        // Its streams stay open, so that its end is not told yet.
        "exec-ended-twice" => {
            started(control, process)?;
            control.say(&exited(process, ExitStatus::Code(9)))?;
            control.say(&exited(process, ExitStatus::Code(9)))
        }
        "exec-other" => started(control, process + 77),
        "exec-ended-other" => control.say(&exited(process + 77, ExitStatus::Code(0))),
        "exec-failed" => control.say(&Event::Failed {
            process,
            kind: FailureKind::NotFound,
            message: long(),
        }),
        "exec-flood" => {
            started(control, process)?;
            // Others are answered meanwhile.
            let spec = spec.clone();
            std::thread::spawn(move || flood(&spec));
            Ok(())
        }
        _ => {
            started(control, process)?;
            no_output(spec);
            control.say(&exited(process, ExitStatus::Code(9)))
        }
    }
}

fn convert(control: &mut Control, lie: &str, blob_bytes: u64) -> Result<()> {
    let converted = |image_bytes| {
        Event::Converted(Converted {
            image_bytes,
            inodes: 1,
            tar_bytes: 1024,
        })
    };
    let converting = |bytes| Event::Converting { bytes };
    match lie {
        "converted-0" => control.say(&converted(0)),
        "converted-odd" => control.say(&converted(4097)),
        "converted-huge" => control.say(&converted(u64::MAX)),
        "converted-above" => control.say(&converted((64 << 30) + 4096)),
        "converting-beyond" => control.say(&converting(blob_bytes + 1)),
        "converting-back" => {
            control.say(&converting(2))?;
            control.say(&converting(1))
        }
        "converted-failed" => control.say(&Event::Failed {
            process: 0,
            kind: FailureKind::CorruptLayer,
            message: long(),
        }),
        "hello-again" => loop {
            control.hello(PROTOCOL_VERSION, "hostile")?;
        },
        "converted-held" => control.say(&Event::Held),
        // A disk of zeros.
        _ => control.say(&converted(4096)),
    }
}

/// Takes little of what is compressed, if anything.
fn decompress(control: &mut Control, lie: &str, compressed: u32, plain: u32) -> Result<()> {
    let from = connect(compressed)?;
    let mut to = connect(plain)?;
    match lie {
        "garbage" => to.write_all(&[b'x'; CHUNK])?,
        "endless" => loop {
            to.write_all(&[b'x'; CHUNK])?;
        },
        _ => {}
    }
    drop((from, to));
    match lie {
        "failed" => control.say(&Event::Failed {
            process: 0,
            kind: FailureKind::Other,
            message: long(),
        }),
        "hello-again" => control.hello(PROTOCOL_VERSION, "hostile"),
        "ended" => {
            reboot();
            Ok(())
        }
        _ => control.say(&Event::Decompressed),
    }
}

fn task_ended(control: &mut Control, id: TaskId, outcome: Outcome) -> Result<()> {
    control.say(&Event::TaskEnded { id, outcome })
}

fn do_task(
    control: &mut Control,
    lie: &str,
    id: TaskId,
    task: &Task,
    port: Option<u32>,
) -> Result<()> {
    let mut stream = port.map(connect).transpose()?;
    // One that is silent after that.
    let (lie, is_silent) = match lie.strip_suffix("-silent") {
        Some(before) => (before, task.has_stream()),
        None => (lie, lie == "silent" && task.has_stream()),
    };
    let outcome = match (task, &mut stream) {
        (Task::Stat { path, .. }, _) => stat(path, lie),
        (Task::Usage, _) => Outcome::Usage(task::Usage::default()),
        (Task::Archive { name, .. }, Some(stream)) => archive(lie, name, stream),
        (Task::Export | Task::Layer { .. } | Task::Gather(_), Some(stream)) => {
            archive(lie, "top", stream)
        }
        (Task::Changes, Some(stream)) => changes(lie, stream),
        (Task::Extract { .. } | Task::Place(_), Some(stream)) => take(lie, stream),
        _ => Outcome::Done,
    };
    if is_silent {
        // Its stream stays open.
        std::mem::forget(stream);
        return Ok(());
    }
    drop(stream);
    let is_other = lie == "other-id" && task.has_stream();
    task_ended(control, id + u32::from(is_other), outcome)
}

/// What is called so is a directory.
fn stat(path: &str, lie: &str) -> Outcome {
    let is_dir = path.ends_with('/') || path.ends_with("dir");
    Outcome::Stat(PathStat {
        mode: match lie {
            "stat-mode" => u32::MAX,
            "stat-link" => 0o120_777,
            _ if is_dir => 0o040_755,
            _ => 0o100_644,
        },
        size: u64::MAX,
        link: match lie {
            "stat-link" => "../".repeat(1000) + "etc",
            _ => String::new(),
        },
    })
}

fn failed() -> Outcome {
    Outcome::Failed {
        kind: FailureKind::Other,
        message: long(),
    }
}

fn archive(lie: &str, top: &str, stream: &mut File) -> Outcome {
    if lie == "failed" {
        let _ = archives::write("short", top, stream);
        return failed();
    }
    if lie == "sealed" {
        let _ = archives::write("other-top", top, stream);
        return Outcome::Done;
    }
    match archives::write(lie, top, stream) {
        // The host has enough of it, which is its matter.
        Some(_) => Outcome::Done,
        // As little as a layer can be.
        None => {
            let _ = stream.write_all(&[0; 1024]);
            Outcome::Done
        }
    }
}

fn changes(lie: &str, stream: &mut File) -> Outcome {
    let bytes: &[u8] = match lie {
        "changes-dots" => b"A/fine\0C/../../etc/passwd\0",
        "changes-relative" => b"Aetc/passwd\0",
        "changes-kind" => b"X/etc\0",
        "changes-half" => b"A/fine\0A/half",
        "changes-cursor" => b"A/\x1b[2J\nD /etc\0",
        "changes-long" => &[b'A'; 1],
        _ => b"A/fine\0",
    };
    let _ = stream.write_all(bytes);
    if lie == "changes-long" {
        let _ = stream.write_all(&vec![b'/'; 1 << 20]);
    }
    match lie {
        "failed" => failed(),
        _ => Outcome::Done,
    }
}

/// What is put into the container's files.
fn take(lie: &str, stream: &mut File) -> Outcome {
    match lie {
        // Without a look at it.
        "take-nothing" => Outcome::Done,
        "failed" => failed(),
        _ => {
            let _ = std::io::copy(stream, &mut std::io::sink());
            Outcome::Done
        }
    }
}
