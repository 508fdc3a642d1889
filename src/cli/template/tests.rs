//! Templates that scripts use, and what Go prints for them.

use serde_json::{Value, json};

use super::{Template, left_out, quoted};

fn object() -> Value {
    json!({
        "Id": "0123456789abcdef",
        "Name": "/web",
        "State": {"ExitCode": 3, "Running": true, "Error": "", "Pid": 0},
        "Args": ["-c", "x y"],
        "Empty": [],
        "Nothing": null,
        "HostConfig": {"CapAdd": null, "Volumes": null},
        "Labels": {"b": "2", "a": "1", "com.x": "dots"},
        "NetworkSettings": {
            "Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "other": {"IPAddress": "10.0.0.2"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": null}
        },
        "Mounts": [{"Source": "/a", "RW": true}, {"Source": "/b", "RW": false}],
        "Half": 0.5
    })
}

fn render(text: &str) -> anyhow::Result<String> {
    Template::parse(text)?.render(&object())
}

fn check(cases: &[(&str, &str)]) {
    for (text, want) in cases {
        match render(text) {
            Ok(got) => assert_eq!(got, *want, "{text}"),
            Err(error) => panic!("{text}: {error:#}"),
        }
    }
}

#[test]
fn fields_are_printed_as_go_does() {
    check(&[
        ("no action", "no action"),
        ("code {{.State.ExitCode}}!", "code 3!"),
        ("{{ .State.Running }}", "true"),
        ("{{.Args}}", "[-c x y]"),
        ("{{.Labels}}", "map[a:1 b:2 com.x:dots]"),
        ("{{.Nothing}}", "<nil>"),
        ("{{.HostConfig.CapAdd}}{{.HostConfig.Volumes}}", "[]map[]"),
        ("{{json .HostConfig.CapAdd}}", "null"),
        (
            r#"{{html "<a href='x'>&" "\""}}"#,
            "&lt;a href=&#39;x&#39;&gt;&amp;&#34;",
        ),
        (r#"{{js "a='\\<"}}"#, r"a\u003D\'\\\u003C"),
        (r#"{{urlquery "a b/ü~"}}"#, "a+b%2F%C3%BC~"),
        ("{{.Labels.a}}{{.Labels.missing}}", "1<no value>"),
        ("{{.Half}}", "0.5"),
        ("{{(.State).ExitCode}}", "3"),
        ("{{$.State.ExitCode}}", "3"),
        (r"a\tb", r"a\tb"),
    ]);
    assert_eq!(
        Template::parse("json")
            .unwrap()
            .render(&json!([1, "a"]))
            .unwrap(),
        "[1,\"a\"]"
    );
    let list = Template::parse_list(r"{{.Id}}\t{{.Name}}\n").unwrap();
    assert_eq!(list.render(&object()).unwrap(), "0123456789abcdef\t/web\n");
}

#[test]
fn what_dockers_documentation_shows_works() {
    check(&[
        (
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
            "172.17.0.2 10.0.0.2 ",
        ),
        (
            "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}},{{end}}",
            "bridge,other,",
        ),
        (
            "{{json .Mounts}}",
            r#"[{"RW":true,"Source":"/a"},{"RW":false,"Source":"/b"}]"#,
        ),
        (
            r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#,
            "8080",
        ),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{with $conf}}{{(index . 0).HostPort}}{{else}}none{{end}}{{end}}",
            " 80/tcp -> 8080 90/tcp -> none",
        ),
        (r#"{{index .Labels "com.x"}}"#, "dots"),
        (r#"[{{index .Labels "missing"}}]"#, "[]"),
        ("{{join .Args \", \"}}", "-c, x y"),
        ("{{join (split \"a:b\" \":\") \"+\"}}", "a+b"),
        ("{{slice .Id 0 12}}", "0123456789ab"),
        ("{{.Name | upper | printf \"%s!\"}}", "/WEB!"),
        ("{{truncate .Id 4}}", "0123"),
        ("{{pad .Name 1 2}}|", " /web  |"),
        ("{{title \"a few words\"}}", "A Few Words"),
        (
            "{{range $i, $e := .Mounts}}{{if $i}}, {{end}}{{.Source}}{{end}}",
            "/a, /b",
        ),
        ("{{.Labels \"a\"}}", "1"),
    ]);
}

#[test]
fn conditions_and_comparisons() {
    check(&[
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .State.Error}}bad{{end}}", ""),
        ("{{if eq .State.ExitCode 3}}three{{end}}", "three"),
        ("{{if eq .Name \"a\" \"/web\"}}yes{{end}}", "yes"),
        (
            "{{if ne .Name \"/web\"}}other{{else if gt .State.ExitCode 2}}more{{else}}less{{end}}",
            "more",
        ),
        (
            "{{if and .State.Running (lt .State.Pid 1)}}both{{end}}",
            "both",
        ),
        ("{{or .State.Error \"none\"}}", "none"),
        ("{{and .State.Error .Nope}}", ""),
        ("{{not .Empty}}", "true"),
        ("{{len .Args}} {{len .Labels}} {{len .Name}}", "2 3 4"),
        ("{{with .State}}{{.ExitCode}}{{end}}", "3"),
        ("{{with .Nothing}}x{{else with .Name}}{{.}}{{end}}", "/web"),
        ("{{le 2 2}} {{ge 1.5 1}} {{eq 1 1.0}}", "true true true"),
        ("{{eq .Nothing nil}}", "true"),
    ]);
}

