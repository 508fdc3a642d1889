//! Finding the program to execute and executing it, with the errors that Docker tells apart.
//!
//! Called by [`crate::launch`] as the container's user, inside its root. The wording of what can
//! go wrong is an interface: Docker's command line matches it to choose between 126 and 127.
// execve has no safe wrapper: it takes raw arrays of pointers.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use protocol::message::FailureKind;
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use crate::failure::{Failure, errno_text};

/// What a file says when asked whether it can be executed.
type Check<'a> = &'a dyn Fn(&Path) -> Result<(), Errno>;

/// Finds `name` as a shell would: as a path when it has a slash, otherwise in the folders of `path`.
///
/// # Errors
/// [`FailureKind::NotFound`], [`FailureKind::NotExecutable`], or another kind for what is neither,
/// such as a loop of links.
pub fn find(name: &str, path: Option<&str>) -> Result<PathBuf, Failure> {
    search(name, path.unwrap_or_default(), &executable)
}

fn search(name: &str, path: &str, check: Check<'_>) -> Result<PathBuf, Failure> {
    let quoted = format!("exec: {name:?}");
    if name.contains('/') {
        let found = PathBuf::from(name);
        return match check(&found) {
            Ok(()) => Ok(found),
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ISDIR)) => Err(Failure::new(
                FailureKind::NotExecutable,
                format!("{quoted}: {}", errno_text(errno)),
            )),
            Err(errno) => {
                let kind = match errno {
                    Errno::NOENT | Errno::NOTDIR => FailureKind::NotFound,
                    _ => FailureKind::Other,
                };
                let text = format!("{quoted}: stat {name}: {}", errno_text(errno));
                Err(Failure::new(kind, text))
            }
        };
    }
    let missing = || {
        Failure::new(
            FailureKind::NotFound,
            format!("{quoted}: executable file not found in $PATH"),
        )
    };
    if name.is_empty() || path.is_empty() {
        return Err(missing());
    }
    for folder in path.split(':') {
        let found = Path::new(folder).join(name);
        if check(&found).is_err() {
            continue;
        }
        if !found.is_absolute() {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("{quoted}: cannot run executable found relative to current directory"),
            ));
        }
        return Ok(found);
    }
    Err(missing())
}

/// Whether this process may execute `path`.
fn executable(path: &Path) -> Result<(), Errno> {
    let status = stat(path)?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// A program with its arguments and environment in the form that the kernel takes.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Prepares the call.
    ///
    /// # Errors
    /// [`FailureKind::BadConfig`] when a string holds a zero byte.
    pub fn new(path: &Path, args: &[String], env: Vec<OsString>) -> Result<Self, Failure> {
        let strings = |list: Vec<OsString>, what: &str| -> Result<Vec<CString>, Failure> {
            list.into_iter().map(|one| c_string(one, what)).collect()
        };
        Ok(Self {
            path: c_string(path.as_os_str().to_owned(), "the program's path")?,
            args: strings(args.iter().map(OsString::from).collect(), "an argument")?,
            env: strings(env, "the environment")?,
        })
    }

    /// Becomes the program. Returns only when it can't.
    #[must_use]
    pub fn exec(&self) -> Failure {
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            let all = list.iter().map(|one| one.as_ptr());
            all.chain([std::ptr::null()]).collect()
        };
        let (args, env) = (pointers(&self.args), pointers(&self.env));
        // SAFETY: the path is a C string; both arrays end with a null pointer and point to C
        // strings that `self` keeps alive over the call.
        unsafe { libc::execve(self.path.as_ptr(), args.as_ptr(), env.as_ptr()) };
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        failure(OsStr::from_bytes(self.path.as_bytes()), errno)
    }
}

/// What an `execve` of `path` that failed with `errno` is to the user. A missing file at this point
/// is an interpreter: the one that a script's first line or an ELF header names.
fn failure(path: &OsStr, errno: Errno) -> Failure {
    let kind = match errno {
        Errno::NOENT | Errno::NOTDIR => FailureKind::NotFound,
        Errno::ACCESS
        | Errno::PERM
        | Errno::ISDIR
        | Errno::NOEXEC
        | Errno::LIBBAD
        | Errno::TXTBSY
        | Errno::INVAL => FailureKind::NotExecutable,
        _ => FailureKind::Other,
    };
    let text = errno_text(errno);
    Failure::new(kind, format!("exec {}: {text}", path.display()))
}

