//! What a supervisor notes in the journal of events; what the verbs do, they note themselves. Called by
//! [`super`] and the files beside this one; where the journal is, `sandbox/events` knows.

use super::super::clock::monotonic_ns;
use super::super::events;
use super::super::state::ContainerConfig;
use super::super::volumes::MountKind;
use super::Supervisor;

impl Supervisor {
    /// The configuration as it is now: it may have been renamed since it was read.
    pub(super) fn config_now(&self) -> ContainerConfig {
        self.folder.config().unwrap_or_else(|_| self.config.clone())
    }

    /// Notes that something happened to the container.
    pub(super) fn journal(&self, action: &str, details: &[(&str, String)]) {
        events::of_container(&self.folder, &self.config_now(), action, details);
    }

    /// Notes a signal that somebody sends to the container's process.
    pub(super) fn journal_kill(&self, signal: i32) {
        self.journal("kill", &[("signal", signal.to_string())]);
    }

    /// Notes the end of a process that ran.
    pub(super) fn journal_end(&self, code: u8) {
        if self.state.phases.started == 0 {
            return;
        }
        if self.state.oom_killed {
            self.journal("oom", &[]);
        }
        let ran_ns = monotonic_ns().saturating_sub(self.state.phases.started);
        let details = [
            ("exitCode", code.to_string()),
            ("execDuration", (ran_ns / 1_000_000_000).to_string()),
        ];
        self.journal("die", &details);
        self.journal_volumes("unmount");
    }

    /// Notes that the container has its volumes, or has them no more.
    pub(super) fn journal_volumes(&self, action: &str) {
        for mount in &self.config.launch.mounts {
            if mount.kind != MountKind::Volume {
                continue;
            }
            let mut details = vec![("container", self.config.id.clone())];
            if action == "mount" {
                details.extend([
                    ("destination", mount.target.clone()),
                    ("propagation", String::new()),
                    ("read/write", (!mount.read_only).to_string()),
                ]);
            }
            events::of_volume(self.root.path(), action, &mount.name, &details);
        }
    }
}
