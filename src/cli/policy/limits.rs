//! What a slice is limited to for a policy's rules: as properties of systemd, and as files of cgroup v2.
//!
//! Pure: [`super::slices`] writes it, [`super::verb`] shows it.

use super::rules::{Rule, Rules};

/// `cpu.max`: the period in microseconds, the kernel's and systemd's own choice.
pub const PERIOD_US: u64 = 100_000;

/// The kernel counts memory by pages.
const PAGE_BYTES: u64 = 4096;

/// Processes and threads of one VM: some 20, and as many as it has vCPUs, of which there may be 32.
const TASKS_OF_VM: u64 = 64;

/// Those that a user may have beside, a desktop's browser included.
const TASKS_BESIDE: u64 = 2048;

/// What a slice is limited to. `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    memory_bytes: Option<u64>,
    cpus: Option<u64>,
    tasks: Option<u64>,
}

impl Limits {
    /// Those that stand for rules. One of 0 is none: the user's shell is in the slice, too.
    #[must_use]
    pub fn of(rules: &Rules) -> Self {
        let value = |rule: &Option<Rule<u64>>| {
            rule.as_ref()
                .map(|rule| rule.value)
                .filter(|value| *value > 0)
        };
        let pages = |bytes: u64| bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES);
        let tasks = |vms: u64| vms.saturating_mul(TASKS_OF_VM).saturating_add(TASKS_BESIDE);
        Self {
            memory_bytes: value(&rules.memory).map(pages),
            cpus: value(&rules.vcpus),
            tasks: value(&rules.vms).map(tasks),
        }
    }

    /// The property of systemd that stands for a rule.
    #[must_use]
    pub fn property(&self, rule: &str) -> Option<String> {
        match rule {
            "memory" => self.memory_bytes.map(|bytes| format!("MemoryMax={bytes}")),
            "vcpus" => {
                let percent = self.cpus.map(|cpus| cpus.saturating_mul(100));
                percent.map(|percent| format!("CPUQuota={percent}%"))
            }
            "vms" => self.tasks.map(|tasks| format!("TasksMax={tasks}")),
            _ => None,
        }
    }

    /// As a file that is beside a slice's unit.
    #[must_use]
    pub fn drop_in(&self) -> String {
        let mut text = "# Made of /etc/bulkhead/policy.toml by `bulkhead system policy --apply`, \
                        which writes it anew.\n[Slice]\n"
            .to_owned();
        let properties = ["memory", "vcpus", "vms"].map(|rule| self.property(rule));
        for property in properties.into_iter().flatten() {
            text.push_str(&property);
            text.push('\n');
        }
        text
    }

    /// Files of a control group and what is to be in them.
    #[must_use]
    pub fn files(&self) -> [(&'static str, Option<String>); 3] {
        let quota = |cpus: u64| format!("{} {PERIOD_US}", cpus.saturating_mul(PERIOD_US));
        [
            (
                "memory.max",
                self.memory_bytes.map(|bytes| bytes.to_string()),
            ),
            ("cpu.max", self.cpus.map(quota)),
            ("pids.max", self.tasks.map(|tasks| tasks.to_string())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::policy::rules::Document;

    fn limits(rules: &str) -> Limits {
        let document = Document::parse(&format!("[default]\n{rules}\n")).unwrap();
        Limits::of(&document.default_rules().unwrap())
    }

    #[test]
    fn rules_become_limits() {
        let all = limits("vms = 3\nvcpus = 2\nmemory = \"10000\"");
        assert_eq!(
            all.drop_in().lines().skip(1).collect::<Vec<_>>(),
            [
                "[Slice]",
                "MemoryMax=12288",
                "CPUQuota=200%",
                "TasksMax=2240"
            ]
        );
        let values = all.files().map(|(_, value)| value.unwrap());
        assert_eq!(values, ["12288", "200000 100000", "2240"]);
        // Who may run nothing may still log in.
        assert_eq!(
            limits("vms = 0\nvcpus = 0\nmemory = \"0\""),
            Limits::default()
        );
        assert_eq!(
            limits("disk = \"1g\"\nbind-mounts = false"),
            Limits::default()
        );
    }
}
