//! What the host's administrator allows: `/etc/bulkhead/policy.toml`, which only root may write.
//!
//! Called by the verbs that make or start containers and that talk to registries. What is said here holds
//! for whoever uses this command; a user who runs a binary of his own is held by what the kernel keeps,
//! which [`verb`] sets (docs/policy.md).

mod limits;
mod people;
mod rules;
mod slices;
pub mod verb;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use images::Reference;

use self::rules::{Document, Rule, Rules};
use crate::sandbox::containers;
use crate::sandbox::launch::Launch;
use crate::sandbox::network::PortRequest;
use crate::sandbox::paths::{self, Root};
use crate::sandbox::room::{self, Claim, Size};
use crate::sandbox::state::{ContainerConfig, Holder, Lock};
use crate::sandbox::volumes::MountKind;

/// Where it is. No variable leads elsewhere: it is not the user's to choose.
const PATH: &str = "/etc/bulkhead/policy.toml";

/// Bytes of it; a rule for each of a thousand users has 100 KiB.
const BYTES_MAX: u64 = 1 << 20;

/// A refusal, and whom to ask.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not allowed: {rule} of [{section}] in {PATH} is {allowed}")]
pub struct NotAllowed {
    what: String,
    rule: &'static str,
    section: String,
    allowed: String,
}

impl NotAllowed {
    /// What the user can do about it.
    pub fn hint(&self) -> String {
        "ask who administers this host".to_owned()
    }
}

/// What this user may.
#[derive(Debug)]
pub struct Policy(Rules);

impl Policy {
    /// Reads it; without a file everything is allowed.
    ///
    /// # Errors
    /// It can't be read, somebody else than root may have written it, or it is none.
    pub fn of_user() -> Result<Self> {
        let rules = document()?.rules(&people::caller()?);
        Ok(Self(rules.with_context(|| format!("read {PATH}"))?))
    }

    /// Whether this registry may be asked.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn check_registry(&self, reference: &Reference) -> Result<()> {
        check_registry(&self.0, reference.domain())
    }

    /// Whether the state root may grow.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn check_disk(&self, root: &Root) -> Result<()> {
        let Some(rule) = &self.0.disk else {
            return Ok(());
        };
        let used = paths::space_below(root.path());
        match used < rule.value {
            true => Ok(()),
            false => refuse(
                format!("more than the {used} bytes in {}", root.path().display()),
                "disk",
                rule,
                rules::in_bytes(&rule.value),
            ),
        }
    }

    /// Whether a process may run on the host's kernel.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn check_isolation(&self) -> Result<()> {
        check_isolation(&self.0)
    }

    /// Whether a container may have what it is to have.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn check_container(&self, config: &ContainerConfig) -> Result<()> {
        check_container(&self.0, config)
    }

    /// Whether a container that is about to be started, changed or looked into has room beside what runs.
    /// Who starts its VM has its `lock`; from then on it is counted, so that of two at once one is admitted.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn check_room(
        &self,
        root: &Root,
        config: &ContainerConfig,
        lock: Option<&Lock>,
    ) -> Result<()> {
        if !self.counts() {
            return Ok(());
        }
        let _alone = paths::lock(&root.containers())?;
        let mut all = Use::of(root, &config.id, &room::claimed(root)?)?;
        all.add(&config.launch, (0, 0));
        check_use(&self.0, &all)?;
        lock.map_or(Ok(()), Lock::admit)
    }

    /// Asked before a stopped container's files are held by a VM, with its lock.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn admit_files(root: &Root, config: &ContainerConfig, lock: &Lock) -> Result<()> {
        Self::of_user()?.check_room(root, config, Some(lock))
    }

    /// Has a VM of this build counted, if VMs are. The first one has to have room. Those beside it are not
    /// refused: a step that takes files of another stage needs both.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn admit_builder(&self, root: &Root, launch: &Launch) -> Result<Option<Claim>> {
        if !self.counts() {
            return Ok(None);
        }
        let _alone = paths::lock(&root.containers())?;
        let builders = room::claimed(root)?;
        if builders.iter().all(|one| one.process != std::process::id()) {
            let mut all = Use::of(root, "", &builders)?;
            all.add(launch, (0, 0));
            check_use(&self.0, &all)?;
        }
        Claim::make(root, launch.vcpu_count, launch.memory_mib).map(Some)
    }

    /// Whether there is a limit of what runs together.
    fn counts(&self) -> bool {
        let Rules {
            vms, vcpus, memory, ..
        } = &self.0;
        vms.is_some() || vcpus.is_some() || memory.is_some()
    }
}

