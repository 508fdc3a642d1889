//! A container that is stopped: its layers and its writable disk, and no process.
//!
//! Called by [`crate::init`] when the host wants to look into such a container or to change its
//! files. The disk is left as clean as after a run.

use std::os::fd::AsFd;

use protocol::message::{Event, Request};
use protocol::spec::RunSpec;
use rustix::event::{PollFd, PollFlags, poll};

use crate::control::{Control, ControlError};
use crate::init_layer::Places;
use crate::layers;
use crate::tasks::{Tasks, View};

/// Stacks the layers and serves tasks until the host has enough.
///
/// # Errors
/// Only those of the control connection.
pub fn run(
    spec: &RunSpec,
    requests: impl Iterator<Item = Request>,
    control: &mut Control,
) -> Result<(), ControlError> {
    let stack = match layers::stack(spec, Places::All) {
        Ok(stack) => stack,
        Err(failure) => {
            return control.send(&Event::Failed {
                process: 0,
                kind: failure.kind,
                message: failure.message,
            });
        }
    };
    control.send(&Event::Held)?;
    let view = View {
        spec,
        stack: &stack,
        main: None,
        cgroup: None,
    };
    let mut tasks = Tasks::default();
    let outcome = serve(view, &mut tasks, requests, control);
    for event in tasks.kill_all() {
        if outcome.is_ok() {
            control.send(&event)?;
        }
    }
    // A disk that can't be left clean has at least been written back.
    let _ = stack.finish();
    outcome
}

fn serve(
    view: View<'_>,
    tasks: &mut Tasks,
    requests: impl Iterator<Item = Request>,
    control: &mut Control,
) -> Result<(), ControlError> {
    let mut requests: Vec<Request> = requests.collect();
    loop {
        for request in requests.drain(..) {
            match request {
                Request::Task { id, task, port } => {
                    if let Some(event) = tasks.start(id, &task, port, view) {
                        control.send(&event)?;
                    }
                }
                Request::Shutdown => return Ok(()),
                // There is no process that the others could be for.
                _ => {}
            }
        }
        requests = wait(tasks, control)?;
    }
}

/// Waits for the host, and tells it of tasks that are over; its requests, if there are any.
///
/// # Errors
/// Only those of the control connection.
pub fn wait(tasks: &mut Tasks, control: &mut Control) -> Result<Vec<Request>, ControlError> {
    let (control_ready, ready) = {
        let mut fds = vec![PollFd::from_borrowed_fd(
            control.as_fd(),
            control.interest(),
        )];
        let (ids, reports): (Vec<_>, Vec<_>) = tasks.interests().unzip();
        let reports = reports.into_iter();
        fds.extend(reports.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        if poll(&mut fds, None).is_err() {
            return Ok(Vec::new());
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let control_ready = ready.next() == Some(true);
        let ready = ids.into_iter().zip(ready).filter(|(_, is_ready)| *is_ready);
        let ready: Vec<_> = ready.map(|(id, _)| id).collect();
        (control_ready, ready)
    };
    for id in ready {
        if let Some(event) = tasks.advance(id) {
            control.send(&event)?;
        }
    }
    match control_ready {
        true => {
            control.flush()?;
            control.receive()
        }
        false => Ok(Vec::new()),
    }
}
