//! Changes of a config alone.

use super::*;
use crate::dockerfile::{change, duration_ns, signal_number};

fn changed(changes: &[&str]) -> Result<ImageConfig, String> {
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let of = config(r#"{"Env":["A=1","PATH=/bin"],"Cmd":["old"],"WorkingDir":"/srv"}"#);
    change(of, &changes).map_err(|error| error.to_string())
}

#[test]
fn changes_are_instructions() {
    let config = changed(&["CMD [\"a\", \"b c\"]"]).unwrap();
    assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
    let config = changed(&["cmd echo $A 'x'"]).unwrap();
    assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo $A 'x'"]);
    // An entry point takes away a command that was there before.
    let config = changed(&["ENTRYPOINT [\"/e\"]"]).unwrap();
    assert_eq!(
        (config.entrypoint.unwrap(), config.cmd),
        (vec!["/e".to_owned()], None)
    );
    let config = changed(&["CMD [\"x\"]", "ENTRYPOINT [\"/e\"]"]).unwrap();
    assert_eq!(config.cmd.unwrap(), ["x"]);
    let config = changed(&["ENV A=2 B=\"x y\" C=$A D='$A' E=a\\ b", "ENV F one  two"]).unwrap();
    assert_eq!(
        config.env,
        [
            "A=2",
            "PATH=/bin",
            "B=x y",
            "C=1",
            "D=$A",
            "E=a b",
            "F=one  two"
        ]
    );
    let config = changed(&["LABEL k=v \"a b\"=\"c d\" e=${PATH}/${B:-x}"]).unwrap();
    assert_eq!(
        (
            &*config.labels["k"],
            &*config.labels["a b"],
            &*config.labels["e"]
        ),
        ("v", "c d", "/bin/x")
    );
    let config = changed(&[
        "EXPOSE 80 53/udp",
        "VOLUME /b /a",
        "USER me:us",
        "WORKDIR sub/../other",
        "STOPSIGNAL SIGINT",
        "ONBUILD RUN make\nONBUILD COPY . .",
        "# nothing\n\n",
        "HEALTHCHECK NONE",
    ])
    .unwrap();
    assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
    assert_eq!(
        (&*config.volumes, &*config.user),
        (&["/a".to_owned(), "/b".to_owned()][..], "me:us")
    );
    assert_eq!(
        (&*config.working_dir, &*config.stop_signal),
        ("/srv/other", "SIGINT")
    );
    assert_eq!(config.on_build, ["RUN make", "COPY . ."]);
    assert_eq!(config.healthcheck.unwrap().test, ["NONE"]);
    assert_eq!(changed(&[]), changed(&["", "# a", " \n"]));
}

#[test]
fn what_is_no_change_is_refused() {
    for (text, want) in [
        ("FROM x", "FROM is not a valid change command"),
        ("run x", "RUN is not a valid change command"),
        ("WHAT x", "unknown instruction: WHAT"),
        ("UESR x", "unknown instruction: UESR (did you mean USER?)"),
        ("USER", "USER requires exactly one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=${B:?no}", "failed to process \"${B:?no}\": B: no"),
        ("STOPSIGNAL none", "invalid signal: none"),
        (
            "ONBUILD ONBUILD RUN",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
    ] {
        assert_eq!(changed(&[text]).unwrap_err(), want, "{text}");
    }
}

#[test]
fn signals_and_lengths_of_time() {
    for (text, want) in [
        ("TERM", Some(15)),
        ("SIGKILL", Some(9)),
        ("int", Some(2)),
        ("sigusr1", Some(10)),
        ("10", Some(10)),
        ("CLD", Some(17)),
        ("POLL", Some(29)),
        ("SYS", Some(31)),
        ("RTMIN", Some(34)),
        ("SIGRTMIN+3", Some(37)),
        ("RTMAX-1", Some(63)),
        ("64", Some(64)),
        ("0", None),
        ("65", None),
        ("-9", None),
        ("", None),
        ("SIG", None),
        ("RTMIN+99", None),
        ("RTMAX-31", None),
        ("RTMIN+-1", None),
    ] {
        assert_eq!(signal_number(text), want, "{text}");
    }
    for (text, want) in [
        ("0", Some(0)),
        ("1m30s", Some(90_000_000_000)),
        ("1.5h", Some(5_400_000_000_000)),
        ("-2us", Some(-2_000)),
        ("+1ns", Some(1)),
        ("2562047h", Some(9_223_369_200_000_000_000)),
        ("2562048h", None),
        ("5", None),
        ("s", None),
        (".s", None),
        ("1 s", None),
        ("", None),
    ] {
        assert_eq!(duration_ns(text), want, "{text}");
    }
}
