//! The commands that talk to a supervisor: the one that started it, and those that come by the
//! container's socket.
//!
//! Called by [`super`], which decides what becomes of their messages. A command may go away at any
//! time; nobody waits for it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Result;
use protocol::message::ProcessId;
use protocol::task::TaskId;

use super::super::client::Listener;
use super::super::streams::Attached;
use super::super::wire::{Link, StreamSet, ToCommand, ToSupervisor};

/// Names a connection.
pub(super) type ClientId = u64;

/// Connections at once: each is a descriptor, and so are the pipes that it brings.
const CLIENTS_MAX: usize = 256;

/// What a command waits for.
#[derive(Debug, Default)]
pub(super) enum Role {
    /// Nothing.
    #[default]
    None,
    /// The end of the container's process, with whose streams it is joined.
    Attached(Option<Attached>),
    /// The end of a process that it had started.
    Exec(ProcessId),
    /// The end of a task.
    Task(TaskId),
    /// The container's end.
    Ended,
    /// So too, which it asked for.
    Stopped,
    /// That it runs again.
    StartedAgain,
    /// That it is frozen, or thawed.
    Frozen,
}

#[derive(Debug)]
struct Client {
    link: Link,
    role: Role,
    /// Whether it has asked for anything.
    heard: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Clients {
    listener: Listener,
    all: BTreeMap<ClientId, Client>,
    next: ClientId,
}

impl Clients {
    /// The one that started the supervisor, and whoever connects.
    pub(super) fn new(listener: Listener, first: UnixStream) -> (Self, ClientId) {
        let mut clients = Self {
            listener,
            all: BTreeMap::new(),
            next: 0,
        };
        let id = clients.add(Link::new(first));
        (clients, id)
    }

    fn add(&mut self, link: Link) -> ClientId {
        let id = self.next;
        self.next += 1;
        let client = Client {
            link,
            role: Role::None,
            heard: false,
        };
        self.all.insert(id, client);
        id
    }

    /// What to poll: who connects, as `None`, and what each says.
    pub(super) fn fds(&self) -> impl Iterator<Item = (Option<ClientId>, BorrowedFd<'_>)> {
        let each = self.all.iter();
        let each = each.map(|(id, client)| (Some(*id), client.link.as_fd()));
        std::iter::once((None, self.listener.as_fd())).chain(each)
    }

    /// Takes one that connects; `false` when nobody does.
    pub(super) fn accept(&mut self) -> bool {
        let Some(stream) = self.listener.accept() else {
            return false;
        };
        if self.all.len() < CLIENTS_MAX {
            self.add(Link::new(stream));
        }
        true
    }

    /// Takes all that have connected.
    pub(super) fn accept_all(&mut self) {
        while self.accept() {}
    }

    /// Lets go of all that connect now.
    pub(super) fn turn_away(&self) {
        while self.listener.accept().is_some() {}
    }

    /// Whether one has connected and not said yet what it wants.
    pub(super) fn has_unheard(&self) -> bool {
        self.all.values().any(|client| !client.heard)
    }

    /// Waits for the first message of a command that has sent it already.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn first_message(&mut self, id: ClientId) -> Result<Option<ToSupervisor>> {
        match self.all.get_mut(&id) {
            Some(client) => {
                client.heard = true;
                client.link.wait()
            }
            None => Ok(None),
        }
    }

    /// What a command says; its end, or nonsense, means that it is gone.
    pub(super) fn read(&mut self, id: ClientId) -> Vec<ToSupervisor> {
        let mut messages = Vec::new();
        let Some(client) = self.all.get_mut(&id) else {
            return messages;
        };
        let mut open = client.link.receive().unwrap_or(false);
        loop {
            match client.link.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        client.heard |= !messages.is_empty();
        if !open {
            self.all.remove(&id);
        }
        messages
    }

    /// The descriptors that came with a message.
    ///
    /// # Errors
    /// When one is missing, or the command is gone.
    pub(super) fn take(&mut self, id: ClientId, set: StreamSet) -> Result<[Option<OwnedFd>; 3]> {
        match self.all.get_mut(&id) {
            Some(client) => client.link.take(set),
            None => anyhow::bail!("the command is gone"),
        }
    }

    /// The one descriptor that came with a message.
    ///
    /// # Errors
    /// When it is missing, or the command is gone.
    pub(super) fn take_one(&mut self, id: ClientId) -> Result<OwnedFd> {
        match self.all.get_mut(&id) {
            Some(client) => client.link.take_one(),
            None => anyhow::bail!("the command is gone"),
        }
    }

    /// Whether it is connected.
    pub(super) fn has(&self, id: ClientId) -> bool {
        self.all.contains_key(&id)
    }

    /// What a command waits for; one that is gone waits for nothing.
    pub(super) fn role(&self, id: ClientId) -> &Role {
        self.all.get(&id).map_or(&Role::None, |client| &client.role)
    }

    pub(super) fn set_role(&mut self, id: ClientId, role: Role) {
        if let Some(client) = self.all.get_mut(&id) {
            client.role = role;
        }
    }

    /// Tells a command; one that is gone has nothing to be told.
    pub(super) fn tell(&self, id: ClientId, message: &ToCommand) {
        if let Some(client) = self.all.get(&id) {
            let _ = client.link.send(message, &[]);
        }
    }

    /// Tells those that wait for `what`.
    pub(super) fn tell_those(&self, what: impl Fn(&Role) -> bool, message: &ToCommand) {
        for client in self.all.values().filter(|client| what(&client.role)) {
            let _ = client.link.send(message, &[]);
        }
    }

    /// Tells those that wait for `what`, who then wait no more.
    pub(super) fn answer_those(&mut self, what: impl Fn(&Role) -> bool, message: &ToCommand) {
        self.tell_those(&what, message);
        for client in self.all.values_mut().filter(|client| what(&client.role)) {
            client.role = Role::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::client;
    use super::super::super::state::Folder;
    use super::*;

    #[test]
    fn who_is_turned_away_is_not_heard_and_nothing_is_left_to_accept() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::at(temp.path().join("containers/c"));
        std::fs::create_dir_all(folder.path()).unwrap();
        let (first, _command) = UnixStream::pair().unwrap();
        let (mut clients, id) = Clients::new(Listener::bind(&folder).unwrap(), first);
        let mut links: Vec<_> = (0..2)
            .map(|_| client::connect(&folder).unwrap().unwrap())
            .collect();
        clients.turn_away();
        for link in &mut links {
            assert_eq!(link.wait::<ToCommand>().unwrap(), None);
        }
        assert!(!clients.accept());
        assert!(clients.has(id) && !clients.has(id + 1));
    }
}
