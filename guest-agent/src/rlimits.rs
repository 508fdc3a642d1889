//! Resource limits of a process.
//!
//! Called by [`crate::launch`] while it still has every capability.

use protocol::spec::Rlimit as Wanted;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::failure::{Context, Failure};

/// What a process gets when nobody asked for another value: what a current Docker engine started
/// by systemd hands on, fixed so that a container does not depend on the guest's memory.
const DEFAULTS: [(Resource, Option<u64>, Option<u64>); 3] = [
    (Resource::Nofile, Some(1024), Some(524_288)),
    (Resource::Nproc, None, None),
    (Resource::Core, None, None),
];

/// Sets the defaults and then what was asked for, in this process.
///
/// # Errors
/// An unknown name, a soft limit above the hard one, or what the kernel refuses.
pub fn apply(wanted: &[Wanted]) -> Result<(), Failure> {
    for (resource, current, maximum) in DEFAULTS {
        setrlimit(resource, Rlimit { current, maximum })
            .context(|| format!("set the default limit of {resource:?}"))?;
    }
    for one in wanted {
        let resource = resource(&one.name)
            .ok_or_else(|| Failure::bad_config(format!("unknown ulimit {:?}", one.name)))?;
        let limit = Rlimit {
            current: finite(one.soft),
            maximum: finite(one.hard),
        };
        setrlimit(resource, limit)
            .config(|| format!("set ulimit {}={}:{}", one.name, one.soft, one.hard))?;
    }
    Ok(())
}

fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

/// The resource that `--ulimit` calls `name`.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_flag_is_known_and_no_other() {
        let names = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio \
                     rttime sigpending stack";
        let mut seen = Vec::new();
        for name in names.split_whitespace() {
            let found = resource(name).unwrap();
            assert!(!seen.contains(&found), "{name}");
            seen.push(found);
        }
        assert_eq!(seen.len(), 16);
        assert_eq!(resource("NOFILE"), None);
        assert_eq!(resource(""), None);
    }

    #[test]
    fn the_largest_number_means_no_limit() {
        assert_eq!(finite(u64::MAX), None);
        assert_eq!(finite(0), Some(0));
    }
}