/// What VMs and plain containers that run have together.
#[derive(Debug, Default, Clone, Copy)]
struct Use {
    vms: u64,
    vcpus: u64,
    bytes: u64,
}

impl Use {
    /// What runs but the container of this id: other containers, VMs that hold files of stopped ones, and
    /// those of builds.
    fn of(root: &Root, but: &str, builders: &[Size]) -> Result<Self> {
        let mut all = Self::default();
        for (folder, config) in containers::list(root)? {
            if config.id == but {
                continue;
            }
            // Whatever a supervisor that was taken over has written, there is a VM.
            let unreadable = |_| folder.path().exists().then_some(Holder::Admitted);
            match folder.holder().unwrap_or_else(unreadable) {
                // One that is not admitted yet may not be.
                None | Some(Holder::Unsigned) => {}
                Some(Holder::Files { .. }) => all.add(&config.launch, (0, 0)),
                Some(Holder::Admitted | Holder::Supervisor(_)) => {
                    // What it began with is what it has, whatever `update` has made of it for its next VM.
                    let size = folder.state().map_or((0, 0), |state| state.vm_size);
                    all.add(&config.launch, size);
                }
            }
        }
        for one in builders {
            all.count(one.vcpus, one.memory_mib);
        }
        Ok(all)
    }

    /// Adds one that is to have what `launch` says, or what its VM has if that is more.
    fn add(&mut self, launch: &Launch, (vcpus, memory_mib): (u8, u32)) {
        self.count(
            launch.vcpu_count.max(vcpus),
            launch.memory_mib.max(memory_mib),
        );
    }

    fn count(&mut self, vcpus: u8, memory_mib: u32) {
        self.vms += 1;
        self.vcpus += u64::from(vcpus);
        self.bytes += u64::from(memory_mib) << 20;
    }
}

fn check_use(rules: &Rules, all: &Use) -> Result<()> {
    if let Some(rule) = rules.vms.as_ref().filter(|rule| all.vms > rule.value) {
        let what = format!("to have {} VMs at once", all.vms);
        return refuse(what, "vms", rule, rule.value.to_string());
    }
    if let Some(rule) = rules.vcpus.as_ref().filter(|rule| all.vcpus > rule.value) {
        let what = format!("to have {} vCPUs at once", all.vcpus);
        return refuse(what, "vcpus", rule, rule.value.to_string());
    }
    if let Some(rule) = rules.memory.as_ref().filter(|rule| all.bytes > rule.value) {
        let what = format!("to have {} bytes of memory at once", all.bytes);
        return refuse(what, "memory", rule, rules::in_bytes(&rule.value));
    }
    Ok(())
}

fn check_registry(rules: &Rules, domain: &str) -> Result<()> {
    match &rules.registries {
        Some(rule) if !rule.value.iter().any(|allowed| allowed == domain) => refuse(
            format!("the registry {domain}"),
            "registries",
            rule,
            rules::listed(&rule.value),
        ),
        _ => Ok(()),
    }
}

fn check_isolation(rules: &Rules) -> Result<()> {
    match &rules.container_isolation {
        Some(rule) if !rule.value => refuse(
            "--isolation=container".to_owned(),
            "container-isolation",
            rule,
            "false".to_owned(),
        ),
        _ => Ok(()),
    }
}

