//! The hidden verb `__launcher`: carries out the orders of a supervisor that is shut in. What each may name
//! was fixed when it was started; whoever orders may have been taken over by a guest.
//!
//! Called by `main`; [`super`] is the supervisor's side.
#![allow(unsafe_code)] // takes ownership of inherited descriptors by number

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};

use super::super::network::{self, PublishedPort, Routes};
use super::super::paths::Root;
use super::super::state::Folder;
use super::super::vmm_process::{check_parent, pin_threads};
use super::super::wire::Link;
use super::super::{control_group, files, plain, volumes};
use super::{
    Answer, CONFIG_BYTES_MAX, CONFIG_FD, LauncherConfig, Order, SOCKET_FD, child_of, end, of_vmm,
};

/// Most host CPUs that a VM is kept on: as many as the kernel's sets have.
const CPUS_MAX: usize = nix::sched::CpuSet::count();

/// The hidden verb: carries out the orders of the process that started it, until that is gone.
///
/// # Errors
/// When its configuration is unusable.
pub fn main() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie the launcher to its supervisor")?;
    // SAFETY: the supervisor passed these descriptors for this use only.
    let (socket, config) = unsafe {
        (
            UnixStream::from_raw_fd(SOCKET_FD),
            File::from_raw_fd(CONFIG_FD),
        )
    };
    nix::fcntl::fcntl(
        &socket,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .context("keep the launcher's socket")?;
    let mut text = Vec::new();
    config
        .take(CONFIG_BYTES_MAX)
        .read_to_end(&mut text)
        .context("read the launcher's configuration")?;
    let config: LauncherConfig =
        serde_json::from_slice(&text).context("parse the launcher's configuration")?;
    check_parent(config.supervisor)?;
    let mut link = Link::of_launcher(socket);
    while let Some(order) = link.wait::<Order>()? {
        let (answer, process) = match carry_out(&config, order, link.take_all()) {
            Ok(done) => done,
            Err(error) => (Answer::Refused(format!("{error:#}")), None),
        };
        let process: Vec<BorrowedFd> = process.iter().map(AsFd::as_fd).collect();
        link.send(&answer, &process)?;
    }
    Ok(())
}

