//! Every image of the table of hostile images as far as no VM is needed: what is wrong in its documents is
//! refused by `load` and `pull` in the words that the table has, anything else is taken by both as the same
//! image; and nothing is left of it.

use harness::ByteRegistry;
use hostile_images::image::digest;
use hostile_images::tarball::Tar;
use hostile_images::{Base, Case, Expected, cases};

use super::User;

/// The image that others use, as it is saved: the same bytes for the same image.
fn saved_base(user: &User) -> Vec<u8> {
    user.stdout(&["save", "-o", "saved", "base:latest"]);
    std::fs::read(user.work().join("saved")).expect("read")
}

/// What is wrong with how one case ended; `own` is what others use, as it was saved before.
fn wrong(
    user: &User,
    registry: &ByteRegistry,
    base: &Base,
    own: &[u8],
    case: &Case,
) -> Option<String> {
    let name = format!("hostile:{}", case.name);
    std::fs::write(user.work().join("archive"), case.archive(base, &name)).expect("write");
    let pulled = case.image(base).map(|image| {
        let manifest = (image.media_type, &image.manifest[..]);
        let own = digest(&image.manifest);
        registry.put(case.name, &own, manifest, &image.blobs)
    });
    let pull = pulled.as_ref().map(|name| user.run(&["pull", "-q", name]));
    let load = user.run(&["load", "-i", "archive"]);
    if let Expected::Reading {
        load: of_load,
        pull: of_pull,
    } = &case.expected
    {
        let mut ends = vec![(load, *of_load)];
        ends.extend(pull.map(|pull| (pull, *of_pull)));
        let bad = ends.iter().find(|(out, words)| {
            let moves = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\r');
            out.code != 1 || !out.stderr.contains(words) || out.stderr.contains(moves)
        });
        return bad.map(|(out, words)| format!("{words:?}: {out}"));
    }
    let name = if pulled.is_some() {
        name
    } else {
        "hostile:latest".to_owned()
    };
    let ends = [Some(load), pull];
    if let Some(out) = ends.into_iter().flatten().find(|out| out.code != 0) {
        return Some(out.to_string());
    }
    // Some of this class have the id of what others use.
    if case.class == 25 && saved_base(user) != own {
        return Some("base:latest is another image".to_owned());
    }
    let ids: Vec<String> = pulled
        .iter()
        .chain([&name])
        .map(|name| user.stdout(&["inspect", "-f", "{{.Id}}", name]))
        .collect();
    for name in pulled.iter().chain([&name]) {
        user.stdout(&["rmi", "-f", name]);
    }
    (ids.first() != ids.last()).then(|| format!("two images: {ids:?}"))
}

#[test]
fn hostile_images_are_loaded_and_pulled_alike() {
    let user = User::new();
    user.stdout(&["images", "-q"]);
    let registry = ByteRegistry::start().expect("registry");
    let base = Base {
        tar: Tar::new().dir("bin").file("bin/sh", b"x").end(),
    };
    // What others use, and what images try to take over.
    let own = hostile_images::Draft::on(&base)
        .image()
        .archive("base:latest");
    std::fs::write(user.work().join("base"), own).expect("write");
    user.stdout(&["load", "-i", "base"]);
    let own = saved_base(&user);
    // What was half downloaded is kept for a week, to go on with.
    let stored = || {
        let mut all = super::images::stored(&user);
        all.retain(|path| !path.to_string_lossy().contains("/images/ingest/"));
        all
    };
    let before = stored();
    let mut all = Vec::new();
    for case in cases() {
        if let Some(text) = wrong(&user, &registry, &base, &own, &case) {
            all.push(format!("e{} {}: {text}", case.class, case.name));
            user.run(&["rmi", "-f", &format!("hostile:{}", case.name)]);
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
    assert_eq!(stored(), before);
}
