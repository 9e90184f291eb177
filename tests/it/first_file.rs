//! Mistakes of a first configuration: each is reported with what to write, or is none.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use edgeway::testkit::gateway::{self, World};
use edgeway_config::{
    diagnostic::{Diagnostics, Severity, Style},
    source::Sources,
};

use regex::Regex;

use crate::{
    cli::{BROKEN, EX_CONFIG, edgeway},
    support::{
        certificates::files_of_examples, client::get, gateway::Gateway, mmdb::loopback_in_munich,
        origins::EchoOrigin, ports::free_port, wait::wait_for,
    },
};

/// Returns the problems of a text, as `edgeway check` finds them.
pub(crate) fn problems_of(yaml: &str) -> (Sources, Diagnostics) {
    let loaded = gateway::load_text("edgeway.yaml", yaml);
    let mut diagnostics = loaded.diagnostics;
    if let Some(file) = &loaded.file {
        let (_, found) = gateway::compile(file, files_of_examples(), &World::default());
        diagnostics.extend(found);
    }
    (loaded.sources, diagnostics)
}

pub(crate) fn lines(yaml: &str) -> Vec<String> {
    let (sources, diagnostics) = problems_of(yaml);
    let lines = diagnostics.render(&sources, Style::Lines);
    lines.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_reported(yaml: &str, severity: Severity, code: &str) {
    let (sources, diagnostics) = problems_of(yaml);
    let found: Vec<_> = diagnostics
        .list()
        .iter()
        .map(|d| (d.severity, d.code))
        .collect();
    let report = diagnostics.render(&sources, Style::Lines);
    assert_eq!(found, [(severity, code)], "{report}\n{yaml}");
}

#[track_caller]
fn assert_clean(yaml: &str) {
    assert_eq!(lines(yaml), [""; 0], "{yaml}");
}

fn routed(routes: &str) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:8080\" }}]\n\
         upstreams: {{ web: {{ backends: [\"127.0.0.1:3000\"] }} }}\nroutes: {routes}\n"
    )
}

/// A route for `/` alone is reported exactly if no other route takes the rest of its site.
#[test]
fn a_route_for_the_start_page_alone_is_doubtful() {
    let code = "edgeway::route::root_alone";
    for alone in [
        "[{ match: { path: / }, upstream: web }]",
        "[{ match: { path: / }, upstream: web }, { match: { path: /api/* }, upstream: web }]",
        "[{ match: { host: a.test, path: / }, upstream: web }, { match: { host: b.test, path: /* }, respond: 404 }]",
        "[{ match: { path: / }, upstream: web }, { match: { path: /*, method: POST }, respond: 404 }]",
    ] {
        assert_reported(&routed(alone), Severity::Warning, code);
    }
    for meant in [
        "[{ match: { path: /* }, upstream: web }]",
        "[{ match: { path: / }, upstream: web }, { match: { path: /* }, respond: 404 }]",
        "[{ match: { host: a.test, path: / }, upstream: web }, { match: {}, respond: 404 }]",
        "[{ match: { path: [/, /about] }, upstream: web }]",
        "[{ match: { method: GET, path: / }, upstream: web }, { match: { method: [GET, POST] }, respond: 404 }]",
    ] {
        assert_clean(&routed(meant));
    }
}

/// Variables of nginx would be sent as they are written; groups of an expression are meant.
#[test]
fn variables_of_nginx_are_doubtful() {
    let code = "edgeway::route::nginx_variable";
    let route = |keys: &str| routed(&format!("[{{ match: {{ path: /* }}, {keys} }}]"));
    for sent in [
        "upstream: web, headers: { request: { set: { X-Ip: '$REMOTE_ADDR' } } }",
        "upstream: web, headers: { response: { add: { X-A: [a, '$http_x_a'] } } }",
    ] {
        assert_reported(&route(sent), Severity::Warning, code);
    }
    for meant in [
        "upstream: web, rewrite: { regex: '^/a/(.*)$', with: /$1 }",
        "upstream: web, headers: { request: { set: { X-Price: '5 $' } } }",
    ] {
        assert_clean(&route(meant));
    }
}

