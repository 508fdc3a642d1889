//! Values of flags: text to checked values, as Docker reads them. Pure.

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use protocol::spec::Rlimit;

/// Longest line of an environment or label file in bytes, as in Docker.
const FILE_LINE_MAX: usize = 64 << 10;

/// `1g`, `64m`, `1.5KiB`, `1024`: bytes with a binary suffix (go-units `RAMInBytes`).
pub fn bytes(text: &str) -> Result<u64> {
    let wrong = || format!("invalid size: '{text}'");
    let lower = text.trim().to_ascii_lowercase();
    let split = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, suffix) = lower.split_at(split);
    let suffix = suffix.trim_start();
    let unit = suffix
        .strip_suffix("ib")
        .or_else(|| suffix.strip_suffix('b'))
        .unwrap_or(suffix);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => bail!(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().with_context(wrong)?;
    let scale = 1_u64 << shift;
    let mut total = whole.checked_mul(scale).with_context(wrong)?;
    if !fraction.is_empty() {
        let digits = fraction.get(..fraction.len().min(9)).unwrap_or_default();
        let part: u64 = digits.parse().with_context(wrong)?;
        let base = 10_u64.pow(u32::try_from(digits.len())?);
        let extra = u128::from(part) * u128::from(scale) / u128::from(base);
        total = total
            .checked_add(u64::try_from(extra)?)
            .with_context(wrong)?;
    }
    Ok(total)
}

/// `1.5` as thousandths of a CPU, at most nine fraction digits in Docker; finer ones do not count.
pub fn cpus(text: &str) -> Result<u64> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 {
        bail!("{text} has more than 9 fraction digits");
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().with_context(wrong)?
    };
    let mut thousandths = 0;
    for place in 0..3 {
        let digit = match fraction.as_bytes().get(place) {
            Some(byte) if byte.is_ascii_digit() => u64::from(byte - b'0'),
            Some(_) => bail!(wrong()),
            None => 0,
        };
        thousandths = thousandths * 10 + digit;
    }
    whole
        .checked_mul(1000)
        .and_then(|n| n.checked_add(thousandths))
        .with_context(wrong)
}

/// `0-3,5` as a sorted list.
pub fn cpu_set(text: &str) -> Result<Vec<usize>> {
    let wrong = || format!("invalid list of CPUs: '{text}'");
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: usize = from.trim().parse().with_context(wrong)?;
        let to: usize = to.trim().parse().with_context(wrong)?;
        if from > to || to >= 4096 {
            bail!(wrong());
        }
        all.extend(from..=to);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// A signal by name, with or without SIG, or by number.
pub fn signal(text: &str) -> Result<i32> {
    let wrong = || format!("invalid signal: {text}");
    if let Ok(number) = text.parse::<i32>() {
        if !(1..=64).contains(&number) {
            bail!(wrong());
        }
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('+').with_context(wrong)?.parse()?
        };
        return Ok(34 + offset).and_then(|n: i32| if n <= 64 { Ok(n) } else { bail!(wrong()) });
    }
    let signal: Signal = format!("SIG{name}").parse().with_context(wrong)?;
    Ok(signal as i32)
}

/// `nofile=1024:2048`.
pub fn ulimit(text: &str) -> Result<Rlimit> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, values) = text
        .split_once('=')
        .with_context(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        bail!("invalid ulimit type: {name}");
    }
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        _ => text
            .parse()
            .with_context(|| format!("invalid ulimit value: {text}")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        bail!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
    }
    Ok(Rlimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// Every capability of Linux 6.12, by its number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The set that `--cap-add`, `--cap-drop` and `--privileged` leave, sorted.
pub fn capabilities(add: &[String], drop: &[String], privileged: bool) -> Result<Vec<String>> {
    let name = |text: &String| {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
        if bare != "ALL" && !CAPABILITIES.contains(&bare.as_str()) {
            bail!("invalid capability: unknown capability to add or drop: \"{text}\"");
        }
        Ok(bare)
    };
    let add: Vec<String> = add.iter().map(name).collect::<Result<_>>()?;
    let drop: Vec<String> = drop.iter().map(name).collect::<Result<_>>()?;
    if privileged {
        let mut all: Vec<String> = CAPABILITIES.map(str::to_owned).to_vec();
        all.sort();
        return Ok(all);
    }
    let everything = add.iter().any(|cap| cap == "ALL");
    let nothing = drop.iter().any(|cap| cap == "ALL");
    let base: &[&str] = match (everything, nothing) {
        (true, _) => &CAPABILITIES,
        (false, true) => &[],
        (false, false) => &DEFAULT_CAPABILITIES,
    };
    let mut set: std::collections::BTreeSet<String> =
        base.iter().map(|cap| (*cap).to_owned()).collect();
    for cap in drop.iter().filter(|cap| *cap != "ALL") {
        set.remove(cap);
    }
    set.extend(add.into_iter().filter(|cap| cap != "ALL"));
    Ok(set.into_iter().collect())
}

/// `ctrl-p,ctrl-q` as bytes.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    text.split(',')
        .filter(|key| !key.is_empty())
        .map(|key| {
            let wrong = || format!("invalid detach keys ({text}) provided");
            if let Some(letter) = key.strip_prefix("ctrl-") {
                return match letter.as_bytes() {
                    [c @ b'a'..=b'z'] => Ok(c - b'a' + 1),
                    [c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(c - b'@'),
                    _ => bail!(wrong()),
                };
            }
            match key.as_bytes() {
                [c] => Ok(*c),
                _ => bail!(wrong()),
            }
        })
        .collect()
}

/// `K=V` lines of an environment or label file; bare names are looked up with `bare`, and left out
/// when that knows nothing.
pub fn file_lines(
    path: &str,
    text: &str,
    bare: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        if line.len() > FILE_LINE_MAX {
            bail!("{path}: a line is longer than {FILE_LINE_MAX} bytes");
        }
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split_once('=').map_or(line, |(key, _)| key);
        if key.is_empty() {
            bail!("no variable name on line '{line}'");
        }
        if key.contains(char::is_whitespace) {
            bail!("variable '{key}' contains whitespaces");
        }
        if line.contains('=') {
            all.push(line.to_owned());
        } else {
            all.extend(bare(key));
        }
    }
    Ok(all)
}

