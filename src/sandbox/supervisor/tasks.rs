//! Tasks that commands have the agent do: the container's files, its changes, its processes. Their
//! streams go from the VM right to the command.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use protocol::message::Request;
use protocol::task::{CHANGE_PATH_MAX, Outcome, Task, TaskId};

use super::super::state::Status;
use super::super::wire::ToCommand;
use super::clients::{ClientId, Role};
use super::{Supervisor, failed, has_ended};

impl Supervisor {
    /// Begins a task for a command; an answer when it can't be.
    pub(super) fn task(
        &mut self,
        client: ClientId,
        task: Box<Task>,
        stream: Result<Option<OwnedFd>>,
    ) -> Option<ToCommand> {
        if !matches!(self.state.status, Status::Running | Status::Paused) {
            return Some(self.not_running());
        }
        match stream.and_then(|stream| self.begin_task(task, stream)) {
            Ok(id) => {
                self.clients.set_role(client, Role::Task(id));
                None
            }
            Err(error) => Some(failed(&error)),
        }
    }

    fn begin_task(&mut self, task: Box<Task>, stream: Option<OwnedFd>) -> Result<TaskId> {
        let running = self.running.as_mut().context("the VM is gone")?;
        let id = running.next_task;
        running.next_task += 1;
        let port = match stream {
            Some(stream) => {
                let port = running.ports.draw()?;
                running.vm.offer_end(port, stream.as_fd())?;
                Some(port)
            }
            None => None,
        };
        self.send(Request::Task { id, task, port });
        Ok(id)
    }

    /// A task is over. One that nobody waits for is a command's that went away.
    pub(super) fn note_task(&mut self, id: TaskId, outcome: Outcome) {
        self.clients.answer_those(
            |role| matches!(role, Role::Task(task) if *task == id),
            &ToCommand::TaskEnded(outcome),
        );
    }

    /// The VM is gone, and what was asked of it is not done.
    pub(super) fn end_tasks(&mut self) {
        self.clients
            .answer_those(|role| matches!(role, Role::Task(_)), &has_ended());
    }
}

/// What a command is told of an outcome: short enough for what its socket holds, as it may not read for
/// a while and the supervisor waits for nobody. `None` for what no agent of ours says.
pub(super) fn told(outcome: &Outcome) -> Option<Outcome> {
    match outcome {
        Outcome::Failed { kind, message } => Some(Outcome::Failed {
            kind: *kind,
            message: super::super::printable(message),
        }),
        Outcome::Stat(stat) if stat.link.len() > CHANGE_PATH_MAX => None,
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::message::FailureKind;
    use protocol::task::PathStat;

    use super::*;

    #[test]
    fn what_a_guest_says_of_a_task_is_short() {
        let failed = Outcome::Failed {
            kind: FailureKind::NotRunning,
            message: "x".repeat(1 << 19),
        };
        let Some(Outcome::Failed { message, .. }) = told(&failed) else {
            panic!("a failure is one");
        };
        assert!(message.len() < 1024, "{}", message.len());
        let stat = |len| {
            Outcome::Stat(PathStat {
                mode: 0,
                size: 0,
                link: "l".repeat(len),
            })
        };
        assert_eq!(told(&stat(CHANGE_PATH_MAX)), Some(stat(CHANGE_PATH_MAX)));
        assert_eq!(told(&stat(CHANGE_PATH_MAX + 1)), None);
    }
}
