//! Tests of `edgeway proxy`: whatever the options are, the text is a configuration without
//! findings.

use std::path::PathBuf;

use edgeway_gateway::{self as gateway, World};

use super::{
    super::{ca::LeafFiles, project::App},
    STICKY,
    address::{AppAddress, ListenAddress},
    check, tls_to_backends,
    yaml::{Https, ProxyYaml},
};

fn pair() -> (tempfile::TempDir, LeafFiles) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let leaf = LeafFiles {
        certificate: folder.path().join("a b.pem"),
        key: folder.path().join("a b.key"),
    };
    std::fs::write(&leaf.certificate, made.cert.pem()).unwrap();
    std::fs::write(&leaf.key, made.signing_key.serialize_pem()).unwrap();
    (folder, leaf)
}

/// Invariant: for every combination of options, the text that is served and printed has no
/// problem, and its routes and backends are those of the options.
#[test]
fn every_combination_of_options_is_a_valid_configuration() {
    let (folder, leaf) = pair();
    std::fs::write(folder.path().join("BUILD_ID"), "x").unwrap();
    let build = folder.path().display().to_string();
    let to = [
        "3000",
        "[::1]:3001",
        "api.internal:5000",
        "unix:/run/a b.sock",
    ];
    let hosts = ["shop.localhost", "*.shop.localhost", "127.0.0.1"];
    for case in 0_usize..96 {
        let bit = |n: usize| case >> n & 1 == 1;
        let count = case % to.len() + 1;
        let apps: Vec<AppAddress> = to[..count].iter().map(|to| to.parse().unwrap()).collect();
        let listen: ListenAddress = if bit(2) { ":8081" } else { "8080" }.parse().unwrap();
        let app = [App::None, App::Node, App::Nextjs][case % 3];
        let https = bit(3).then(|| Https {
            listen: bit(4).then(|| ListenAddress::local(8443)),
            leaf: LeafFiles {
                certificate: leaf.certificate.clone(),
                key: leaf.key.clone(),
            },
        });
        let listeners = https
            .as_ref()
            .map_or(1, |https| 1 + usize::from(https.listen.is_some()));
        let served = &hosts[..case % (hosts.len() + 1)];
        let text = ProxyYaml {
            comment: "Made\nby a test.".to_owned(),
            listen,
            https,
            admin: if bit(5) {
                "admin: { address: off, socket: \"off\" }\n"
            } else {
                ""
            }
            .to_owned(),
            app,
            build: (bit(0) && app == App::Nextjs).then(|| build.clone()),
            backends: apps.iter().map(|app| app.backend(|_| true)).collect(),
            tls: false,
            hosts: served.iter().map(|host| (*host).to_owned()).collect(),
            cache: bit(1),
            more: String::new(),
            settings: if bit(6) { STICKY } else { "" },
        }
        .to_string();
        edgeway_filters::register();
        let loaded = gateway::load_text("proxy", &text);
        let report = loaded
            .diagnostics
            .render(&loaded.sources, edgeway_config::diagnostic::Style::Json);
        assert!(loaded.diagnostics.list().is_empty(), "{text}\n{report}");
        let file = loaded.file.unwrap();
        let (gateway, found) = gateway::compile(&file, &PathBuf::new(), &World::default());
        let report = found.render(&loaded.sources, edgeway_config::diagnostic::Style::Json);
        assert!(found.list().is_empty(), "{text}\n{report}");
        let gateway = gateway.unwrap();
        assert_eq!(gateway.listeners.len(), listeners, "{text}");
        assert_eq!(file.upstreams[0].1.value.backends.len(), count, "{text}");
        assert_eq!(gateway.cache.is_some(), bit(1), "{text}");
        // With two listeners, one of them redirects.
        assert_eq!(gateway.routes.len(), listeners, "{text}");
        assert_eq!(text.matches("status: 307").count(), listeners - 1, "{text}");
    }
}

/// Invariant: what no file may say is refused with the option that says it.
#[test]
fn an_option_that_makes_an_error_is_named() {
    for (to, host, expected) in [
        ("3000", "a.test", None),
        ("3000,3000", "a.test", Some("`--to`: ")),
        ("3000", "a/b", Some("`--host`: invalid host `a/b`")),
        ("3000", "https://a.test", Some("`--host`: invalid host")),
    ] {
        let apps = to.split(',').map(|to| to.parse::<AppAddress>().unwrap());
        let yaml = ProxyYaml {
            comment: String::new(),
            listen: ListenAddress::local(8080),
            https: None,
            admin: String::new(),
            app: App::Node,
            build: None,
            backends: apps.map(|app| app.backend(|_| true)).collect(),
            tls: false,
            hosts: vec![host.to_owned()],
            cache: false,
            more: String::new(),
            settings: "",
        };
        edgeway_filters::register();
        let refused = check(&yaml.to_string()).err();
        match (&refused, expected) {
            (None, None) => {}
            (Some(message), Some(start)) => assert!(message.starts_with(start), "{message}"),
            _ => panic!("{to} {host}: {refused:?}"),
        }
    }
}

#[test]
fn one_upstream_has_one_protocol() {
    let apps =
        |text: &str| -> Vec<AppAddress> { text.split(',').map(|to| to.parse().unwrap()).collect() };
    assert_eq!(tls_to_backends(&apps("3000,a:1")), Ok(false));
    assert_eq!(tls_to_backends(&apps("https://a,https://a:8443")), Ok(true));
    assert!(tls_to_backends(&apps("https://a,3000")).is_err());
}