/// Clients of Socket.IO need one instance for all requests of a session.
#[test]
fn socket_io_before_several_instances_needs_sticky() {
    let with = |backends: &str, path: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:8080\" }}]\n\
             upstreams: {{ web: {{ backends: {backends} }} }}\n\
             routes: [{{ match: {{ path: {path} }}, upstream: web, websocket: true }}]\n"
        )
    };
    let two = "[127.0.0.1:3000, 127.0.0.1:3001]";
    let code = "edgeway::upstream::socket_io";
    for path in ["/socket.io/*", "[/live, /chat/socket.io/*]"] {
        assert_reported(&with(two, path), Severity::Warning, code);
        for meant in [
            "[127.0.0.1:3000]".to_owned(),
            format!("{two}, sticky: {{ cookie: instance }}"),
            format!("{two}, balance: hash:client.ip"),
        ] {
            assert_clean(&with(&meant, path));
        }
    }
    assert_clean(&with(two, "/live"));
}

#[test]
fn cached_pages_of_an_unknown_build_are_doubtful() {
    let with = |upstream: &str, route: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:8080\" }}]\n\
             upstreams: {{ web: {{ app: nextjs, backends: [\"127.0.0.1:3000\"]{upstream} }} }}\n\
             routes: [{{ match: {{ path: /* }}, upstream: web{route} }}]\n"
        )
    };
    let code = "edgeway::upstream::build_unknown";
    assert_reported(&with("", ", cache: {}"), Severity::Warning, code);
    assert_clean(&with("", ""));
    assert_clean(&with("", ", cache: { pages: off }"));
    assert_clean(&with("", ", cache: { mode: strict }"));
    assert_clean(&with(", guarded: []", ", cache: {}"));
    // Before the first deploy of a release.
    let releases = ", releases: { folder: none, ports: 4000-4031, start: [npm, start] }";
    assert_reported(&with(releases, ", cache: {}"), Severity::Warning, code);
    // A folder without a build has a warning of its own.
    let folder = with(", folder: no/build", ", cache: {}");
    assert_reported(&folder, Severity::Warning, "edgeway::upstream::folder");

    // A build whose middleware keeps every page out, as the matcher of Next.js's own examples does.
    let build = |regex: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("server")).expect("it takes folders");
        let manifest = serde_json::json!({
            "version": 1,
            "functions": { "/_middleware": { "matchers": [{ "regexp": regex }] } },
        });
        let manifest = manifest.to_string();
        for (name, text) in [
            ("BUILD_ID", "one"),
            ("routes-manifest.json", r#"{ "version": 3 }"#),
            ("server/functions-config-manifest.json", &manifest),
        ] {
            std::fs::write(folder.path().join(name), text).expect("it takes files");
        }
        folder
    };
    let every = "^(?:/((?!api|_next/static|_next/image|favicon.ico).*))(?:/)?$";
    let code = "edgeway::upstream::every_page_guarded";
    for (regex, more, is_doubtful) in [
        (every, "", true),
        (every, ", guarded: [/*]", false),
        (every, ", guarded: [/account/*]", false),
        ("^/account(?:/.*)?$", "", false),
    ] {
        let folder = build(regex);
        let upstream = format!(", folder: '{}'{more}", folder.path().display());
        let text = with(&upstream, ", cache: {}");
        if is_doubtful {
            assert_reported(&text, Severity::Warning, code);
        } else {
            assert_clean(&text);
        }
    }
}

