//! Docker's grammars of mounts, and Docker's words for what is none.

use super::*;

fn error<T: std::fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn volumes_are_read_as_docker_does() {
    for (text, kind, source, target, read_only, copy_up) in [
        ("/a:/b", MountKind::Bind, "/a", "/b", false, false),
        ("/a:/b:ro", MountKind::Bind, "/a", "/b", true, false),
        (
            "/x/../a/./c//:/b",
            MountKind::Bind,
            "/a/c",
            "/b",
            false,
            false,
        ),
        ("/a:/b:rw,z", MountKind::Bind, "/a", "/b", false, false),
        (
            "/a:/b:ro,Z,rprivate,cached",
            MountKind::Bind,
            "/a",
            "/b",
            true,
            false,
        ),
        ("name:/b", MountKind::Volume, "name", "/b", false, true),
        (
            "name:/b:ro,nocopy",
            MountKind::Volume,
            "name",
            "/b",
            true,
            false,
        ),
        ("/only", MountKind::Volume, "", "/only", false, true),
        (
            "/a:/b/../c//d/.",
            MountKind::Bind,
            "/a",
            "/c/d",
            false,
            false,
        ),
    ] {
        let wanted = volume(text).unwrap();
        let seen = (wanted.kind, wanted.source.as_str(), wanted.target.as_str());
        assert_eq!(seen, (kind, source, target), "{text}");
        assert_eq!(
            (wanted.read_only, wanted.copy_up),
            (read_only, copy_up),
            "{text}"
        );
    }
    let here = std::env::current_dir().unwrap();
    let relative = volume("./x:/b").unwrap();
    assert_eq!(relative.source, here.join("x").display().to_string());
    assert_eq!(relative.kind, MountKind::Bind);
    // As `.ssh`, which no volume is called.
    let hidden = volume(".x:/b").unwrap();
    assert_eq!(hidden.source, here.join(".x").display().to_string());
    assert_eq!(hidden.kind, MountKind::Bind);
}

