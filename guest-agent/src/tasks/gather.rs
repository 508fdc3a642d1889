//! Collecting what a `COPY --from` or a mount takes of a stage or an image.
//!
//! Called by [`super`] in a child. The root is a stranger's: links lead nowhere but into it, and
//! patterns are run by an automaton that takes no longer the worse they are.

use std::io::Write;
use std::os::fd::BorrowedFd;

use protocol::pattern::{Pattern, PatternError};
use protocol::task::Gather;
use rustix::fs::FileType;
use rustix::io::Errno;
use tarball::shown;

use super::archive::Archive;
use super::place;
use crate::failure::{Context, Failure};

/// Sources that patterns may match in all.
const MATCHES_MAX: usize = 100_000;

/// Writes what `gather` names below `root` as an archive.
///
/// # Errors
/// A pattern that is none, a path that leads nowhere, or what reading and writing say.
pub fn from(root: BorrowedFd<'_>, gather: &Gather, to: impl Write) -> Result<(), Failure> {
    let excludes = patterns(&gather.excludes)?;
    let is_excluded = |path: &[u8]| excludes.iter().any(|pattern| pattern.matches(path));
    let mut archive = Archive::of_files(to);
    archive.is_excluded = (!excludes.is_empty()).then_some(&is_excluded);
    for source in &gather.sources {
        for path in matches(root, source)? {
            one(root, &path, source, gather, &is_excluded, &mut archive)?;
        }
    }
    archive.finish()
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>, Failure> {
    let bad = |error: PatternError| Failure::bad_config(error.to_string());
    texts
        .iter()
        .map(|text| Pattern::deep(text).map_err(bad))
        .collect()
}

/// Archives one source: a directory as an entry for the root and what is in it, anything else as an
/// entry of its name. Links to it are followed.
fn one(
    root: BorrowedFd<'_>,
    path: &[u8],
    source: &str,
    gather: &Gather,
    is_excluded: &dyn Fn(&[u8]) -> bool,
    archive: &mut Archive<'_, impl Write>,
) -> Result<(), Failure> {
    let found = place::look_in_root(root, path, !gather.parents)
        .config(|| format!("open {}", shown(path)))?;
    archive.begin_at(&found);
    let is_directory = place::kind(&found.stat) == FileType::Directory;
    if gather.parents {
        let kept = kept(path, source);
        let ends = kept.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut above = ends.map(|(end, _)| kept.get(..end).unwrap_or_default());
        if is_excluded(kept) || above.any(is_excluded) {
            return Ok(());
        }
        parents(root, path, kept, archive)?;
        if let Some(dir) = archive.put(found, kept)? {
            archive.walk(dir, kept)?;
        }
        return Ok(());
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = match is_directory {
        true => &b"."[..],
        false => name,
    };
    if !is_directory && is_excluded(name) {
        return Ok(());
    }
    match archive.put(found, name)? {
        Some(dir) => archive.walk(dir, b""),
        None => Ok(()),
    }
}

/// The part of a path that `--parents` keeps: what is behind `/./`, else all of it.
fn kept<'a>(path: &'a [u8], source: &str) -> &'a [u8] {
    let before = source.split_once("/./").map_or("", |(before, _)| before);
    let skipped = before.split('/').filter(|name| is_name(name)).count();
    let mut rest = path;
    for _ in 0..skipped {
        rest = match rest.iter().position(|byte| *byte == b'/') {
            Some(at) => rest.get(at + 1..).unwrap_or_default(),
            None => rest,
        };
    }
    rest
}

/// Archives the directories above the kept part of a path.
fn parents(
    root: BorrowedFd<'_>,
    path: &[u8],
    kept: &[u8],
    archive: &mut Archive<'_, impl Write>,
) -> Result<(), Failure> {
    let skipped = path.len() - kept.len();
    let slashes = kept.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    for (at, _) in slashes {
        let above = path.get(..skipped + at).unwrap_or_default();
        let found =
            place::look_in_root(root, above, true).config(|| format!("open {}", shown(above)))?;
        archive.put(found, kept.get(..at).unwrap_or_default())?;
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | ".")
}

