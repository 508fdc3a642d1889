//! The journal of what happened to containers, images and volumes, in Docker's form: a JSON object a line.
//!
//! ```text
//! <root>/events/log      appended to by whoever does the thing: a supervisor or a verb
//! <root>/events/log.1    what was that before it had grown to its limit
//! ```
//! There is no daemon that could be asked. Each event is one write to a file opened for appending,
//! so that those of several processes do not mix. That an event can't be kept, on a full disk, say,
//! keeps nothing from being done. Read by the verb `events`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::paths;
use super::state::{ContainerConfig, Folder};

/// Size of a file in bytes at which the next one begins: some ten thousand events.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Longest event in bytes. Labels and the words of an `exec` are an image's or a user's to choose;
/// one that is longer is kept without them.
const EVENT_BYTES_MAX: usize = 64 << 10;

/// As long is waited for the right to begin a new file.
const ROTATION_PATIENCE: Duration = Duration::from_secs(1);

/// Name of the newest file.
const FILE: &str = "log";

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `container`, `image`, `volume`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// What was done, such as `start`.
    #[serde(rename = "Action")]
    pub action: String,
    /// To what.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// Always `local`.
    pub scope: String,
    /// Seconds since 1970.
    pub time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// To what something was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Its id, or an image's name.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name, its labels, and what the action has besides.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// The journal's folder, which a supervisor may write to.
#[must_use]
pub fn folder(root: &Path) -> PathBuf {
    root.join("events")
}

/// The newest file of the journal below `root`.
#[must_use]
pub fn path(root: &Path) -> PathBuf {
    folder(root).join(FILE)
}

/// Notes what was done to a container.
pub fn of_container(
    folder: &Folder,
    config: &ContainerConfig,
    action: &str,
    details: &[(&str, String)],
) {
    // <root>/containers/<id>
    let Some(root) = folder.path().ancestors().nth(2) else {
        return;
    };
    let own = [("image", &config.image), ("name", &config.name)];
    let own = own.map(|(name, value)| (name.to_owned(), value.clone()));
    let details = details.iter();
    let details = details.map(|(name, value)| ((*name).to_owned(), value.clone()));
    let mut attributes = config.labels.clone();
    attributes.extend(own.into_iter().chain(details));
    record(root, "container", action, &config.id, attributes);
}

/// Notes what was done to an image.
pub fn of_image(root: &Path, action: &str, id: &str, name: &str) {
    let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
    record(root, "image", action, id, attributes);
}

/// Notes what was done to a volume.
pub fn of_volume(root: &Path, action: &str, name: &str, details: &[(&str, String)]) {
    let driver = ("driver", "local".to_owned());
    let all = details.iter().chain([&driver]);
    let attributes = all.map(|(name, value)| ((*name).to_owned(), value.clone()));
    record(root, "volume", action, name, attributes.collect());
}

fn record(root: &Path, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
    let now = jiff::Timestamp::now();
    let event = Event {
        kind: kind.to_owned(),
        action: action.to_owned(),
        actor: Actor {
            id: id.to_owned(),
            attributes,
        },
        scope: "local".to_owned(),
        time: now.as_second(),
        time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
    };
    let _ = append(root, event, FILE_BYTES_MAX);
}

fn append(root: &Path, mut event: Event, file_bytes: u64) -> Result<()> {
    let mut line = serde_json::to_vec(&event)?;
    if line.len() > EVENT_BYTES_MAX {
        event.actor.attributes.retain(|name, value| {
            matches!(name.as_str(), "image" | "name") && value.len() < EVENT_BYTES_MAX / 8
        });
        event.action = event.action.chars().take(EVENT_BYTES_MAX / 8).collect();
        line = serde_json::to_vec(&event)?;
    }
    line.push(b'\n');
    let path = path(root);
    paths::create_private(&folder(root))?;
    rotate(root, &path, file_bytes)?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .and_then(|mut file| file.write_all(&line))
        .with_context(|| format!("write {}", path.display()))
}

/// Begins a new file when this one is full. What another process writes meanwhile goes to the old one.
fn rotate(root: &Path, path: &Path, file_bytes: u64) -> Result<()> {
    let is_full = || path.metadata().is_ok_and(|file| file.len() >= file_bytes);
    if !is_full() {
        return Ok(());
    }
    // Another is at it, or a supervisor that was taken over: the next event sees to it.
    let Some(_alone) = paths::lock_within(&folder(root), ROTATION_PATIENCE)? else {
        return Ok(());
    };
    if is_full() {
        let old = folder(root).join(format!("{FILE}.1"));
        std::fs::rename(path, &old).with_context(|| format!("rename {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::containers::tests::{config, root};
    use crate::sandbox::logs::Reader;

    fn all(root: &Path) -> Vec<Event> {
        let mut reader = Reader::open(&path(root)).unwrap();
        std::iter::from_fn(|| reader.next_of().unwrap()).collect()
    }

    #[test]
    fn events_have_dockers_form() {
        let (_temp, root) = root();
        let mut config = config('a', "x", false);
        config.labels.insert("tier".to_owned(), "web".to_owned());
        let folder = Folder::of(&root, &config.id);
        let code = [("exitCode", "3".to_owned())];
        of_container(&folder, &config, "die", &code);
        of_image(root.path(), "tag", "sha256:ab", "busybox:1");
        let text = std::fs::read_to_string(path(root.path())).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["Type"], &first["Action"], &first["scope"]),
            (&"container".into(), &"die".into(), &"local".into())
        );
        assert_eq!(first["Actor"]["ID"], config.id);
        assert_eq!(
            first["Actor"]["Attributes"],
            serde_json::json!({"exitCode": "3", "image": "image", "name": "x", "tier": "web"})
        );
        let nanos = first["timeNano"].as_i64().unwrap();
        assert_eq!(first["time"], nanos / 1_000_000_000);
        let [_, second] = all(root.path()).try_into().unwrap();
        assert_eq!(
            (second.kind, second.actor.id),
            ("image".into(), "sha256:ab".into())
        );
    }

    #[test]
    fn two_files_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let event = |number: i64| Event {
            kind: "image".to_owned(),
            action: "pull".to_owned(),
            actor: Actor::default(),
            scope: "local".to_owned(),
            time: number,
            time_nano: 0,
        };
        for number in 0..100 {
            append(temp.path(), event(number), 1000).unwrap();
        }
        let times: Vec<i64> = all(temp.path()).iter().map(|event| event.time).collect();
        assert!(times.len() >= 10 && times.len() < 40, "{times:?}");
        assert!(times.is_sorted() && times.last() == Some(&99), "{times:?}");
        assert_eq!(std::fs::read_dir(folder(temp.path())).unwrap().count(), 2);
    }

    #[test]
    fn one_that_is_too_long_is_kept_without_what_makes_it_so() {
        let (_temp, root) = root();
        let mut config = config('a', "x", false);
        let long = "y".repeat(EVENT_BYTES_MAX);
        config.labels.insert("long".to_owned(), long.clone());
        let folder = Folder::of(&root, &config.id);
        of_container(&folder, &config, &format!("exec_create: {long}"), &[]);
        let [event] = all(root.path()).try_into().unwrap();
        assert_eq!(event.actor.attributes["name"], "x");
        assert!(!event.actor.attributes.contains_key("long"));
        assert!(event.action.len() <= EVENT_BYTES_MAX / 8);
    }
}