/// Two listeners are refused exactly if the system cannot bind both.
#[test]
fn overlapping_listeners_are_those_that_the_system_refuses() {
    use std::net::{Ipv6Addr, SocketAddr, TcpListener};
    let bind = |address: &str| -> std::io::Result<TcpListener> {
        let (address, both) = match address.strip_prefix(':') {
            Some(port) => (format!("[::]:{port}"), true),
            None => (address.to_owned(), false),
        };
        let address: SocketAddr = address.parse().expect("it is an address");
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!both)?;
        }
        socket.bind(&address.into())?;
        socket.listen(1)?;
        Ok(socket.into())
    };
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let hosts = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]", ""];
    let mut refused = 0;
    for one in hosts {
        for two in hosts {
            if !has_ipv6
                && [one, two]
                    .iter()
                    .any(|host| host.contains(':') || host.is_empty())
            {
                continue;
            }
            // A process that another test starts may have a socket of an earlier pair for a moment.
            let port = free_port();
            let (one, two) = (format!("{one}:{port}"), format!("{two}:{port}"));
            let first = bind(&one).unwrap_or_else(|error| panic!("{one}: {error}"));
            let is_refused = bind(&two).is_err();
            drop(first);
            let yaml = format!(
                "listeners: [{{ address: \"{one}\" }}, {{ address: \"{two}\" }}]\n\
                 routes: [{{ match: {{}}, respond: ok }}]\n"
            );
            assert_eq!(lines(&yaml).len(), usize::from(is_refused), "{one} {two}");
            refused += usize::from(is_refused);
        }
    }
    assert!(refused >= if has_ipv6 { 18 } else { 7 }, "{refused}");
    // The admin listener is one of them.
    let admin = "listeners: [{ address: \":9900\" }]\nroutes: [{ match: {}, respond: ok }]\n";
    assert_reported(admin, Severity::Error, "edgeway::listener::admin");
    assert_clean(&format!("{admin}admin: {{ address: off }}\n"));
}

/// A value that is allowed is allowed without the keys beside it: their defaults follow.
#[test]
fn defaults_follow_the_values_that_are_set() {
    for set in [
        "cache: { memory: 1MiB }",
        "cache: { memory: 16MiB }",
        "cache: { memory: 4GiB }",
        "cache: { memory: 16MiB, disk: { folder: /tmp/none, size: 1MiB } }",
        "drain: { deadline: 100ms }",
        "drain: { deadline: 1h }",
    ] {
        assert_clean(&format!(
            "{}{set}\n",
            routed("[{ match: { path: /* }, upstream: web, cache: {} }]")
        ));
    }
    for limits in [
        "headers: 1KiB",
        "headers: 900KiB",
        "request_line: 60KiB",
        "request_line: 100B",
    ] {
        assert_clean(&format!(
            "listeners: [{{ address: \"127.0.0.1:8080\", limits: {{ {limits} }} }}]\n\
             routes: [{{ match: {{}}, respond: ok }}]\n"
        ));
    }
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let file = folder.path().join("edgeway.yaml");
    let yaml = routed("[{ match: { path: /* }, upstream: web, cache: {} }]");
    fs::write(&file, format!("{yaml}cache: {{ memory: 16MiB }}\n")).expect("it takes files");
    let printed = edgeway(&["check", "--print", "-c", &file.to_string_lossy()]);
    assert!(
        printed.stdout.contains("max_object: 4MiB"),
        "{}",
        printed.stdout
    );
}

#[test]
fn statuses_need_no_quotes() {
    let with = |status: &str| {
        routed(&format!(
            "[{{ match: {{ path: /* }}, upstream: web, cache: {{ by_status: {{ {status}: 10s, 410: 1h }} }} }}]"
        ))
    };
    assert_clean(&with("404"));
    assert_clean(&with("\"404\""));
    assert_reported(&with("206"), Severity::Error, "edgeway::cache::status");
    assert_reported(&with("true"), Severity::Error, "edgeway::yaml::key");
}