fn check_container(rules: &Rules, config: &ContainerConfig) -> Result<()> {
    let launch = &config.launch;
    for port in launch.network.iter().flat_map(|network| &network.ports) {
        check_port(rules, port)?;
    }
    let bind = launch
        .mounts
        .iter()
        .find(|mount| mount.kind == MountKind::Bind);
    if let (Some(rule), Some(mount)) = (&rules.bind_mounts, bind)
        && !rule.value
    {
        let what = format!("to mount {}", mount.source.display());
        return refuse(what, "bind-mounts", rule, "false".to_owned());
    }
    Ok(())
}

fn check_port(rules: &Rules, port: &PortRequest) -> Result<()> {
    if let Some(rule) = &rules.ports {
        let allowed = |(first, last): (u16, u16)| {
            let mut ranges = rule.value.iter();
            ranges.any(|range| range.contains(&first) && range.contains(&last))
        };
        let any = (1, u16::MAX);
        let allowed_ports = || rules::port_list(&rule.value);
        match port.host_ports {
            ports if allowed(ports.unwrap_or(any)) => {}
            Some((first, last)) if first == last => {
                return refuse(format!("port {first}"), "ports", rule, allowed_ports());
            }
            Some((first, last)) => {
                let what = format!("a port of {first}-{last}");
                return refuse(what, "ports", rule, allowed_ports());
            }
            None => {
                let what = "a port that the kernel chooses".to_owned();
                return refuse(what, "ports", rule, allowed_ports());
            }
        }
    }
    if let Some(rule) = &rules.addresses {
        // Without an address it is at all of them, of both kinds.
        let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let wanted = port.host_ip.map_or(everywhere.to_vec(), |ip| vec![ip]);
        if let Some(ip) = wanted.iter().find(|ip| !rule.value.contains(ip)) {
            let what = format!("to publish a port at {ip}");
            return refuse(what, "addresses", rule, rules::listed(&rule.value));
        }
    }
    Ok(())
}

fn refuse<T>(what: String, name: &'static str, rule: &Rule<T>, allowed: String) -> Result<()> {
    let section = rule.section.clone();
    bail!(NotAllowed {
        what,
        rule: name,
        section,
        allowed
    })
}

/// What the file says; nothing when there is none.
fn document() -> Result<Document> {
    read(Path::new(PATH), 0)
        .and_then(|text| text.map_or(Ok(Document::default()), |text| Document::parse(&text)))
        .with_context(|| format!("read {PATH}"))
}