/// The paths that a pattern matches, without a slash in front, in order. As in BuildKit it may match nothing, but
/// what is before its first wildcard has to be there.
fn matches(root: BorrowedFd<'_>, source: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let about = || format!("look for {source}");
    let missing = || Failure::bad_config(format!("lstat {source}: no such file or directory"));
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    let mut has_wildcards = false;
    for name in source.split('/').filter(|name| is_name(name)) {
        let is_pattern = Pattern::has_wildcards(name);
        if is_pattern && !has_wildcards && found.is_empty() {
            return Err(missing());
        }
        has_wildcards |= is_pattern;
        let pattern =
            Pattern::shallow(name).map_err(|error| Failure::bad_config(error.to_string()))?;
        let mut next = Vec::new();
        for above in found {
            let join = |name: &[u8]| match above.is_empty() {
                true => name.to_vec(),
                false => [&above, &b"/"[..], name].concat(),
            };
            if !is_pattern {
                // `\*` is a star.
                let path = join(unescaped(name).as_bytes());
                match place::look_in_root(root, &path, true) {
                    Ok(_) => next.push(path),
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(errno) => return Err(errno).config(about),
                }
                continue;
            }
            let above = match place::look_in_root(root, &above, true) {
                Ok(above) if place::kind(&above.stat) == FileType::Directory => above,
                _ => continue,
            };
            let names = place::names(std::os::fd::AsFd::as_fd(&above.fd)).context(about)?;
            next.extend(
                names
                    .iter()
                    .filter(|name| pattern.matches(name))
                    .map(|name| join(name)),
            );
            if next.len() > MATCHES_MAX {
                return Err(Failure::bad_config(format!(
                    "{source} matches more than {MATCHES_MAX} files"
                )));
            }
        }
        found = next;
    }
    match found.is_empty() && !has_wildcards {
        true => Err(missing()),
        false => Ok(found),
    }
}

