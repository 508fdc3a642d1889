//! Readers of tar that disagree, of the archives that `load` takes: each of the table of hostile images as
//! `stream` reads it, GNU tar and libarchive's bsdtar list it. Where one of them lists something else, ours
//! refuses, or there is a reason in a list. (Layers are read by the agent, whose tests compare its reader.)

use hostile_images::listing::{BSD, Listed, differing, normal, shown};
use hostile_images::tarball::Tar;
use hostile_images::{Base, cases};

use super::super::stream::{self, MemberKind};

/// Bytes of the longest archive that is listed.
const MAX: usize = 4 << 20;

/// Who lists something else than ours, and why ours does as it does.
const REVIEWED: [(&str, &str, &str); 1] = [(
    "digest-empty",
    BSD,
    "takes a name with a slash for a directory's, and its data for headers; Go passes over the data",
)];

/// Our reader's list; `None` where it refuses.
fn ours(tar: &[u8]) -> Option<Listed> {
    let mut listed = Listed::new();
    let read = stream::read(tar, |member, content| {
        let (kind, between) = match member.kind {
            MemberKind::File => ('-', ""),
            MemberKind::Hardlink => ('h', " link to "),
            MemberKind::Symlink => ('l', " -> "),
            MemberKind::Other => ('?', ""),
        };
        let link: &[u8] = if between.is_empty() {
            b""
        } else {
            &member.link
        };
        let text = [&member.name, between.as_bytes(), link].concat();
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(stream::reason)?;
        let size = if kind == '-' { bytes.len() as u64 } else { 0 };
        listed.push((kind, size, shown(&text)));
        Ok(())
    });
    read.ok().map(|()| normal(listed))
}

/// What is of no use in an archive is one kind here.
fn without_kinds(listed: Listed) -> Listed {
    listed
        .into_iter()
        .map(|(kind, size, name)| match kind {
            '-' | 'h' | 'l' => (kind, size, name),
            _ => ('?', 0, name),
        })
        .collect()
}

#[test]
fn where_readers_of_archives_disagree_there_is_a_reason() {
    let base = Base {
        tar: Tar::new().dir("bin").end(),
    };
    let (mut wrong, mut seen, mut compared) = (Vec::new(), Vec::new(), 0);
    for case in cases() {
        let tar = case.archive(&base, "hostile:latest");
        let Some(own) = ours(&tar).filter(|_| tar.len() <= MAX) else {
            continue;
        };
        compared += 1;
        for (reader, listed) in differing(&tar, &own) {
            let listed = listed.map(without_kinds);
            if listed.as_ref() == Ok(&own) {
                continue;
            }
            seen.push((case.name, reader));
            let mut reviewed = REVIEWED.iter();
            if !reviewed
                .any(|(name, of, why)| (*name, *of) == (case.name, reader) && !why.is_empty())
            {
                wrong.push(format!(
                    "{}: {own:?} here, {listed:?} with {reader}",
                    case.name
                ));
            }
        }
    }
    assert!(compared > 400, "{compared} archives");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, reader, _) in REVIEWED {
        assert!(seen.contains(&(name, reader)), "{name}: {reader} agrees");
    }
}
