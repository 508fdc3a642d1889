//! `--tmpfs`: the mount options that a user wrote, merged with Docker's defaults.
//!
//! Called by [`crate::rootfs`]. Pure. It checks names; what a size or a mode may be is the kernel's
//! to say.

use rustix::mount::MountAttrFlags;

/// Keys with a value that tmpfs takes.
const VALUES: [&str; 7] = [
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "mpol",
];

/// Options of one tmpfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Attributes of the mount.
    pub attributes: MountAttrFlags,
    /// Flags of the file system: `sync`, `dirsync`, `mand`.
    pub flags: Vec<&'static str>,
    /// Keys and values for the file system, each key once.
    pub values: Vec<(String, String)>,
}

/// An option that no tmpfs has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid tmpfs option [{0:?}]")]
pub struct InvalidOption(String);

/// Merges a comma-separated list with the defaults `noexec,nosuid,nodev`; later words win.
///
/// # Errors
/// The first word that is no option of a tmpfs. Propagation modes other than private are none:
/// nothing outside the VM could share the mount.
pub fn parse(list: &str) -> Result<Options, InvalidOption> {
    let mut options = Options {
        attributes: MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV,
        flags: Vec::new(),
        values: Vec::new(),
    };
    if list.is_empty() {
        return Ok(options);
    }
    for word in list.split(',') {
        options
            .apply(word)
            .ok_or_else(|| InvalidOption(word.to_owned()))?;
    }
    Ok(options)
}

impl Options {
    fn apply(&mut self, word: &str) -> Option<()> {
        use MountAttrFlags as A;
        let (attribute, on) = match word {
            "ro" => (A::MOUNT_ATTR_RDONLY, true),
            "rw" => (A::MOUNT_ATTR_RDONLY, false),
            "nosuid" => (A::MOUNT_ATTR_NOSUID, true),
            "suid" => (A::MOUNT_ATTR_NOSUID, false),
            "nodev" => (A::MOUNT_ATTR_NODEV, true),
            "dev" => (A::MOUNT_ATTR_NODEV, false),
            "noexec" => (A::MOUNT_ATTR_NOEXEC, true),
            "exec" => (A::MOUNT_ATTR_NOEXEC, false),
            "nodiratime" => (A::MOUNT_ATTR_NODIRATIME, true),
            "diratime" => (A::MOUNT_ATTR_NODIRATIME, false),
            "noatime" => return self.access_times(A::MOUNT_ATTR_NOATIME),
            "strictatime" | "norelatime" => return self.access_times(A::MOUNT_ATTR_STRICTATIME),
            "relatime" | "atime" | "nostrictatime" => {
                return self.access_times(A::MOUNT_ATTR_RELATIME);
            }
            "sync" => return self.flag("sync", true),
            "async" => return self.flag("sync", false),
            "dirsync" => return self.flag("dirsync", true),
            "mand" => return self.flag("mand", true),
            "nomand" => return self.flag("mand", false),
            "defaults" | "private" | "rprivate" => return Some(()),
            _ => return self.value(word),
        };
        self.attributes.set(attribute, on);
        Some(())
    }

    /// The three ways to keep access times exclude each other; relatime is no bit at all.
    fn access_times(&mut self, way: MountAttrFlags) -> Option<()> {
        self.attributes.remove(MountAttrFlags::MOUNT_ATTR__ATIME);
        self.attributes.insert(way);
        Some(())
    }

    fn flag(&mut self, name: &'static str, on: bool) -> Option<()> {
        self.flags.retain(|flag| *flag != name);
        if on {
            self.flags.push(name);
        }
        Some(())
    }

    fn value(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        if !VALUES.contains(&key) || value.contains('\0') {
            return None;
        }
        self.values.retain(|(other, _)| other != key);
        self.values.push((key.to_owned(), value.to_owned()));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: MountAttrFlags = MountAttrFlags::from_bits_retain(
        MountAttrFlags::MOUNT_ATTR_NOEXEC.bits()
            | MountAttrFlags::MOUNT_ATTR_NOSUID.bits()
            | MountAttrFlags::MOUNT_ATTR_NODEV.bits(),
    );

    #[test]
    fn nothing_means_dockers_defaults() {
        let options = parse("").unwrap();
        assert_eq!(options.attributes, DEFAULTS);
        assert!(options.flags.is_empty() && options.values.is_empty());
    }

    #[test]
    fn later_words_win() {
        let options = parse("size=1m,exec,mode=700,uid=5,noexec,exec,size=2m").unwrap();
        assert_eq!(
            options.attributes,
            DEFAULTS - MountAttrFlags::MOUNT_ATTR_NOEXEC
        );
        let values = [("mode", "700"), ("uid", "5"), ("size", "2m")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(options.values, values);
    }

    #[test]
    fn flags_and_access_times() {
        let options = parse("ro,sync,dirsync,async,noatime,strictatime,rprivate").unwrap();
        assert_eq!(
            options.attributes,
            DEFAULTS | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(options.flags, ["dirsync"]);
        assert_eq!(parse("noatime,atime,rw").unwrap().attributes, DEFAULTS);
    }

    #[test]
    fn words_of_other_file_systems_are_refused() {
        for bad in [
            "",
            "bind",
            "shared",
            "remount",
            "size",
            "lowerdir=/",
            "size =1",
            "=1",
        ] {
            let error = parse(&format!("exec,{bad}")).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid tmpfs option [{bad:?}]"));
        }
    }
}