#[test]
fn loops_and_variables() {
    check(&[
        ("{{range .Args}}<{{.}}>{{end}}", "<-c><x y>"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Nothing}}x{{end}}", ""),
        (
            "{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}",
            "a=1;b=2;com.x=dots;",
        ),
        ("{{range $v := .Args}}{{$v}}{{end}}", "-cx y"),
        ("{{range .Mounts}}{{.Source}}{{break}}{{end}}", "/a"),
        (
            "{{range .Mounts}}{{if .RW}}{{continue}}{{end}}{{.Source}}{{end}}",
            "/b",
        ),
        (
            "{{$x := .Name}}{{if true}}{{$x = \"new\"}}{{end}}{{$x}}",
            "new",
        ),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
        ("{{range .Args}}{{$.Name}}{{end}}", "/web/web"),
        ("a {{- .State.Pid -}} b", "a0b"),
        ("a {{/* nothing */}} b{{- /* and */ -}} c", "a  bc"),
        ("{{println 1 \"a\"}}{{print 1 2 \"a\" \"b\"}}", "1 a\n1 2ab"),
        (
            "{{printf \"%-4s|%4d|%q|%v|%%\" \"ab\" 7 \"x\" .Args}}",
            "ab  |   7|\"x\"|[-c x y]|%",
        ),
        // A list that is not there is an empty one.
        ("{{len .Nothing}}<{{join .Nothing \",\"}}>", "0<>"),
        // What has no labels has a map that is not there.
        ("<{{index .Nothing \"key\"}}>", "<>"),
        ("{{\"a\\tb\\\"\"}}{{`raw\\t`}}{{-5}}", "a\tb\"raw\\t-5"),
    ]);
}

