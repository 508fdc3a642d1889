//! Every verb of `docker`, as data: what becomes of it here. What is not there is refused with its
//! reason, and the guide's table is made from it.

use super::surface::Fate::{self, Differs, Refused, Works};

const ALONE: &str = "a container is alone on its network, and there are no networks of one's own";
const SWARM: &str = "there is no swarm: each host is its own";
const PLUGIN: &str = "it is a plugin of Docker's own command";

/// Name and fate of each.
#[rustfmt::skip]
pub const VERBS: [(&str, Fate); 60] = [
    ("attach", Works),
    ("build", Works),
    ("builder", Differs("prune and build")),
    ("buildx", Refused(PLUGIN)),
    ("checkpoint", Refused("there are no checkpoints")),
    ("commit", Works),
    ("compose", Refused(PLUGIN)),
    ("completion", Works),
    ("config", Refused(SWARM)),
    ("container", Works),
    ("context", Refused("there is no engine to choose: this command is all there is")),
    ("cp", Works),
    ("create", Works),
    ("diff", Works),
    ("events", Differs("no events resize, top, copy and export, and none of networks")),
    ("exec", Works),
    ("export", Works),
    ("history", Works),
    ("image", Works),
    ("images", Works),
    ("import", Differs("an address has no login in it")),
    ("info", Works),
    ("inspect", Works),
    ("kill", Works),
    ("load", Works),
    ("login", Works),
    ("logout", Works),
    ("logs", Works),
    ("manifest", Refused("manifest lists are not made; push one platform under a name of its own")),
    ("network", Refused(ALONE)),
    ("node", Refused(SWARM)),
    ("pause", Works),
    ("plugin", Refused("there are no plugins")),
    ("port", Works),
    ("ps", Works),
    ("pull", Differs("no --all-tags: each tag is named")),
    ("push", Works),
    ("rename", Works),
    ("restart", Works),
    ("rm", Works),
    ("rmi", Works),
    ("run", Works),
    ("save", Works),
    ("search", Refused("the protocol of registries has no index to search")),
    ("secret", Refused(SWARM)),
    ("service", Refused(SWARM)),
    ("stack", Refused(SWARM)),
    ("start", Works),
    ("stats", Works),
    ("stop", Works),
    ("swarm", Refused(SWARM)),
    ("system", Works),
    ("tag", Works),
    ("top", Differs("of the options of ps there are -ef, -e, aux and -o")),
    ("trust", Refused("signatures are not checked")),
    ("unpause", Works),
    ("update", Differs("within what the container's VM has while it runs")),
    ("version", Works),
    ("volume", Differs("no driver but local, and no options of it")),
    ("wait", Works),
];

/// Why a verb is not there.
#[must_use]
pub fn refusal(name: &str) -> Option<&'static str> {
    VERBS.iter().find_map(|(verb, fate)| match fate {
        Refused(why) if *verb == name => Some(*why),
        _ => None,
    })
}