fn carry_out(
    config: &LauncherConfig,
    order: Order,
    mut descriptors: Vec<OwnedFd>,
) -> Result<(Answer, Option<OwnedFd>)> {
    let wanted = match &order {
        Order::Vmm(count) => count.saturating_add(2),
        Order::Files => files::ENDS,
        Order::Passt(..) => 2,
        Order::Kill | Order::Pin(_) => 1,
        Order::Agent(_, ports) => plain::Ends::count(ports),
        _ => 0,
    };
    if descriptors.len() != wanted {
        bail!("{} descriptors instead of {wanted}", descriptors.len());
    }
    let mut next = || descriptors.remove(0);
    let group = control_group::entrance(config.group.as_deref());
    let agent = config.agent.as_ref();
    let plain = || agent.context("there is no plain container");
    let done = Ok((Answer::Done, None));
    let (pid, process) = match order {
        Order::Vmm(_) => {
            let (stdout, stderr) = (next(), next());
            of_vmm(stdout, stderr, descriptors)?.spawn_beside(group)?
        }
        Order::Files => {
            let ends = files::Ends::of([next(), next(), next(), next()]);
            let (program, server) = files::program(&config.shares, config.supervisor, ends)?;
            let process = program.spawn_beside(group)?;
            server.write()?;
            process
        }
        Order::Passt(endpoint, ports) => {
            // One for each that was asked for, in their order.
            let mut asked = config.ports.iter();
            let is_other = |port: &&PublishedPort| !asked.next().is_some_and(|it| it.takes(port));
            if let Some(port) = ports.iter().find(is_other) {
                bail!("port {} is not the container's", port.host_port);
            }
            network::program(&endpoint, &ports, next(), next())?.spawn_beside(group)?
        }
        Order::Agent(block_io, ports) => {
            let ends = plain::Ends::of(&ports, next);
            let (program, agent) = plain::program(plain()?, block_io, ends)?;
            let process = program.spawn_beside(None)?;
            // That it has ended by now is what its connection tells.
            let _ = agent.write();
            process
        }
        Order::Remove => {
            Folder::at(config.folder.clone()).remove()?;
            return done;
        }
        Order::Weight(weight) => {
            plain::set_weight(plain()?, weight)?;
            return done;
        }
        Order::Group => {
            match agent {
                Some(agent) => plain::remove_group(agent),
                None => config.group.iter().for_each(|it| control_group::remove(it)),
            }
            return done;
        }
        Order::Volumes => {
            volumes::remove_anonymous(&Root::at(config.root.clone()), &config.volumes)?;
            return done;
        }
        Order::Kill => {
            let child = next();
            child_of(config.supervisor, child.as_fd())?;
            end(child.as_fd())?;
            return done;
        }
        Order::Pin(cpus) => {
            if cpus.len() > CPUS_MAX {
                bail!("{} CPUs are more than {CPUS_MAX}", cpus.len());
            }
            pin_threads(child_of(config.supervisor, next().as_fd())?, &cpus)?;
            return done;
        }
        Order::Routes => return Ok((Answer::Routes(Routes::read()), None)),
        Order::Ports(v6, attempt) => {
            let ports = network::resolve(&config.ports, v6, attempt.max(1))?;
            return Ok((Answer::Ports(ports), None));
        }
    };
    Ok((Answer::Process(pid.as_raw_nonzero().get()), Some(process)))
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::super::super::block_io::Controls;
    use super::super::super::child::Child;
    use super::super::super::network::{PortRequest, Protocol, template_endpoint};
    use super::*;

    fn some(count: usize) -> Vec<OwnedFd> {
        let null = || File::open("/dev/null").unwrap().into();
        std::iter::repeat_with(null).take(count).collect()
    }

    #[test]
    fn passt_gets_the_containers_ports_and_no_other() {
        let request = PortRequest {
            host_ip: None,
            host_ports: Some((8000, 8001)),
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let port = |host_port, container_port, protocol| PublishedPort {
            host_ip: None,
            host_port,
            container_port,
            protocol,
        };
        let asked = port(8001, 80, Protocol::Tcp);
        assert!(request.takes(&asked));
        let random = PortRequest {
            host_ports: None,
            ..request.clone()
        };
        assert!(random.takes(&port(u16::MAX, 80, Protocol::Tcp)));
        assert!(!random.takes(&port(22, 80, Protocol::Tcp)));
        let config = LauncherConfig {
            ports: vec![request],
            ..LauncherConfig::default()
        };
        // Each that was asked for is published once.
        let twice = vec![asked, port(8000, 80, Protocol::Tcp)];
        let order = Order::Passt(template_endpoint(), twice);
        let error = carry_out(&config, order, some(2)).unwrap_err().to_string();
        assert_eq!(error, "port 8000 is not the container's");
        for other in [
            port(8002, 80, Protocol::Tcp),
            port(8000, 81, Protocol::Tcp),
            port(8000, 80, Protocol::Udp),
            PublishedPort {
                host_ip: Some([127, 0, 0, 1].into()),
                ..port(8000, 80, Protocol::Tcp)
            },
        ] {
            let order = Order::Passt(template_endpoint(), vec![other.clone()]);
            let error = carry_out(&config, order, some(2)).unwrap_err().to_string();
            let words = format!("port {} is not the container's", other.host_port);
            assert_eq!(error, words);
        }
    }

    #[test]
    fn an_order_comes_with_its_descriptors() {
        let config = LauncherConfig::default();
        // One too few, and one too many.
        for (order, count) in [
            (Order::Vmm(3), 4),
            (Order::Vmm(3), 6),
            (Order::Files, 5),
            (Order::Routes, 1),
            (Order::Agent(Controls::default(), vec![1, 2]), 4),
            (Order::Remove, 1),
            (Order::Volumes, 1),
        ] {
            let error = carry_out(&config, order, some(count)).unwrap_err();
            let words = format!("{count} descriptors instead of");
            assert!(error.to_string().starts_with(&words), "{error}");
        }
        let (routes, _) = carry_out(&config, Order::Routes, Vec::new()).unwrap();
        assert!(matches!(routes, Answer::Routes(_)));
    }

    #[test]
    fn a_vms_launcher_has_no_plain_container() {
        let config = LauncherConfig::default();
        let agent = Order::Agent(Controls::default(), Vec::new());
        for (order, count) in [(agent, 3), (Order::Weight(None), 0)] {
            let error = carry_out(&config, order, some(count)).unwrap_err();
            assert_eq!(error.to_string(), "there is no plain container");
        }
    }

    #[test]
    fn only_children_of_its_supervisor_are_ended_or_moved_to_other_cpus() {
        use rustix::process::{PidfdFlags, pidfd_open};
        let child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let mut child = Child::adopt(child).unwrap();
        let config = LauncherConfig {
            supervisor: std::process::id(),
            ..LauncherConfig::default()
        };
        let order = |order: Order, process: OwnedFd| {
            let done = carry_out(&config, order, vec![process]);
            done.map(drop).map_err(|error| format!("{error:#}"))
        };
        let open = |id| pidfd_open(Pid::from_raw(id).unwrap(), PidfdFlags::empty()).unwrap();
        let error = order(Order::Pin(vec![0; CPUS_MAX + 1]), open(1)).unwrap_err();
        assert_eq!(
            error,
            format!("{} CPUs are more than {CPUS_MAX}", CPUS_MAX + 1)
        );
        let words = "look for a child: process 1 is none of the supervisor's";
        for of_others in [Order::Kill, Order::Pin(vec![0])] {
            assert_eq!(order(of_others, open(1)).unwrap_err(), words);
        }
        // What stands for no process, and a folder that the kernel takes for one.
        for path in ["/dev/null", "/proc/1"] {
            let file = File::open(path).unwrap().into();
            let error = order(Order::Kill, file).unwrap_err();
            assert_eq!(error, "look for a child: it is no process that lives");
        }
        let own = child.as_fd().try_clone_to_owned().unwrap();
        order(Order::Kill, own.try_clone().unwrap()).unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(libc::SIGKILL)
        );
        // It was waited for: its number may be another's.
        order(Order::Kill, own).unwrap_err();
    }

    #[test]
    fn it_removes_the_containers_folder_and_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let [own, other] = ["own", "other"].map(|name| temp.path().join(name));
        for folder in [&own, &other] {
            std::fs::create_dir_all(folder.join("in")).unwrap();
        }
        let config = LauncherConfig {
            folder: own.clone(),
            ..LauncherConfig::default()
        };
        // It may have gone already.
        for _ in 0..2 {
            let (done, _) = carry_out(&config, Order::Remove, Vec::new()).unwrap();
            assert!(matches!(done, Answer::Done));
            assert!(!own.exists() && other.exists());
        }
        // So with a control group, which has files of the kernel's only.
        let config = LauncherConfig {
            group: Some(other.join("in")),
            ..LauncherConfig::default()
        };
        carry_out(&config, Order::Group, Vec::new()).unwrap();
        assert!(!other.join("in").exists() && other.exists());
    }
}
