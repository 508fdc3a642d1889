//! Which containers `ps` shows: its filters, as Docker has them.

use anyhow::{Context, Result, bail};
use images::{LayerKey, Store};

use super::Shown;
use crate::cli::filter::Filters;
use crate::sandbox::clock::ZERO_TIME;
use crate::sandbox::containers;
use crate::sandbox::paths::Root;

/// Every key.
const KEYS: [&str; 14] = [
    "ancestor", "before", "expose", "exited", "health", "id", "is-task", "label", "name",
    "network", "publish", "since", "status", "volume",
];

/// Docker's words for where a container is in its life.
const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];

/// Docker's words for a container's health.
const HEALTHS: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

/// What has to hold of a container.
#[derive(Debug)]
pub struct Selection {
    filters: Filters,
    exited: Vec<u8>,
    is_task: bool,
    /// Ids, and layers from the base up.
    ancestors: Vec<(String, Vec<LayerKey>)>,
    /// Creation and id of the container that is younger than all.
    before: Option<(String, String)>,
    /// Of the one that is older.
    since: Option<(String, String)>,
    publish: Vec<String>,
    expose: Vec<String>,
}

impl Selection {
    /// Reads the filters and looks up the containers and images that they name.
    ///
    /// # Errors
    /// Docker's sentences.
    pub fn parse(texts: &[String], root: &Root) -> Result<Self> {
        let filters = Filters::parse(texts, "-f, --filter", &KEYS)?;
        let words = |key: &str, known: &[&str], kind: &str| -> Result<()> {
            for value in filters.values(key) {
                if !known.contains(&value.as_str()) {
                    bail!(
                        "invalid filter '{key}={value}': invalid value for {kind} ({value}): must be \
                         one of {}",
                        known.join(", ")
                    );
                }
            }
            Ok(())
        };
        words("status", &STATES, "state")?;
        words("health", &HEALTHS, "health")?;
        let mut exited = Vec::new();
        for value in filters.values("exited") {
            let code: i64 = value.parse().ok().with_context(|| {
                format!(
                    "invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax"
                )
            })?;
            // What is no exit code is nobody's.
            exited.extend(u8::try_from(code).ok());
        }
        let named = |key: &str| -> Result<Option<(String, String)>> {
            let name = filters.values(key).last();
            let found = name.map(|name| containers::find(root, name)).transpose()?;
            Ok(found.map(|(_, config)| (config.created, config.id)))
        };
        Ok(Self {
            exited,
            is_task: filters.switch("is-task")?.unwrap_or(false),
            ancestors: ancestors(filters.values("ancestor"), root)?,
            before: named("before")?,
            since: named("since")?,
            publish: ports("publish", filters.values("publish"))?,
            expose: ports("expose", filters.values("expose"))?,
            filters,
        })
    }

    /// Whether containers that do not run are asked for.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.filters.has("status")
    }

    /// Whether a container is shown.
    #[must_use]
    pub fn takes(&self, shown: &Shown) -> bool {
        let (filters, config, state) = (&self.filters, &shown.config, &shown.state);
        let age = (config.created.clone(), config.id.clone());
        let ended = !state.status.is_alive() && state.started_at != ZERO_TIME;
        let any = |names: &[String], wanted: &str| names.iter().any(|name| name == wanted);
        let has_port = self.publish.iter().any(|port| any(&shown.published, port))
            || self
                .expose
                .iter()
                .any(|port| config.exposed_ports.contains(port));
        !self.is_task
            && filters.any("id", |id| config.id.starts_with(id))
            && (filters.matches("name", &config.name)
                || filters.matches("name", &format!("/{}", config.name)))
            && filters.labels("label", &config.labels)
            && filters.is("status", state.status.word())
            && (!filters.has("exited") || (ended && self.exited.contains(&state.exit_code)))
            && filters.is("health", shown.health)
            && self.before.as_ref().is_none_or(|than| age < *than)
            && self.since.as_ref().is_none_or(|than| age > *than)
            && filters.any("network", |name| any(&shown.networks, name))
            && filters.any("volume", |name| any(&shown.mounts, name))
            && (!(filters.has("publish") || filters.has("expose")) || has_port)
            && (!filters.has("ancestor")
                || self.ancestors.iter().any(|(id, layers)| {
                    config.image_id == *id || is_below(layers, &config.launch.layers)
                }))
    }
}

/// Whether an image of these layers was built on one of those below: as in Docker, one with the same
/// layers was not.
fn is_below(below: &[LayerKey], layers: &[LayerKey]) -> bool {
    !below.is_empty() && layers.len() > below.len() && layers.starts_with(below)
}

