//! The thread that serves the connections of an HTTP client, beside the threads that wait for it.
//!
//! `http` starts it; `reach` looks names up in threads of their own. tokio's own threads are not used: it
//! panics where the host has no further one, or never looks the name up.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Dropped, it ends with its thread.
#[derive(Debug)]
pub(super) struct Runtime {
    handle: Handle,
    _alive: oneshot::Sender<()>,
}

impl Runtime {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        // That nobody sends is the end.
        let serve = move || drop(runtime.block_on(ended));
        in_thread("registry", serve)?;
        Ok(Self {
            handle,
            _alive: alive,
        })
    }

    /// Waits for `future` in this thread.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }
}

/// What `work` returns, which is done in a thread of its own.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    // Who asked may have given up.
    in_thread("lookup", move || drop(sender.send(work())))?;
    receiver.await.map_err(io::Error::other)?
}

fn in_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_threads_wait_for_one() {
        let runtime = Runtime::start().unwrap();
        let tick = || async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            7
        };
        std::thread::scope(|scope| {
            let waits = || runtime.block_on(tick());
            let threads = [0; 3].map(|_| scope.spawn(waits));
            assert_eq!(threads.map(|thread| thread.join().unwrap()), [7; 3]);
        });
        let failed = runtime.block_on(apart(|| Err::<(), _>(io::Error::other("no such name"))));
        assert_eq!(failed.unwrap_err().to_string(), "no such name");
        assert_eq!(runtime.block_on(apart(|| Ok(8))).unwrap(), 8);
    }
}
