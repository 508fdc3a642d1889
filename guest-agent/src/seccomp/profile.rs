//! A user's profile in Docker's JSON form as a policy.
//!
//! Called through [`Policy::from_profile`]. The profile is the user's own text, read on the host and
//! passed on as it is. System calls that Linux 6.12 does not know are skipped, as Docker does;
//! everything else that can't be carried out is an error.

use rustix::thread::CapabilitySet;
use serde::Deserialize;

use super::{Action, Comparison, Condition, FLAG_LOG, FLAG_SPEC_ALLOW, Policy, Rule, table};

/// What a profile's rules are included or excluded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// What the process may have.
    pub capabilities: CapabilitySet,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
}

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No JSON of this form.
    #[error("decoding seccomp profile failed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Two fields that say the same in two ways.
    #[error("{0:?} and {1:?} were specified in the seccomp profile, use either")]
    Both(&'static str, &'static str),
    /// A word that means nothing here, or nothing without a process on the host that answers.
    #[error("seccomp profile: unsupported {what} {word:?}")]
    Unsupported {
        /// What kind of word.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// An argument that no system call has.
    #[error("seccomp profile: system calls have no argument {0}")]
    NoArgument(u64),
}

fn unsupported(what: &'static str, word: &str) -> ProfileError {
    ProfileError::Unsupported {
        what,
        word: word.to_owned(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    includes: Option<Selector>,
    excludes: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

pub(super) fn parse(json: &str, context: &Context) -> Result<Policy, ProfileError> {
    let profile: Profile = serde_json::from_str(json)?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let i386 = covers_i386(&profile)?;
    let mut policy = Policy::new(default, i386, flags(profile.flags.as_deref())?);
    for listed in profile.syscalls.unwrap_or_default() {
        if !listed.name.is_empty() && !listed.names.is_empty() {
            return Err(ProfileError::Both("name", "names"));
        }
        let action = action(&listed.action, listed.errno_ret)?;
        let rules = rules(listed.args.as_deref().unwrap_or_default(), action)?;
        if !applies(&listed, context)? || action == default {
            continue;
        }
        let names = listed.names.iter().chain([&listed.name]);
        for row in names.filter_map(|name| table::row(name)) {
            for rule in &rules {
                policy.add(row, rule);
            }
        }
    }
    Ok(policy)
}

/// Native calls are always covered; 32-bit ones when either way to list architectures says so.
fn covers_i386(profile: &Profile) -> Result<bool, ProfileError> {
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(ProfileError::Both("architectures", "archMap"));
    }
    let is_i386 = |name: &String| name == "SCMP_ARCH_X86";
    let mapped = profile
        .arch_map
        .iter()
        .filter(|map| map.architecture == "SCMP_ARCH_X86_64")
        .flat_map(|map| map.sub_architectures.iter().flatten());
    Ok(profile.architectures.iter().chain(mapped).any(is_i386))
}

/// Without a word about flags the filter does not slow speculation down, as with runc.
fn flags(names: Option<&[String]>) -> Result<u32, ProfileError> {
    let Some(names) = names else {
        return Ok(FLAG_SPEC_ALLOW);
    };
    names.iter().try_fold(0, |flags, name| {
        Ok(flags
            | match name.as_str() {
                "SECCOMP_FILTER_FLAG_LOG" => FLAG_LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
                // The process has one thread when it loads its filter.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                _ => return Err(unsupported("flag", name)),
            })
    })
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, ProfileError> {
    const DEFAULT_ERRNO: u16 = 1;
    let errno = errno.unwrap_or(DEFAULT_ERRNO);
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Action::KILL_PROCESS,
        "SCMP_ACT_TRAP" => Action::TRAP,
        "SCMP_ACT_ERRNO" => Action::errno(errno),
        "SCMP_ACT_TRACE" => Action::trace(errno),
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_LOG" => Action::LOG,
        _ => return Err(unsupported("action", name)),
    })
}

/// One rule whose conditions must all hold; one rule for each condition when two of them look at
/// the same argument, as runc does.
fn rules(arguments: &[Argument], action: Action) -> Result<Vec<Rule>, ProfileError> {
    let conditions: Vec<Condition> = arguments.iter().map(condition).collect::<Result<_, _>>()?;
    let mut seen = [false; 6];
    let repeated = conditions.iter().any(|condition| {
        seen.get_mut(usize::from(condition.argument))
            .is_some_and(|slot| std::mem::replace(slot, true))
    });
    let groups: Vec<Vec<Condition>> = if repeated {
        conditions.into_iter().map(|one| vec![one]).collect()
    } else {
        vec![conditions]
    };
    Ok(groups
        .into_iter()
        .map(|conditions| Rule { conditions, action })
        .collect())
}

fn condition(argument: &Argument) -> Result<Condition, ProfileError> {
    let index = u8::try_from(argument.index)
        .ok()
        .filter(|index| *index < 6)
        .ok_or(ProfileError::NoArgument(argument.index))?;
    let (comparison, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (Comparison::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Comparison::Less, argument.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, argument.value),
        "SCMP_CMP_EQ" => (Comparison::Equal, argument.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, argument.value),
        "SCMP_CMP_GT" => (Comparison::Greater, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::Masked(argument.value), argument.value_two),
        other => return Err(unsupported("comparison", other)),
    };
    Ok(Condition {
        argument: index,
        comparison,
        value,
    })
}

/// Every capability and the kernel version of `includes` must be there, none of `excludes`.
fn applies(listed: &Listed, context: &Context) -> Result<bool, ProfileError> {
    let has = |name: &String| {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        CapabilitySet::from_name(bare).is_some_and(|one| context.capabilities.contains(one))
    };
    let native = |arches: &Vec<String>| arches.iter().any(|arch| arch == "amd64");
    if let Some(includes) = &listed.includes {
        let arches = includes.arches.as_ref().filter(|list| !list.is_empty());
        if !includes.caps.iter().flatten().all(has)
            || !arches.is_none_or(native)
            || !kernel_is(includes, context)?.unwrap_or(true)
        {
            return Ok(false);
        }
    }
    if let Some(excludes) = &listed.excludes
        && (excludes.caps.iter().flatten().any(has)
            || excludes.arches.as_ref().is_some_and(native)
            || kernel_is(excludes, context)?.unwrap_or(false))
    {
        return Ok(false);
    }
    Ok(true)
}

/// Whether the kernel is at least as new as the selector says, if it says.
fn kernel_is(selector: &Selector, context: &Context) -> Result<Option<bool>, ProfileError> {
    let Some(text) = selector
        .min_kernel
        .as_deref()
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let version = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| unsupported("kernel version", text))?;
    Ok(Some(context.kernel >= version))
}