#[test]
fn members_that_json_leaves_out_are_read_all_the_same() {
    let mut value = json!({"Config": {"Tty": true, "Labels": null}});
    let config = &mut value["Config"];
    left_out::add(config, "Shell", Value::Null);
    left_out::add(config, "StopSignal", "".into());
    // What is there stays.
    left_out::add(config, "Tty", false.into());
    for (text, want) in [
        ("{{json .Config.Shell}} {{.Config.Shell}}", "null []"),
        ("{{json .Config.StopSignal}}{{.Config.StopSignal}}", "\"\""),
        ("{{.Config.Tty}}", "true"),
        ("{{json .Config}}", r#"{"Labels":null,"Tty":true}"#),
        ("{{json .}}", r#"{"Config":{"Labels":null,"Tty":true}}"#),
        (
            "{{range $name, $_ := .Config}}{{$name}} {{end}}{{len .Config}}",
            "Labels Shell StopSignal Tty 4",
        ),
    ] {
        let template = Template::parse(text).unwrap();
        assert_eq!(template.render(&value).unwrap(), want, "{text}");
    }
}

#[test]
fn keys_of_maps_may_be_missing_whatever_their_case() {
    let value = json!({
        "Config": {"Labels": {"Vendor": "x"}, "Volumes": null},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.2", "Links": null}}},
    });
    let render = |text: &str| Template::parse(text)?.render(&value);
    for (text, want) in [
        ("{{.Config.Labels.Vendor}}", "x"),
        ("{{.Config.Labels.Version}}", "<no value>"),
        ("{{.Config.Volumes.Version}}", "<no value>"),
        ("{{.NetworkSettings.Networks.Other}}", "<no value>"),
        (
            "{{.NetworkSettings.Networks.Other.IPAddress}}",
            "<no value>",
        ),
        ("{{with .Config.Labels.Version}}x{{end}}", ""),
        ("{{.NetworkSettings.Networks.bridge.Links}}", "[]"),
    ] {
        assert_eq!(render(text).unwrap(), want, "{text}");
    }
    for text in [
        "{{.Config.Version}}",
        "{{.NetworkSettings.Networks.bridge.Version}}",
    ] {
        assert!(render(text).is_err(), "{text}");
    }
}

#[test]
fn structures_are_printed_without_their_names() {
    let mut value = json!({
        "Config": {"ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {}},
        "RestartPolicy": {"MaximumRetryCount": 0, "Name": "no"},
        "LogConfig": {"Config": {}, "Type": "json-file"},
        "PortBindings": {
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],
            "90/tcp": null,
        },
        "Other": {"HostIp": "", "HostPort": "", "More": ""},
    });
    left_out::add(
        &mut value["PortBindings"]["80/tcp"][0],
        "HostIP",
        "0.0.0.0".into(),
    );
    for (text, want) in [
        ("{{.Config.ExposedPorts}}", "map[80/tcp:{}]"),
        (
            "{{.Config.Volumes}}{{.Config.Labels}}",
            "map[/data:{}]map[]",
        ),
        (
            "{{.RestartPolicy}}{{.LogConfig}}",
            "{no 0}{json-file map[]}",
        ),
        (
            "{{.PortBindings}}",
            "map[80/tcp:[{0.0.0.0 8080}] 90/tcp:[]]",
        ),
        ("{{.Other}}", "map[HostIp: HostPort: More:]"),
    ] {
        let template = Template::parse(text).unwrap();
        assert_eq!(template.render(&value).unwrap(), want, "{text}");
    }
}

#[test]
fn functions_leave_headers_as_they_are() {
    let headers = json!({"ID": "CONTAINER ID", "Names": "NAMES"});
    let render =
        |text: &str| -> anyhow::Result<String> { Template::parse(text)?.render_header(&headers) };
    for (text, want) in [
        ("{{json .ID}} {{lower .Names}}", "CONTAINER ID NAMES"),
        ("{{.ID | title}} {{upper .Names}}", "CONTAINER ID NAMES"),
        ("{{truncate .ID 4}}", "CONTAINER ID"),
        ("{{join (split .ID \" \") \"+\"}}", "CONTAINER ID"),
        ("{{pad .Names 1 2}}|", " NAMES  |"),
        // These take lists.
        (
            "{{range split .Names \",\"}}{{.}};{{end}}{{lower .ID}}",
            "NAMES;container id",
        ),
        ("{{index (split .Names \",\") 0}}", "NAMES"),
    ] {
        assert_eq!(render(text).unwrap(), want, "{text}");
    }
    assert!(render("{{lower .Nope}}").is_err());
}

#[test]
fn texts_are_quoted_as_go_does() {
    for (text, want) in [
        ("it's \u{fc}", "\"it's \u{fc}\""),
        ("\"\\", r#""\"\\""#),
        ("\n\t\r\u{7}\u{8}\u{b}\u{c}", r#""\n\t\r\a\b\v\f""#),
        ("\0\u{1b}\u{7f}", r#""\x00\x1b\x7f""#),
        (
            "\u{9b}\u{a0}\u{202e}\u{feff}",
            r#""\u009b\u00a0\u202e\ufeff""#,
        ),
        // A mark is to be seen, a tag is not.
        ("e\u{301}\u{e0001}", "\"e\u{301}\\U000e0001\""),
    ] {
        assert_eq!(quoted(text), want);
    }
}

#[test]
fn what_is_wrong_or_not_supported_is_refused() {
    for (text, want) in [
        ("{{.Nope}}", "map has no entry for key \"Nope\""),
        ("{{.State.Nope}}", "map has no entry for key \"Nope\""),
        ("{{.Name.More}}", "can't evaluate field More"),
        ("{{.Nothing.More}}", "nil data; no entry for key \"More\""),
        ("{{.Args", "unclosed action"),
        ("{{if .Args}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{break}}", "{{break}} outside {{range}}"),
        ("{{}}", "missing value for command"),
        ("{{.Args | }}", "missing value for command"),
        ("{{.Args | \"x\"}}", "non executable command"),
        ("{{(.Args}}", "unclosed left paren"),
        ("{{.Args)}}", "unexpected right paren"),
        ("{{foo .Args}}", "function \"foo\" not defined"),
        ("{{if false}}{{foo}}{{end}}", "function \"foo\" not defined"),
        ("{{len}}", "wrong number of args for len"),
        ("{{len 3}}", "len of type 3"),
        ("{{index .Args 9}}", "index out of range: 9"),
        ("{{index .Nothing 0}}", "index of nil pointer"),
        ("{{slice .Name 3 99}}", "index out of range: 3 to 99"),
        ("{{eq .Name 3}}", "incompatible types for comparison"),
        ("{{.Name .Args}}", "can't give argument to non-function"),
        ("{{range 3}}{{end}}", "range can't iterate over 3"),
        ("{{$x}}", "undefined variable \"$x\""),
        ("{{\"a}}", "unterminated quoted string"),
        ("{{/* a }}", "unclosed comment"),
        ("{{1x}}", "bad number syntax: \"1x\""),
        ("{{template \"x\"}}", "{{template}} is not supported"),
        ("{{printf \"%d\"}}", "%d has no argument"),
        (
            "{{printf \"%1000001s\" .Name}}",
            "a width of 1000001 is above the limit of 1000000",
        ),
        ("{{.Id ! .Name}}", "unexpected '!' in command"),
    ] {
        let error = format!("{:#}", render(text).unwrap_err());
        assert!(
            error.starts_with("template parsing error: ") && error.contains(want),
            "{text}: {error}"
        );
    }
    let deep = format!("{}{}", "{{if true}}".repeat(500), "{{end}}".repeat(500));
    assert!(render(&deep).is_err());
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(500), ")".repeat(500));
    assert!(render(&deep).is_err());
}
