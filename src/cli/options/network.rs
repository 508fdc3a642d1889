//! The network's flags: which network, its Ethernet address, published ports. [`super`] calls it.

use anyhow::{Result, bail};

use crate::cli::flags::Flags;
use crate::cli::values::network::mac_address;
use crate::cli::values::ports::{self, PublishedRange};

/// What the flags say of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkOptions {
    /// Docker's word for it: `bridge` or `none`.
    pub mode: Mode,
    /// `--mac-address`.
    pub mac: Option<[u8; 6]>,
    /// `-p`.
    pub published: Vec<PublishedRange>,
    /// `-P`.
    pub publish_all: bool,
}

/// Networks that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A network card, and the host's connections.
    Bridge,
    /// The loopback only.
    None,
}

impl NetworkOptions {
    /// Reads them.
    ///
    /// # Errors
    /// One sentence for a network that there is none of, and Docker's for what contradicts itself.
    pub fn parse(flags: &Flags) -> Result<Self> {
        let mut names = flags.list("network");
        // The same once more is the same.
        names.dedup();
        let mut wanted = Vec::new();
        for text in names {
            wanted.push(attachment(&text)?);
        }
        if wanted.len() > 1 {
            bail!(
                "--network is not supported more than once: a container has one network card; give \
                 one network"
            );
        }
        let Attachment { mode, mac } = wanted.pop().unwrap_or(Attachment {
            mode: Mode::Bridge,
            mac: None,
        });
        let own = flags.one("mac-address", mac_address)?;
        if own.is_some() && mac.is_some() && own != mac {
            bail!(
                "conflicting options: cannot specify both --mac-address and --network mac-address="
            );
        }
        let mut published = Vec::new();
        for text in flags.list("publish") {
            published.push(ports::published(&text)?);
        }
        let options = Self {
            mode,
            mac: own.or(mac),
            published,
            publish_all: flags.is_on("publish-all"),
        };
        options.check()?;
        Ok(options)
    }

    /// Docker drops what `none` has no use for; a flag that does nothing is refused here.
    fn check(&self) -> Result<()> {
        if self.mode == Mode::Bridge {
            return Ok(());
        }
        let useless = match self {
            Self { published, .. } if !published.is_empty() => "--publish",
            Self {
                publish_all: true, ..
            } => "--publish-all",
            Self { mac: Some(_), .. } => "--mac-address",
            _ => return Ok(()),
        };
        bail!(
            "conflicting options: {useless} and --network none: without a network there is nothing to reach"
        );
    }
}

/// One value of `--network`.
#[derive(Debug, Clone, Copy)]
struct Attachment {
    mode: Mode,
    mac: Option<[u8; 6]>,
}

fn attachment(text: &str) -> Result<Attachment> {
    if !text.contains('=') {
        return Ok(Attachment {
            mode: mode(text)?,
            mac: None,
        });
    }
    let mut attachment = Attachment {
        mode: Mode::Bridge,
        mac: None,
    };
    let mut named = false;
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=') else {
            bail!("invalid field {field}: must be a key=value pair");
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => {
                named = true;
                attachment.mode = mode(value)?;
            }
            "mac-address" => attachment.mac = Some(mac_address(value)?),
            "ip" | "ip6" => bail!(
                "--network {key}= is not supported: user specified IP address is supported on user \
                 defined networks only, which this version does not have"
            ),
            "alias" => bail!(
                "--network alias= is not supported: network-scoped aliases are only supported for \
                 user-defined networks, which this version does not have"
            ),
            "link-local-ip" | "driver-opt" | "gw-priority" => bail!(
                "--network {key}= is not supported: it is for user-defined networks, which this \
                 version does not have"
            ),
            _ => bail!("invalid field key {key}"),
        }
    }
    if !named {
        bail!("network name/id is not specified");
    }
    Ok(attachment)
}

fn mode(name: &str) -> Result<Mode> {
    match name {
        "" | "bridge" | "default" => Ok(Mode::Bridge),
        "none" => Ok(Mode::None),
        "host" => bail!(
            "--network=host is not supported: the container's VM has a network stack of its own, \
             the host's is out of reach; publish ports with -p"
        ),
        _ if name.starts_with("container:") => bail!(
            "--network={name} is not supported: each container runs in a VM of its own; publish \
             ports of that container with -p"
        ),
        _ => bail!(
            "network {name} not found: user-defined networks are not supported in this version; \
             leave --network out, or use none"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::tests::options;

    fn network(args: &[&str]) -> Result<NetworkOptions> {
        options(args).map(|options| options.network)
    }

    #[test]
    fn a_container_is_on_the_bridge_unless_it_wants_none() {
        for args in [
            &[][..],
            &["--network", "bridge"],
            &["--net=default"],
            &["--network", ""],
        ] {
            assert_eq!(network(args).unwrap().mode, Mode::Bridge, "{args:?}");
        }
        assert_eq!(network(&["--network=none"]).unwrap().mode, Mode::None);
        let long = network(&["--network", "name=bridge,mac-address=02:00:00:00:00:09"]).unwrap();
        assert_eq!(
            (long.mode, long.mac),
            (Mode::Bridge, Some([2, 0, 0, 0, 0, 9]))
        );
    }

    #[test]
    fn networks_that_there_are_none_of_are_refused_with_their_reason() {
        for (args, want) in [
            (&["--network", "host"][..], "has a network stack of its own"),
            (&["--network", "container:web"], "runs in a VM of its own"),
            (&["--network", "mine"], "network mine not found"),
            (
                &["--network", "name=bridge,ip=10.0.0.5"],
                "user defined networks only",
            ),
            (
                &["--network", "name=bridge,alias=x"],
                "user-defined networks",
            ),
            (
                &["--network", "name=bridge,gw-priority=1"],
                "user-defined networks",
            ),
            (&["--network", "name=bridge,x=1"], "invalid field key x"),
            (&["--network", "name=bridge,x"], "must be a key=value pair"),
            (&["--network", "alias=a"], "network-scoped aliases"),
            (
                &["--network", "mac-address=02:00:00:00:00:09"],
                "not specified",
            ),
            (
                &["--network", "none", "--network", "bridge"],
                "more than once",
            ),
            (
                &["--network", "none", "-p", "80"],
                "--publish and --network none",
            ),
            (
                &["--network", "none", "-P"],
                "--publish-all and --network none",
            ),
            (
                &["--network", "none", "--mac-address", "02:00:00:00:00:09"],
                "--mac-address and",
            ),
            (&["--mac-address", "x"], "invalid MAC address"),
            (&["--mac-address", "01:00:00:00:00:09"], "multicast"),
            (
                &["--mac-address", "02:42:AC:11:00:01"],
                "02:42:AC:11:00:01: it is the gateway's",
            ),
        ] {
            let error = format!("{:#}", network(args).unwrap_err());
            assert!(error.contains(want), "{args:?}: {error}");
        }
    }
}