/// A broken file has one exit status, whichever command reads it, and nothing of it serves.
#[tokio::test]
async fn a_broken_file_has_one_exit_status() {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let good = routed("[{ match: { path: /* }, respond: ok }]").replace(
        "upstreams: { web: { backends: [\"127.0.0.1:3000\"] } }\n",
        "",
    );
    let broken = [
        ("syntax", "listeners: [".to_owned()),
        ("type", good.replace("respond: ok", "respond: [1]")),
        ("meaning", good.replace("respond: ok", "upstream: nobody")),
        (
            "variable",
            good.replace("respond: ok", "respond: \"${NOBODY_SETS_THIS}\""),
        ),
        (
            "twice",
            format!("{good}drain: {{ deadline: 5s }}\ndrain: {{ deadline: 6s }}\n"),
        ),
        ("include", format!("{good}include: nothing.yaml\n")),
        (
            "profile",
            format!("{good}profiles: {{ peak: {{ cache: 5 }} }}\n"),
        ),
    ];
    let mut files: Vec<(String, String)> = broken
        .iter()
        .map(|(name, text)| {
            let file = folder.path().join(format!("{name}.yaml"));
            fs::write(&file, text).expect("it takes files");
            ((*name).to_owned(), file.to_string_lossy().into_owned())
        })
        .collect();
    files.push(("mistakes".to_owned(), BROKEN.to_owned()));
    files.push(("absent".to_owned(), "no/such/file.yaml".to_owned()));
    for (name, file) in &files {
        let check = edgeway(&["check", "-c", file]);
        for command in [
            &["check", "-c", file, "--print"][..],
            &["check", "-c", file, "--format", "json"],
            &["run", "-c", file],
            &["explain", "-c", file, "GET", "/"],
        ] {
            let ran = edgeway(command);
            assert_eq!(
                (ran.status, check.status),
                (EX_CONFIG, EX_CONFIG),
                "{name} {command:?}"
            );
            let output = format!("{}{}", ran.stdout, ran.stderr);
            assert!(output.contains("error"), "{name} {command:?}: {output}");
        }
    }
    let gateway = Gateway::start("routes: [{ match: { path: /* }, respond: first }]\n").await;
    for (name, text) in &broken {
        let own = text.replacen("listeners: [{ address: \"127.0.0.1:8080\" }]\n", "", 1);
        gateway.configure(&own);
        let ran = edgeway(&["reload", "--socket", gateway.admin_socket()]);
        assert_eq!(ran.status, EX_CONFIG, "{name}: {}", ran.stderr);
        assert_eq!(gateway.get("/").await.text(), "first", "{name}");
    }
}

/// A variable that is not set is one error, and the other problems of the file are found too.
#[test]
fn an_unset_variable_is_one_error() {
    let unset = "${EDGEWAY_TEST_NOBODY_SETS_THIS}";
    for (yaml, more) in [
        (
            format!(
                "listeners: [{{ address: \"{unset}\" }}]\nroutes: [{{ match: {{}}, respond: ok }}]\n"
            ),
            0,
        ),
        (
            format!(
                "listeners: [{{ address: \"127.0.0.1:{unset}\" }}]\nroutes: [{{ match: {{}}, respond: ok }}]\n"
            ),
            0,
        ),
        (
            routed(&format!(
                "[{{ match: {{ path: /* }}, upstream: \"{unset}\" }}]"
            )),
            0,
        ),
        (
            routed(&format!(
                "[{{ match: {{ path: \"{unset}\" }}, upstream: \"{unset}\" }}]"
            )),
            0,
        ),
        (
            format!(
                "{}drain: {{ deadline: \"{unset}\" }}\n",
                routed("[{ match: { path: /* }, respond: { status: x } }]")
            ),
            1,
        ),
        (
            format!(
                "{}drain: {{ announce: \"{unset}\", deadline: \"{unset}\" }}\n",
                routed("[{ match: { path: /* }, upstream: web }]")
            ),
            0,
        ),
        (
            format!("listeners: \"{unset}\"\nroutes: [{{ match: {{}}, respond: ok }}]\n"),
            0,
        ),
    ] {
        let (sources, diagnostics) = check_text(&yaml);
        let errors = diagnostics
            .list()
            .iter()
            .filter(|d| d.severity == Severity::Error);
        let codes: Vec<_> = errors.map(|d| d.code).collect();
        let report = diagnostics.render(&sources, Style::Lines);
        assert_eq!(codes.len(), 1 + more, "{report}\n{yaml}");
        assert_eq!(codes[0], "edgeway::config::environment", "{report}\n{yaml}");
    }
}