fn c_string(text: OsString, what: &str) -> Result<CString, Failure> {
    CString::new(text.into_vec())
        .map_err(|_| Failure::bad_config(format!("{what} contains a zero byte")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn tree(path: &Path) -> Result<(), Errno> {
        match path.to_str().unwrap() {
            "/usr/bin/ls" | "/bin/ls" | "./here" | "rel/tool" | "/opt/x" | "bin/tool" => Ok(()),
            "/etc" => Err(Errno::ISDIR),
            "/usr/bin/data" | "/data" => Err(Errno::ACCESS),
            "/etc/passwd/x" => Err(Errno::NOTDIR),
            "/loop" => Err(Errno::LOOP),
            _ => Err(Errno::NOENT),
        }
    }

    #[test]
    fn the_first_folder_with_an_executable_file_wins() {
        let found = search("ls", "/nope:/usr/bin:/bin", &tree).unwrap();
        assert_eq!(found, Path::new("/usr/bin/ls"));
        assert_eq!(search("./here", "", &tree).unwrap(), Path::new("./here"));
        assert_eq!(
            search("/opt/x", "/bin", &tree).unwrap(),
            Path::new("/opt/x")
        );
    }

    #[test]
    fn the_errors_are_the_ones_that_docker_tells_apart() {
        use FailureKind::{NotExecutable, NotFound, Other};
        let in_path = "executable file not found in $PATH";
        let table = [
            ("nope", NotFound, format!("exec: \"nope\": {in_path}")),
            ("data", NotFound, format!("exec: \"data\": {in_path}")),
            ("", NotFound, format!("exec: \"\": {in_path}")),
            (
                "/x",
                NotFound,
                "exec: \"/x\": stat /x: no such file or directory".into(),
            ),
            (
                "/loop",
                Other,
                "exec: \"/loop\": stat /loop: too many levels of symbolic links".into(),
            ),
            (
                "/etc",
                NotExecutable,
                "exec: \"/etc\": is a directory".into(),
            ),
            (
                "/data",
                NotExecutable,
                "exec: \"/data\": permission denied".into(),
            ),
            (
                "/etc/passwd/x",
                NotFound,
                "exec: \"/etc/passwd/x\": stat /etc/passwd/x: not a directory".into(),
            ),
            (
                "tool",
                NotFound,
                "exec: \"tool\": cannot run executable found relative to current directory".into(),
            ),
        ];
        for (name, kind, message) in table {
            let failure = search(name, "/usr/bin:rel", &tree).unwrap_err();
            assert_eq!(failure, Failure::new(kind, message));
        }
        assert!(search("ls", "", &tree).is_err());
    }

    #[test]
    fn real_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(executable(&file), Err(Errno::ACCESS));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(executable(&file), Ok(()));
        assert_eq!(executable(folder.path()), Err(Errno::ISDIR));
        assert_eq!(executable(&folder.path().join("no")), Err(Errno::NOENT));
        let path = format!("/nope:{}", folder.path().display());
        assert_eq!(find("file", Some(&path)).unwrap(), file);
        assert!(find("file", None).is_err());
    }

    #[test]
    fn execve_errors_have_dockers_kinds_and_words() {
        use FailureKind::{NotExecutable, NotFound, Other};
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &[u8], mode| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let table = [
            (
                make("script", b"#!/nope/sh\n", 0o755),
                NotFound,
                "no such file or directory",
            ),
            (
                make("junk", b"\x7fELFjunk", 0o755),
                NotExecutable,
                "exec format error",
            ),
            (
                make("plain", b"", 0o644),
                NotExecutable,
                "permission denied",
            ),
            (folder.path().to_owned(), NotExecutable, "permission denied"),
        ];
        for (path, kind, text) in table {
            let program = Program::new(&path, &["x".into()], Vec::new()).unwrap();
            let message = format!("exec {}: {text}", path.display());
            assert_eq!(program.exec(), Failure::new(kind, message));
        }
        assert_eq!(failure(OsStr::new("/x"), Errno::NOMEM).kind, Other);
    }

    #[test]
    fn zero_bytes_are_refused() {
        let bad = Program::new(Path::new("/x"), &["a\0b".into()], Vec::new()).unwrap_err();
        assert_eq!(bad.kind, FailureKind::BadConfig);
    }
}