/// The images of that name; one that is not there has no container.
fn ancestors(names: &[String], root: &Root) -> Result<Vec<(String, Vec<LayerKey>)>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let store = Store::open(&root.images())?;
    let mut all = Vec::new();
    for name in names {
        match store.resolve(name) {
            Ok(image) => {
                let layers = image.layers.iter().map(images::Layer::key).collect();
                all.push((image.id.to_string(), layers));
            }
            Err(error) if error.is_no_such_image() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// `80`, `80/udp`, `80-90/tcp` as single ports with their protocols.
fn ports(key: &str, values: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for value in values {
        if value.contains(':') {
            bail!("filter for '{key}' should not contain ':': {value}");
        }
        let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| {
            text.parse::<u16>().ok().with_context(|| {
                format!("error while looking up for {key} {value}: invalid port \"{text}\"")
            })
        };
        let (from, to) = (port(from)?, port(to)?);
        if from > to {
            bail!("error while looking up for {key} {value}: invalid range \"{range}\"");
        }
        all.extend((from..=to).map(|port| format!("{port}/{protocol}")));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::containers::tests::{config, root};
    use crate::sandbox::state::{ContainerState, Status};

    fn shown(digit: char, name: &str, status: Status) -> Shown {
        let mut config = config(digit, name, false);
        config.created = format!("2025-01-01T00:00:0{digit}Z");
        config.labels.insert("tier".to_owned(), name.to_owned());
        config.exposed_ports.insert("80/tcp".to_owned());
        let state = ContainerState {
            status,
            exit_code: 3,
            started_at: "2025-01-01T00:00:00Z".to_owned(),
            ..ContainerState::created()
        };
        Shown::new(config, state)
    }

    #[test]
    fn each_key_leaves_the_containers_it_names() {
        let (_temp, root) = root();
        let all = [
            shown('1', "web1", Status::Running),
            shown('2', "web2", Status::Exited),
            shown('3', "db", Status::Paused),
        ];
        let locks: Vec<_> = all
            .iter()
            .map(|one| containers::create(&root, &one.config, true).unwrap())
            .collect();
        let names = |texts: &[&str]| -> Vec<String> {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            let selection = Selection::parse(&texts, &root).unwrap();
            let taken = all.iter().filter(|one| selection.takes(one));
            taken.map(|one| one.config.name.clone()).collect()
        };
        for (texts, want) in [
            (&[][..], &["web1", "web2", "db"][..]),
            (&["name=web"], &["web1", "web2"]),
            (&["name=^/web1$"], &["web1"]),
            (&["name=^web$"], &[]),
            (&["name=web1", "name=db"], &["web1", "db"]),
            (&["id=22"], &["web2"]),
            (&["label=tier"], &["web1", "web2", "db"]),
            (&["label=tier=db"], &["db"]),
            (&["status=running", "status=paused"], &["web1", "db"]),
            (&["status=dead"], &[]),
            (&["exited=3"], &["web2"]),
            (&["exited=0"], &[]),
            (&["exited=300"], &[]),
            (&["before=web2"], &["web1"]),
            (&["since=web2"], &["db"]),
            (&["since=web1", "before=db"], &["web2"]),
            (&["name=web", "status=exited"], &["web2"]),
            (&["expose=80"], &["web1", "web2", "db"]),
            (&["expose=79-81/tcp"], &["web1", "web2", "db"]),
            (&["expose=80/udp"], &[]),
            (&["publish=80"], &[]),
            (&["network=none"], &["web1", "web2", "db"]),
            (&["network=bridge"], &[]),
            (&["volume=data"], &[]),
            (&["health=none"], &["web1", "web2", "db"]),
            (&["health=healthy"], &[]),
            (&["is-task=false"], &["web1", "web2", "db"]),
            (&["is-task=true"], &[]),
            (&["ancestor=none"], &[]),
        ] {
            assert_eq!(names(texts), want, "{texts:?}");
        }
        drop(locks);
    }

    #[test]
    fn an_image_is_built_on_one_whose_layers_it_continues() {
        let layer = |text: &str| LayerKey {
            diff_id: images::Digest::of(text.as_bytes()),
            blob: images::Digest::of(text.as_bytes()),
        };
        let (one, two, other) = (layer("1"), layer("2"), layer("3"));
        assert!(is_below(&[one], &[one, two]));
        for (below, layers) in [
            (&[][..], &[one][..]),
            (&[one], &[one]),
            (&[one, two], &[one]),
            (&[other], &[one, two]),
        ] {
            assert!(!is_below(below, layers), "{below:?} {layers:?}");
        }
    }

    #[test]
    fn wrong_values_are_refused_in_dockers_words() {
        let (_temp, root) = root();
        for (text, want) in [
            (
                "status=up",
                "invalid filter 'status=up': invalid value for state (up): must be one of created, \
                 running, paused, restarting, removing, exited, dead",
            ),
            (
                "exited=x",
                "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("is-task=x", "invalid filter 'is-task=[x]'"),
            ("before=x", "No such container: x"),
            (
                "publish=a:b",
                "filter for 'publish' should not contain ':': a:b",
            ),
            (
                "expose=x",
                "error while looking up for expose x: invalid port \"x\"",
            ),
            ("driver=x", "invalid filter 'driver'"),
        ] {
            let error = Selection::parse(&[text.to_owned()], &root).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }
}
