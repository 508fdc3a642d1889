//! Freezing and thawing a container's processes: for `pause` and `unpause`, and for as long as a command
//! such as `commit` is connected. Called by [`super`].

use protocol::message::Request;

use super::super::state::Status;
use super::super::wire::ToCommand;
use super::Supervisor;
use super::clients::{ClientId, Role};

impl Supervisor {
    /// Freezes or thaws it; an answer when that can't be.
    pub(super) fn freeze(&mut self, client: ClientId, frozen: bool) -> Option<ToCommand> {
        let id = &self.config.id;
        let sentence = match (self.state.status, frozen) {
            (Status::Running, true) | (Status::Paused, false) => {
                // From now on it is as this command says.
                self.holder = None;
                self.clients.set_role(client, Role::Frozen);
                self.send(Request::Freeze(frozen));
                return None;
            }
            (Status::Paused, true) => format!("container {id} is already paused"),
            (_, false) => format!("Container {id} is not paused"),
            (Status::Restarting, true) => {
                format!("Container {id} is restarting, wait until the container is running")
            }
            _ => return Some(self.not_running()),
        };
        Some(ToCommand::Refused(sentence))
    }

    /// Freezes it for as long as the command is connected, or thaws what that command froze.
    pub(super) fn hold_still(&mut self, client: ClientId, frozen: bool) -> Option<ToCommand> {
        if !frozen && self.holder != Some(client) {
            // Somebody had it go on before.
            return Some(ToCommand::Done);
        }
        let refusal = self.freeze(client, frozen);
        if frozen && refusal.is_none() {
            self.holder = Some(client);
        }
        refusal
    }

    /// A request to freeze failed.
    pub(super) fn note_not_frozen(&mut self, why: &str) {
        self.holder = None;
        let id = &self.config.id;
        let why = super::super::printable(why);
        self.clients.answer_those(
            |role| matches!(role, Role::Frozen),
            &ToCommand::Refused(format!("cannot pause container {id}: {why}")),
        );
    }

    /// Thaws what a command froze that is gone.
    pub(super) fn let_go(&mut self) {
        let gone = self.holder.take_if(|holder| !self.clients.has(*holder));
        let is_frozen = self.state.status == Status::Paused
            || self.running.as_ref().is_some_and(|r| r.freezes > 0);
        if gone.is_some() && is_frozen {
            self.send(Request::Freeze(false));
        }
    }
}