/// The file's text, if there is one. Nobody but `owner` may have written it.
fn read(path: &Path, owner: u32) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if metadata.uid() != owner || metadata.mode() & 0o022 != 0 {
        bail!("it has to be root's, and nobody else may write it");
    }
    if metadata.len() > BYTES_MAX {
        bail!("it has more than {BYTES_MAX} bytes");
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use nix::unistd::geteuid;

    use super::rules::Who;
    use super::*;
    use crate::sandbox::containers::tests::config;

    fn rules(text: &str) -> Rules {
        let who = Who {
            user: ["bob".to_owned(), "1000".to_owned()],
            groups: Vec::new(),
            is_root: false,
        };
        Document::parse(text).unwrap().rules(&who).unwrap()
    }

    fn port(host_ip: Option<&str>, host_ports: Option<(u16, u16)>) -> PortRequest {
        PortRequest {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_ports,
            container_port: 80,
            protocol: crate::sandbox::network::Protocol::Tcp,
        }
    }

    fn told(result: Result<()>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn a_refusal_names_the_rule() {
        let rules = rules("[default]\nregistries = [\"a.test\", \"b.test:5000\"]\n");
        check_registry(&rules, "b.test:5000").unwrap();
        assert_eq!(
            told(check_registry(&rules, "b.test")),
            "the registry b.test is not allowed: registries of [default] in \
             /etc/bulkhead/policy.toml is a.test, b.test:5000"
        );
        let error = check_registry(&rules, "x").unwrap_err();
        let hint = error.downcast_ref::<NotAllowed>().unwrap().hint();
        assert_eq!(hint, "ask who administers this host");
    }

    #[test]
    fn a_host_may_forbid_plain_containers() {
        check_isolation(&rules("[default]\nvms = 1\n")).unwrap();
        check_isolation(&rules("[default]\ncontainer-isolation = true\n")).unwrap();
        assert_eq!(
            told(check_isolation(&rules(
                "[default]\ncontainer-isolation = false\n"
            ))),
            "--isolation=container is not allowed: container-isolation of [default] in \
             /etc/bulkhead/policy.toml is false"
        );
    }

    #[test]
    fn ports_are_within_the_ranges_and_at_the_addresses() {
        let some =
            rules("[default]\nports = [\"8000-8010\", \"80\"]\naddresses = [\"127.0.0.1\"]\n");
        let local = Some("127.0.0.1");
        check_port(&some, &port(local, Some((8000, 8010)))).unwrap();
        check_port(&some, &port(local, Some((80, 80)))).unwrap();
        for (request, wanted) in [
            (
                port(local, Some((81, 81))),
                "port 81 is not allowed: ports of [default]",
            ),
            (
                port(local, Some((80, 8000))),
                "a port of 80-8000 is not allowed",
            ),
            (
                port(local, None),
                "a port that the kernel chooses is not allowed",
            ),
            (
                port(None, Some((80, 80))),
                "to publish a port at 0.0.0.0 is not allowed: addresses",
            ),
            (
                port(Some("::"), Some((80, 80))),
                "to publish a port at :: is not allowed",
            ),
        ] {
            let error = told(check_port(&some, &request));
            assert!(error.contains(wanted), "{error}");
        }
        check_port(&rules(""), &port(None, None)).unwrap();
        let any = rules("[default]\nports = [\"1-65535\"]\naddresses = [\"0.0.0.0\", \"::\"]\n");
        check_port(&any, &port(None, None)).unwrap();
        let v4 = rules("[default]\naddresses = [\"0.0.0.0\"]\n");
        let error = told(check_port(&v4, &port(None, Some((80, 80)))));
        assert!(
            error.starts_with("to publish a port at :: is not"),
            "{error}"
        );
        let none = rules("[default]\nports = []\n");
        let error = told(check_port(&none, &port(None, Some((80, 80)))));
        assert!(error.ends_with("is empty"), "{error}");
    }

    #[test]
    fn a_file_that_somebody_else_may_have_written_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let own = geteuid().as_raw();
        assert_eq!(read(&path, own).unwrap(), None);
        std::fs::write(&path, "[default]\n").unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o644);
        assert_eq!(read(&path, own).unwrap().as_deref(), Some("[default]\n"));
        let wanted = "it has to be root's, and nobody else may write it";
        assert_eq!(read(&path, own + 1).unwrap_err().to_string(), wanted);
        for writable in [0o664, 0o646] {
            mode(writable);
            assert_eq!(read(&path, own).unwrap_err().to_string(), wanted);
        }
        mode(0o600);
        let long = usize::try_from(BYTES_MAX).unwrap() + 1;
        std::fs::write(&path, "#".repeat(long)).unwrap();
        assert!(
            read(&path, own)
                .unwrap_err()
                .to_string()
                .contains("more than")
        );
    }

    #[test]
    fn what_runs_counts_together() {
        let mut all = Use::default();
        let mut one = config('a', "x", false);
        one.launch.vcpu_count = 2;
        one.launch.memory_mib = 512;
        all.add(&one.launch, (0, 0));
        // It was lowered for the next VM only.
        one.launch.vcpu_count = 1;
        one.launch.memory_mib = 128;
        all.add(&one.launch, (2, 512));
        for (text, wanted) in [
            (
                "vms = 1",
                "to have 2 VMs at once is not allowed: vms of [default]",
            ),
            ("vcpus = 3", "to have 4 vCPUs at once is not allowed"),
            (
                "memory = \"1000m\"",
                "to have 1073741824 bytes of memory at once is not allowed",
            ),
        ] {
            let error = told(check_use(&rules(&format!("[default]\n{text}\n")), &all));
            assert!(error.contains(wanted), "{error}");
        }
        let enough = rules("[default]\nvms = 2\nvcpus = 4\nmemory = \"1g\"\n");
        check_use(&enough, &all).unwrap();
    }
}