#[cfg(test)]
mod tests {
    use super::super::filter::tests::{Machine, verdict, verdict_of_number};
    use super::*;
    use crate::seccomp::Program;

    const NO_CAPABILITIES: Context = Context {
        capabilities: CapabilitySet::empty(),
        kernel: (6, 12),
    };

    fn compile(json: &str, context: &Context) -> Program {
        Program::new(&parse(json, context).unwrap()).unwrap()
    }

    fn error(json: &str) -> String {
        parse(json, &NO_CAPABILITIES).unwrap_err().to_string()
    }

    #[test]
    fn a_profile_that_forbids_two_calls() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86"],"syscalls":[{"names":["mkdir","no_such_call"],
            "action":"SCMP_ACT_ERRNO","errnoRet":13},{"name":"chmod","action":"SCMP_ACT_ERRNO"},
            {"names":["getpid"],"action":"SCMP_ACT_KILL_PROCESS","args":null}]}"#;
        let program = compile(json, &NO_CAPABILITIES);
        for machine in [Machine::X86_64, Machine::I386] {
            let on = |name| verdict(&program, machine, name, &[]);
            assert_eq!(on("mkdir"), Action::errno(13));
            assert_eq!(on("chmod"), Action::errno(1));
            assert_eq!(on("getpid"), Action::KILL_PROCESS);
            assert_eq!(on("read"), Action::ALLOW);
            assert_eq!(
                verdict_of_number(&program, machine, 9999, &[]),
                Action::ALLOW
            );
        }
    }

    #[test]
    fn rules_are_selected_by_capability_kernel_and_architecture() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"archMap":[
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
            {"architecture":"SCMP_ARCH_RISCV64","subArchitectures":null}],"syscalls":[
            {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF","CAP_KILL"]}},
            {"names":["umount2"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_BPF"]}},
            {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
            {"names":["kcmp"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.13"}},
            {"names":["chroot"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm64"]}},
            {"names":["iopl"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","x32"]}},
            {"names":["ioperm"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["amd64"]}}]}"#;
        let plain = compile(json, &NO_CAPABILITIES);
        let capable = compile(
            json,
            &Context {
                capabilities: CapabilitySet::BPF,
                kernel: (6, 12),
            },
        );
        let table = [
            ("bpf", false, true),
            ("mount", false, false),
            ("umount2", true, false),
            ("ptrace", true, true),
            ("kcmp", false, false),
            ("chroot", false, false),
            ("iopl", true, true),
            ("ioperm", false, false),
        ];
        for (name, without, with) in table {
            for (program, want) in [(&plain, without), (&capable, with)] {
                let want = if want {
                    Action::ALLOW
                } else {
                    Action::NO_SUCH_CALL
                };
                assert_eq!(verdict(program, Machine::X86_64, name, &[]), want, "{name}");
            }
        }
    }

    #[test]
    fn conditions_on_different_arguments_must_all_hold_on_the_same_one_any() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[
              {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_GE"}]},
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
              {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":5,"op":"SCMP_CMP_GT"}]},
            {"names":["ioctl"],"action":"SCMP_ACT_LOG","args":[
              {"index":1,"value":240,"valueTwo":32,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let program = compile(json, &NO_CAPABILITIES);
        let on = |name, arguments: &[u64]| verdict(&program, Machine::X86_64, name, arguments);
        assert_eq!(on("socket", &[1, 2]), Action::ALLOW);
        assert_eq!(on("socket", &[1, 1]), Action::NO_PERMISSION);
        assert_eq!(on("socket", &[2, 2]), Action::NO_PERMISSION);
        assert_eq!(on("personality", &[1]), Action::ALLOW);
        assert_eq!(on("personality", &[5]), Action::NO_PERMISSION);
        assert_eq!(on("personality", &[6]), Action::ALLOW);
        assert_eq!(on("ioctl", &[0, 0x12f]), Action::LOG);
        assert_eq!(on("ioctl", &[0, 0x13f]), Action::NO_PERMISSION);
        assert_eq!(
            verdict(&program, Machine::I386, "read", &[]),
            Action::KILL_THREAD
        );
    }

    #[test]
    fn an_unconditional_rule_wins_wherever_it_stands() {
        let conditional = r#"{"names":["read"],"action":"SCMP_ACT_TRAP","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}"#;
        let unconditional = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
        for (first, second) in [(conditional, unconditional), (unconditional, conditional)] {
            let json =
                format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{first},{second}]}}"#);
            let program = compile(&json, &NO_CAPABILITIES);
            assert_eq!(
                verdict(&program, Machine::X86_64, "read", &[1]),
                Action::ALLOW
            );
        }
    }

    #[test]
    fn flags_are_dockers() {
        let with = |flags: &str| {
            let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#);
            compile(&json, &NO_CAPABILITIES).flags()
        };
        assert_eq!(with(""), FLAG_SPEC_ALLOW);
        assert_eq!(with(r#","flags":[]"#), 0);
        assert_eq!(
            with(r#","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC"]"#),
            FLAG_LOG
        );
    }

    #[test]
    fn what_can_not_be_carried_out_is_refused() {
        let with = |rule: &str| {
            error(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#
            ))
        };
        assert_eq!(
            with(r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#),
            "seccomp profile: unsupported action \"SCMP_ACT_NOTIFY\""
        );
        assert_eq!(
            with(r#"{"name":"read","names":["write"],"action":"SCMP_ACT_ALLOW"}"#),
            "\"name\" and \"names\" were specified in the seccomp profile, use either"
        );
        let argument = |index, op| {
            with(&format!(
                r#"{{"names":["read"],"action":"SCMP_ACT_TRAP",
                    "args":[{{"index":{index},"value":0,"op":"{op}"}}]}}"#
            ))
        };
        assert_eq!(
            argument(6, "SCMP_CMP_EQ"),
            "seccomp profile: system calls have no argument 6"
        );
        assert_eq!(
            argument(0, "=="),
            "seccomp profile: unsupported comparison \"==\""
        );
        assert_eq!(
            error(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#),
            "seccomp profile: unsupported flag \"X\""
        );
        assert!(error("{}").starts_with("decoding seccomp profile failed: missing field"));
        assert!(error("[[[[").starts_with("decoding seccomp profile failed"));
        assert_eq!(
            error(
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
                    "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":[]}]}"#
            ),
            "\"architectures\" and \"archMap\" were specified in the seccomp profile, use either"
        );
    }
}