/// Returns the problems of a text in a file, from the program.
fn check_text(yaml: &str) -> (Sources, Diagnostics) {
    let loaded = gateway::load_text("edgeway.yaml", yaml);
    let mut loaded = loaded;
    loaded.find_rest(Path::new("."));
    let mut diagnostics = loaded.diagnostics;
    if let Some(file) = &loaded.file {
        diagnostics.extend(gateway::compile(file, Path::new("."), &World::default()).1);
    }
    (loaded.sources, diagnostics)
}

/// A variable in quotes, which flow collections need, has the type that is expected.
#[test]
fn a_variable_in_quotes_may_be_a_number_or_a_text() {
    let with = |route: &str| routed(&format!("[{{ match: {{ path: /* }}, {route} }}]"));
    let number = "\"${NOBODY_SETS_THIS:-201}\"";
    let flag = "\"${NOBODY_SETS_THIS:-true}\"";
    for route in [
        format!("respond: {{ status: {number}, body: {number} }}"),
        format!("respond: {{ body: {flag} }}"),
        format!("upstream: web, cache: {{ purge_on_write: {flag}, tags: [{number}] }}"),
    ] {
        let yaml = with(&route);
        let problems = lines(&yaml);
        let problems = problems
            .iter()
            .filter(|line| !line.contains("no route uses"));
        assert_eq!(problems.count(), 0, "{yaml}: {:?}", lines(&yaml));
    }
    // A text that looks like a number stays a text.
    let quoted = with("respond: { status: \"201\" }");
    assert!(
        lines(&quoted).join("").contains("remove the quotes"),
        "{:?}",
        lines(&quoted)
    );
}