#[test]
fn volumes_that_are_none_are_told_in_dockers_words() {
    for (text, told) in [
        ("", "invalid volume specification: ''"),
        (":/b", "invalid volume specification: ':/b'"),
        ("/a:ro", "invalid volume specification: '/a:ro'"),
        ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
        ("/a:/b:xx", "invalid mode: xx"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:/b:z,Z", "invalid mode: z,Z"),
        (
            "/a:b",
            "invalid volume specification: '/a:b': invalid mount path: 'b' mount path must be absolute",
        ),
        (
            "/a:/",
            "invalid volume specification: '/a:/': invalid specification: destination can't be '/'",
        ),
        (
            "/a:/b/..",
            "invalid volume specification: '/a:/b/..': invalid specification: destination can't be '/'",
        ),
        (
            "/a:/b:rshared",
            "propagation mode rshared is not supported: mounts do not pass between the host and a VM",
        ),
    ] {
        assert_eq!(error(volume(text)), told);
    }
    assert!(error(volume("/a:/b:nocopy")).contains("field VolumeOptions must not be specified"));
}

fn shared(text: &str) -> Wanted {
    match mount(text).unwrap() {
        Attachment::Shared(wanted) => wanted,
        tmpfs @ Attachment::Tmpfs(..) => panic!("{tmpfs:?}"),
    }
}

#[test]
fn mounts_are_read_as_docker_does() {
    let bind = shared("type=bind,source=/a,target=/b,readonly");
    assert_eq!((bind.kind, bind.source.as_str()), (MountKind::Bind, "/a"));
    assert_eq!((bind.target.as_str(), bind.read_only), ("/b", true));
    assert!(!bind.copy_up);
    assert!(!shared("TYPE=bind,SRC=/a,dst=/b,ro=false,bind-propagation=rprivate").read_only);
    let volume = shared("source=data,destination=/b,volume-label=k=v,volume-driver=local");
    assert_eq!(
        (volume.kind, volume.source.as_str()),
        (MountKind::Volume, "data")
    );
    assert_eq!(volume.labels["k"], "v");
    assert!(volume.copy_up);
    assert!(!shared("source=data,target=/b,volume-nocopy").copy_up);
    assert_eq!(shared("type=volume,target=/b").source, "");
    assert_eq!(
        shared("type=bind,src=/a/../b/,dst=/c").source,
        "/b".to_owned()
    );
    let quoted = shared("type=bind,\"source=/a,b\",target=/c");
    assert_eq!(quoted.source, "/a,b");
    assert_eq!(
        mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770,readonly").unwrap(),
        Attachment::Tmpfs("/t".into(), "ro,size=1048576,mode=1770".into())
    );
}

#[test]
fn mounts_that_are_none_are_told_in_dockers_words() {
    for (text, told) in [
        ("", "invalid field '' must be a key=value pair"),
        (
            "type=bind,source",
            "invalid field 'source' must be a key=value pair",
        ),
        ("type=bind,what=x", "unexpected key 'what' in 'what=x'"),
        ("type=bind,source=/a", "target is required"),
        ("type=what,target=/a", "mount type unknown: \"what\""),
        (
            "type=bind,target=/b",
            "invalid mount config for type \"bind\": field Source must not be empty",
        ),
        (
            "type=bind,source=a,target=/b",
            "invalid mount config for type \"bind\": invalid mount path: 'a' mount path must be absolute",
        ),
        (
            "type=volume,source=a1,target=b",
            "invalid mount config for type \"volume\": invalid mount path: 'b' mount path must be absolute",
        ),
        (
            "type=tmpfs,source=a,target=/b",
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ),
        (
            "target=/b,readonly",
            "invalid mount config for type \"volume\": must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            "type=bind,source=/a,target=/b,volume-nocopy",
            "cannot mix 'volume-*' options with mount type 'bind'",
        ),
        (
            "source=x,target=/b,tmpfs-size=1",
            "cannot mix 'tmpfs-*' options with mount type 'volume'",
        ),
        (
            "type=tmpfs,target=/b,bind-propagation=private",
            "cannot mix 'bind-*' options with mount type 'tmpfs'",
        ),
        (
            "type=bind,\"source=/a",
            "parse error: extraneous or missing \" in quoted field",
        ),
    ] {
        assert_eq!(error(mount(text)), told, "{text}");
    }
    assert!(
        error(mount("type=bind,source=/a,target=/b,ro=x")).starts_with("invalid value for ro: x")
    );
    for (text, part) in [
        (
            "type=image,source=x,target=/b",
            "--mount type=image is not supported",
        ),
        (
            "target=/b,volume-opt=type=nfs",
            "volume-opt is not supported",
        ),
        (
            "source=x,target=/b,volume-subpath=y",
            "volume-subpath is not supported",
        ),
        (
            "target=/b,volume-driver=nfs",
            "volume driver nfs is not supported: only local is",
        ),
        (
            "type=bind,source=/a,target=/b,bind-propagation=slave",
            "propagation mode slave",
        ),
        (
            "type=bind,source=/a,target=/b,bind-recursive=readonly",
            "requires 'readonly' to be",
        ),
        (
            "type=bind,source=/a,target=/b,ro,bind-recursive=readonly,bind-propagation=private",
            "requires 'bind-propagation=rprivate' to be",
        ),
        (
            "type=bind,source=/a,target=/b,bind-recursive=disabled",
            "bind-recursive=disabled",
        ),
    ] {
        assert!(error(mount(text)).contains(part), "{text}");
    }
}

#[test]
fn volumes_of_other_containers() {
    assert_eq!(volumes_from("ctr").unwrap(), ("ctr".to_owned(), false));
    assert_eq!(volumes_from("ctr:ro,z").unwrap(), ("ctr".to_owned(), true));
    assert_eq!(error(volumes_from("ctr:xx")), "invalid mode: xx");
    assert_eq!(
        error(volumes_from("")),
        "malformed volumes-from specification: "
    );
}

#[test]
fn an_images_volumes_are_paths() {
    assert_eq!(of_image("/data/").unwrap().target, "/data");
    for bad in ["/", "data", "/..", ""] {
        assert!(of_image(bad).is_err(), "{bad}");
    }
}