fn unescaped(name: &str) -> String {
    let mut plain = String::new();
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        plain.extend(match character {
            '\\' => characters.next(),
            other => Some(other),
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use tarball::{EntryKind, TarReader};

    fn gathered(
        sources: &[&str],
        excludes: &[&str],
        parents: bool,
    ) -> Result<Vec<String>, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for dir in ["a/b/c", "a/empty", "x"] {
            std::fs::create_dir_all(path(dir)).unwrap();
        }
        for file in ["a/1.txt", "a/2.md", "a/b/3.txt", "a/b/c/4.txt", "x/st*r"] {
            std::fs::write(path(file), "").unwrap();
        }
        symlink("/a", path("link")).unwrap();
        symlink("../../../../..", path("x/out")).unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        let gather = Gather {
            sources: sources.iter().map(ToString::to_string).collect(),
            excludes: excludes.iter().map(ToString::to_string).collect(),
            parents,
        };
        let mut bytes = Vec::new();
        from(root.as_fd(), &gather, &mut bytes)?;
        let mut tar = TarReader::new(bytes.as_slice());
        let mut names = Vec::new();
        while let Some(entry) = tar.next_entry().unwrap() {
            let slash = if entry.kind == EntryKind::Directory {
                "/"
            } else {
                ""
            };
            let name = String::from_utf8(entry.path).unwrap();
            names.push(format!("{}{slash}", name.trim_end_matches('/')));
        }
        Ok(names)
    }

    #[test]
    fn directories_and_files_are_told_apart() {
        let of = |sources: &[&str]| gathered(sources, &[], false).unwrap();
        assert_eq!(
            of(&["/a"]),
            [
                "./",
                "1.txt",
                "2.md",
                "b/",
                "b/3.txt",
                "b/c/",
                "b/c/4.txt",
                "empty/"
            ]
        );
        assert_eq!(of(&["a/1.txt"]), ["1.txt"]);
        assert_eq!(of(&["a/*.txt", "/link/2.md"]), ["1.txt", "2.md"]);
        assert_eq!(
            of(&["*/b"]),
            [
                "./", "3.txt", "c/", "c/4.txt", "./", "3.txt", "c/", "c/4.txt"
            ]
        );
        assert_eq!(of(&["x/st\\*r"]), ["st*r"]);
        // A link that would lead out leads to the root.
        assert_eq!(of(&["x/out/a/b/3.txt"]), ["3.txt"]);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        for source in ["nope", "a/1.txt/x", "a/\\*.txt", "nope/*"] {
            let failure = gathered(&[source], &[], false).unwrap_err();
            assert!(failure.message.contains("no such file"), "{source}");
        }
        assert!(gathered(&["a/["], &[], false).is_err());
        assert!(gathered(&["a/*.txt", "nope"], &[], false).is_err());
    }

    #[test]
    fn a_pattern_may_match_nothing() {
        let of = |sources: &[&str]| gathered(sources, &[], false).unwrap();
        assert_eq!(of(&["a/*.nope", "a/1.txt"]), ["1.txt"]);
        assert_eq!(of(&["a/*.nope"]), Vec::<String>::new());
    }

    #[test]
    fn names_of_one_file_are_links_within_a_source_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for dir in ["one", "two"] {
            std::fs::create_dir(path(dir)).unwrap();
        }
        std::fs::write(path("one/a"), "x").unwrap();
        for name in ["one/b", "two/a", "two/b"] {
            std::fs::hard_link(path("one/a"), path(name)).unwrap();
        }
        let root = std::fs::File::open(folder.path()).unwrap();
        let linked = |sources: &[&str]| {
            let gather = Gather {
                sources: sources.iter().map(ToString::to_string).collect(),
                excludes: Vec::new(),
                parents: false,
            };
            let mut bytes = Vec::new();
            from(root.as_fd(), &gather, &mut bytes).unwrap();
            let mut tar = TarReader::new(bytes.as_slice());
            let mut entries = Vec::new();
            while let Some(entry) = tar.next_entry().unwrap() {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                match entry.kind {
                    EntryKind::Directory => {}
                    EntryKind::HardLink => {
                        let (name, first) = (text(&entry.path), text(&entry.link));
                        entries.push(format!("{name} = {first}"));
                    }
                    _ => entries.push(text(&entry.path)),
                }
            }
            entries
        };
        assert_eq!(linked(&["one", "two"]), ["a", "b = a", "a", "b = a"]);
        assert_eq!(linked(&["*"]), ["a", "b = a", "a", "b = a"]);
        assert_eq!(linked(&["one/a", "two/b"]), ["a", "b"]);
    }

    #[test]
    fn excluded_names_are_left_out_with_all_below() {
        let of = |excludes: &[&str]| gathered(&["a"], excludes, false).unwrap();
        assert_eq!(of(&["**/*.txt"]), ["./", "2.md", "b/", "b/c/", "empty/"]);
        assert_eq!(of(&["b", "*.txt"]), ["./", "2.md", "empty/"]);
    }

    #[test]
    fn excluded_names_are_left_out_of_parents_as_well() {
        let of = |excludes: &[&str]| gathered(&["a/*.txt", "a/b"], excludes, true).unwrap();
        assert_eq!(of(&["a/*.txt", "a/b/c"]), ["a/", "a/b/", "a/b/3.txt"]);
        assert_eq!(of(&["a"]), Vec::<String>::new());
    }

    #[test]
    fn parents_are_kept_from_the_mark_on() {
        let of = |sources: &[&str]| gathered(sources, &[], true).unwrap();
        assert_eq!(of(&["a/b/*.txt"]), ["a/", "a/b/", "a/b/3.txt"]);
        assert_eq!(of(&["a/./b/3.txt"]), ["b/", "b/3.txt"]);
    }
}