#[tokio::test]
async fn a_refused_websocket_names_the_missing_key() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}\n\
         routes: [{{ name: chat, match: {{ path: /* }}, upstream: app }}]\n",
        origin.address()
    ))
    .await;
    let ask = get("/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    for _ in 0..3 {
        let response = gateway.send(&ask).await;
        assert_eq!(response.status(), 400);
        assert!(
            response.text().contains("`websocket: true`"),
            "{}",
            response.text()
        );
    }
    let log = gateway.log_lines(3).await;
    assert!(
        log.iter().all(|line| line["reason"] == "websocket_off"),
        "{log:?}"
    );
    // One line for each route: clients may ask as often as they like.
    let stderr = wait_for("there is a line", Duration::from_secs(5), async || {
        let stderr = gateway.stderr();
        stderr.contains("lacks `websocket: true`").then_some(stderr)
    })
    .await;
    let hints: Vec<_> = stderr
        .lines()
        .filter(|line| line.contains("lacks `websocket: true`"))
        .collect();
    assert_eq!(hints.len(), 1, "{stderr}");
    assert!(hints[0].contains("chat"), "{hints:?}");
    let file = gateway.folder().join("edgeway.yaml");
    let file = file.to_string_lossy();
    let explain = |more: &[&str]| {
        let mut all = vec!["explain", "-c", &*file, "GET", "/ws"];
        all.extend(more);
        edgeway(&all).stdout
    };
    let asked = explain(&["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"]);
    assert!(
        asked.contains("websocket_off") && asked.contains("`websocket: true`"),
        "{asked}"
    );
    assert!(!explain(&[]).contains("websocket_off"));
}

/// A plugin is made beside the others, also from within their folder, and the printed path is the
/// one to write in the configuration.
#[test]
fn a_new_plugin_lies_beside_the_others() {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let make = |within: &Path, arguments: &[&str]| {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(["plugin", "new"])
            .args(arguments)
            .current_dir(within)
            .output()
            .expect("the program runs");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).expect("it is text")
    };
    let top = folder.path();
    make(top, &["one"]);
    let output = make(&top.join("plugins"), &["two"]);
    assert!(output.contains("edgeway plugin test two\n"), "{output}");
    make(top, &["three", "--in", "mine"]);
    for made in ["plugins/one", "plugins/two", "mine/three"] {
        assert!(top.join(made).join("plugin.js").is_file(), "{made}");
    }
    let file = output
        .split("file: ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .expect("a path");
    let yaml = routed(&format!(
        "[{{ match: {{ path: /* }}, upstream: web, plugins: [{{ file: {file}, on_error: continue }}] }}]"
    ));
    fs::write(top.join("edgeway.yaml"), yaml).expect("the folder takes files");
    let checked = edgeway(&["check", "-c", &top.join("edgeway.yaml").to_string_lossy()]);
    assert_eq!(checked.status, 0, "{}", checked.stderr);
}

/// Every example is well formed where it lies, with the files that lie beside it.
#[test]
fn every_example_loads_where_it_lies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    let geo = root.join("conf/examples/GeoLite2-City.mmdb");
    if std::env::var_os("WRITE_EXAMPLES").is_some() {
        fs::write(&geo, loopback_in_munich()).expect("the folder takes files");
    }
    // A file in the format of the real one, with one network.
    assert!(fs::read(&geo).expect("it is there") == loopback_in_munich());
    for file in examples() {
        let ran = edgeway(&["check", "-c", &file.to_string_lossy()]);
        let name = file.strip_prefix(root).expect("it is below").display();
        let wanted = format!("{}: the configuration is well formed\n", file.display());
        assert_eq!((ran.status, ran.stderr), (0, wanted), "{name}");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

/// Returns each file below these folders that ends with `.yaml`.
fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["conf", "conf/examples"] {
        let entries = fs::read_dir(root.join(folder)).expect("the folder is there");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        files.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "yaml")));
    }
    files.sort();
    files
}

/// Invariant: a variable in quotes is what it would be without them, wherever a flag or a number
/// is taken.
#[test]
fn flags_and_numbers_may_be_variables_in_quotes() {
    let value = Regex::new(r"^([^#]*?: )(true|false|\d+)([ ,}\n])").expect("it is valid");
    let effective = |file: &Path| {
        let ran = edgeway(&["check", "--print", "-c", &file.to_string_lossy()]);
        (ran.status, ran.stdout, ran.stderr)
    };
    // Of a plugin's own configuration nobody knows the types: a text is a text.
    let is_of_plugin = |line: &str| line.contains("variants:") || line.contains("fallback:");
    // Other tests install the folder of examples meanwhile.
    let folder = tempfile::tempdir().expect("a folder can be made");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copied = Command::new("cp")
        .arg("-a")
        .arg(root.join("conf"))
        .arg(folder.path())
        .status();
    assert!(copied.expect("cp runs").success());
    symlink(root.join("plugins"), folder.path().join("plugins")).expect("it can be linked");
    let mut replaced = 0;
    for file in examples() {
        let text = fs::read_to_string(&file).expect("it is UTF-8");
        let quoted: String = text
            .split_inclusive('\n')
            .map(|line| {
                let mut line = line.to_owned();
                while !is_of_plugin(&line) && value.is_match(&line) {
                    replaced += 1;
                    line = value.replace(&line, "$1\"$${UNSET:-$2}\"$3").into_owned();
                }
                line
            })
            .collect();
        if quoted == text {
            continue;
        }
        let copy = folder
            .path()
            .join(file.strip_prefix(root).expect("it is below"));
        let expected = effective(&copy).1;
        fs::write(&copy, &quoted).expect("the folder takes files");
        let (status, printed, problems) = effective(&copy);
        assert_eq!(status, 0, "{problems}");
        assert_eq!(printed, expected, "{}", file.display());
    }
    assert!(replaced > 40, "{replaced}");
}