/// `host:ip` or `host=ip`, the address possibly in brackets.
pub fn extra_host(text: &str) -> Result<(String, String)> {
    let wrong = || format!("bad format for add-host: \"{text}\"");
    let (host, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .with_context(wrong)?;
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if host.is_empty() || host.contains(char::is_whitespace) {
        bail!(wrong());
    }
    if address == "host-gateway" {
        bail!("--add-host {text}: the VM has no network, so there is no gateway to the host");
    }
    if address.parse::<std::net::IpAddr>().is_err() {
        bail!("invalid IP address in add-host: \"{address}\"");
    }
    Ok((host.to_owned(), address.to_owned()))
}

/// A container's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn container_name(text: &str) -> Result<&str> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let name = text.strip_prefix('/').unwrap_or(text);
    let ok = name.len() >= 2
        && name
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(good);
    if !ok {
        bail!("Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, want) in [
            ("0", 0),
            ("1024", 1024),
            ("1b", 1),
            ("1k", 1024),
            ("1.5K", 1536),
            ("64MB", 64 << 20),
            ("64mib", 64 << 20),
            ("2g", 2 << 30),
            ("1t", 1 << 40),
            ("0.5m", 1 << 19),
            ("1 kb", 1024),
        ] {
            assert_eq!(bytes(text).unwrap(), want, "{text}");
        }
        for text in ["", "m", "-1", "1x", "1kk", "1e3", "99999999999p", "."] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_are_counted_in_thousandths() {
        for (text, want) in [
            ("1", 1000),
            ("1.5", 1500),
            (".25", 250),
            ("0.0015", 1),
            ("2.", 2000),
        ] {
            assert_eq!(cpus(text).unwrap(), want, "{text}");
        }
        for text in ["x", "1.x", "-1", "1.0000000001"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_sets_are_sorted_lists() {
        assert_eq!(cpu_set("5,0-2,1").unwrap(), [0, 1, 2, 5]);
        for text in ["", "a", "3-1", "0-5000", "1,,2"] {
            assert!(cpu_set(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals_by_name_and_number() {
        for (text, want) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("int", 2),
            ("10", 10),
            ("RTMIN+3", 37),
        ] {
            assert_eq!(signal(text).unwrap(), want, "{text}");
        }
        for text in ["0", "65", "NOPE", "", "RTMIN+99"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ulimits_have_names_docker_knows() {
        let limit = ulimit("nofile=10:20").unwrap();
        assert_eq!(
            (limit.name.as_str(), limit.soft, limit.hard),
            ("nofile", 10, 20)
        );
        assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
        for text in ["nofile", "nofile=20:10", "files=1", "nofile=x"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn capabilities_are_added_to_and_taken_from_dockers_default() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(capabilities(&[], &[], false).unwrap().len(), 14);
        assert_eq!(
            capabilities(&list(&["net_admin"]), &list(&["ALL"]), false).unwrap(),
            ["NET_ADMIN"]
        );
        assert_eq!(
            capabilities(&list(&["ALL"]), &list(&["CAP_SYS_ADMIN"]), false)
                .unwrap()
                .len(),
            40
        );
        assert_eq!(capabilities(&[], &list(&["ALL"]), true).unwrap().len(), 41);
        let error = capabilities(&list(&["FLY"]), &[], false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"FLY\""), "{error}");
    }

    #[test]
    fn detach_keys_are_bytes() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(detach_keys("ctrl-@,a").unwrap(), [0, b'a']);
        assert!(detach_keys("ctrl-P").is_err());
        assert!(detach_keys("shift-a").is_err());
    }

    #[test]
    fn files_of_variables_are_taken_literally() {
        let known = |name: &str| (name == "HOME").then(|| "HOME=/h".to_owned());
        let lines = file_lines(
            "f",
            "\u{feff}A=1 \n# c\n\n  B=\"x\"\nHOME\nGONE\nC=\n",
            &known,
        )
        .unwrap();
        assert_eq!(lines, ["A=1 ", "B=\"x\"", "HOME=/h", "C="]);
        assert!(file_lines("f", "=x", &known).is_err());
        assert!(file_lines("f", "A B=x", &known).is_err());
    }

    #[test]
    fn extra_hosts_take_both_separators_and_brackets() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(extra_host("a:1.2.3.4").unwrap(), pair("a", "1.2.3.4"));
        assert_eq!(extra_host("a=[::1]").unwrap(), pair("a", "::1"));
        assert_eq!(extra_host("a:::1").unwrap(), pair("a", "::1"));
        assert!(extra_host("a").is_err());
        assert!(extra_host("a:nonsense").is_err());
    }

    #[test]
    fn container_names_are_dockers() {
        assert_eq!(container_name("/web-1").unwrap(), "web-1");
        for text in ["", "a", "-a", "a b", "ä1", "../x"] {
            assert!(container_name(text).is_err(), "{text}");
        }
    }
}
