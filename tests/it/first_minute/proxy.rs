//! `edgeway proxy`: an app is served without a file, and the file that it prints serves the same.

use std::{net::TcpListener, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use super::Home;
use crate::support::{
    apps::{ExpressApp, NextApp},
    client::{self, get},
    origins::{EchoOrigin, FixedOrigin},
    ports::free_port,
    sockets,
    wait::wait_for,
};

/// Parts of the state that say what is served, without counts and times.
fn served(status: &str) -> Value {
    let status: Value = serde_json::from_str(status).expect("the status is JSON");
    let routes = status["routes"].as_array().expect("a list").iter();
    let routes = routes.map(|route| {
        serde_json::json!([
            route["name"],
            route["match"],
            route["filters"],
            route["upstream"]
        ])
    });
    let upstreams = status["upstreams"].as_array().expect("a list").iter();
    let upstreams = upstreams.map(|upstream| {
        let backends = upstream["backends"].as_array().expect("a list").iter();
        let addresses = backends.map(|backend| backend["address"].clone());
        serde_json::json!([
            upstream["name"],
            upstream["balance"],
            addresses.collect::<Value>()
        ])
    });
    serde_json::json!([routes.collect::<Value>(), upstreams.collect::<Value>()])
}

/// Invariant: the printed file is what the command serves. It has no findings, and a gateway that
/// runs it has the same routes and backends and responds alike.
#[tokio::test]
async fn an_app_is_served_without_a_file_and_the_printed_file_serves_the_same() {
    let express = ExpressApp::start().await;
    let home = Home::alone();
    for options in [
        &[][..],
        &["--cache"],
        &["--host", "shop.localhost,127.0.0.1"],
        &["--app", "nextjs", "--cache", "--host", "127.0.0.1"],
    ] {
        let (app, listen) = (express.port().to_string(), free_port().to_string());
        let arguments = ["proxy", "--to", &app, "--listen", &listen];
        let arguments = [&arguments, options].concat();
        let (status, yaml, stderr) = home.run(&[&arguments[..], &["--print"]].concat());
        assert_eq!((status, stderr.as_str()), (0, ""));
        super::write(&home.project(), &[("printed.yaml", &yaml)]);
        let (status, _, findings) = home.run(&["check", "--config", "printed.yaml"]);
        assert_eq!(status, 0, "{findings}\n{yaml}");
        assert!(findings.contains("well formed"), "{findings}\n{yaml}");

        let address = format!("127.0.0.1:{listen}").parse().expect("an address");
        let mut seen = Vec::new();
        for command in [&arguments[..], &["run", "--config", "printed.yaml"]] {
            let gateway = home.start(command).await;
            let mut responses = Vec::new();
            for path in ["/health", "/api/items", "/status/404", "/nothing"] {
                let response = client::send(address, &get(path))
                    .await
                    .expect("it responds");
                let fields = response.headers.fields.iter();
                let mut headers: Vec<String> = fields.map(|(name, _)| name.clone()).collect();
                // On a busy machine a response may be a second old.
                headers.retain(|name| name != "Age");
                headers.sort();
                responses.push((response.status(), headers, response.text()));
            }
            if options.is_empty() {
                let mut socket = sockets::open(address).await;
                assert!(sockets::echoes(&mut socket, "hello").await);
            }
            let (status, text, problem) = home.run(&["status", "--json"]);
            assert_eq!(status, 0, "{problem}");
            seen.push((responses, served(&text)));
            drop(gateway);
        }
        assert_eq!(seen[0], seen[1], "{yaml}");
        assert_eq!(seen[0].0[0].0, 200);
    }
}

#[tokio::test]
async fn several_apps_share_requests_and_a_cache_stores_their_responses() {
    let kept = [("cache-control", "public, max-age=60")];
    let apps = [
        FixedOrigin::start(200, &kept, "one").await,
        FixedOrigin::start(200, &kept, "two").await,
    ];
    let home = Home::new();
    let to = apps
        .each_ref()
        .map(|app| app.address().port().to_string())
        .join(",");
    let listen = free_port().to_string();
    let _gateway = home
        .start(&["proxy", "--to", &to, "--listen", &listen, "--cache"])
        .await;
    let address = format!("127.0.0.1:{listen}").parse().expect("an address");
    for n in 0..8 {
        let path = format!("/{n}");
        for expected in ["MISS", "HIT"] {
            let response = client::send(address, &get(&path))
                .await
                .expect("it responds");
            assert_eq!(response.header("x-cache-status"), Some(expected), "{path}");
        }
    }
    let counts = apps.each_ref().map(|app| app.counts().requests());
    assert_eq!(counts, [4, 4]);
    // A client of Socket.IO stays with one of them.
    let package = r#"{ "dependencies": { "socket.io": "4" } }"#;
    super::write(&home.project(), &[("package.json", package)]);
    for (to, is_sticky) in [(&*to, true), ("3000", false)] {
        let (_, yaml, _) = home.run(&["proxy", "--to", to, "--print"]);
        let is_written = yaml.contains("sticky: { cookie: instance }");
        assert_eq!(is_written, is_sticky, "{yaml}");
    }
}

#[tokio::test]
async fn a_real_next_app_is_recognised_by_its_package_and_served_from_the_cache() {
    let next = NextApp::shared().await;
    let home = Home::new();
    let folder = next.kind().folder();
    let (to, listen) = (next.port().to_string(), free_port().to_string());
    let arguments = ["proxy", "--to", &to, "--listen", &listen, "--cache"];
    let gateway = home.start_in(&folder, &arguments).await;
    let text = gateway.text();
    assert!(
        text.contains("a Next.js app, as package.json says"),
        "{text}"
    );
    let address = format!("127.0.0.1:{listen}").parse().expect("an address");
    let ask = async |path: &str| {
        let response = client::send(address, &get(path))
            .await
            .expect("it responds");
        let cache = response.header("x-cache-status").unwrap_or_default();
        (response.status(), cache.to_owned())
    };
    wait_for("a page is stored", Duration::from_secs(20), async || {
        (ask("/isr").await == (200, "HIT".to_owned())).then_some(())
    })
    .await;
    // What the app's own proxy.js guards never comes from the cache.
    assert_eq!(ask("/secret").await, (307, "BYPASS".to_owned()));
}

#[tokio::test]
async fn an_app_that_does_not_listen_yet_is_reported_and_served_later() {
    let home = Home::new();
    let mut origin = EchoOrigin::start().await;
    origin.stop();
    let (app, listen) = (origin.address().port(), free_port().to_string());
    let to = app.to_string();
    let gateway = home
        .start(&["proxy", "--to", &to, "--listen", &listen])
        .await;
    gateway
        .prints(&format!("nothing listens on localhost:{app} yet"))
        .await;
    let address = format!("127.0.0.1:{listen}").parse().expect("an address");
    let early = client::send(address, &get("/")).await.expect("it responds");
    assert!([502, 503].contains(&early.status()), "{}", early.status());

    origin.resume().await;
    wait_for("the app is served", Duration::from_secs(10), async || {
        let response = client::send(address, &get("/")).await.expect("it responds");
        (response.status() == 200).then_some(())
    })
    .await;
    // Control: an app that listens is not reported.
    let other = free_port().to_string();
    let second = home
        .start(&["proxy", "--to", &to, "--listen", &other])
        .await;
    assert!(
        !second.text().contains("nothing listens"),
        "{}",
        second.text()
    );
}

#[tokio::test]
#[cfg_attr(edgeway_portable, ignore = "only Linux tells who listens")]
async fn a_port_that_is_taken_is_named_with_its_holder_and_a_free_one() {
    let app = EchoOrigin::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port();
    let home = Home::new();
    let (to, listen) = (app.address().port().to_string(), port.to_string());
    let (status, _, stderr) = home.run(&["proxy", "--to", &to, "--listen", &listen]);
    assert_eq!(status, 1);
    assert!(
        stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{stderr}"
    );
    assert!(
        stderr.contains(&format!("process {}", std::process::id())),
        "{stderr}"
    );
    let free = stderr
        .split("--listen ")
        .nth(1)
        .and_then(|text| text.split('`').next());
    let free = free.expect("it proposes a port").to_owned();
    // The proposal works.
    let _gateway = home.start(&["proxy", "--to", &to, "--listen", &free]).await;
    let address = format!("127.0.0.1:{free}").parse().expect("an address");
    assert_eq!(
        client::send(address, &get("/"))
            .await
            .expect("it responds")
            .status(),
        200
    );
}

/// Invariant: whichever address of a file is taken, its holder is named, with what else to do.
#[test]
#[cfg_attr(edgeway_portable, ignore = "only Linux tells who listens")]
fn a_file_whose_address_is_taken_says_by_whom() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port();
    let home = Home::new();
    let own = format!("process {}", std::process::id());
    for (listen, admin, remedy) in [
        (port, "off".to_owned(), "or change the address in the file"),
        (0, format!("127.0.0.1:{port}"), "another admin address"),
    ] {
        let yaml = format!(
            "listeners: [{{ address: \"127.0.0.1:{listen}\" }}]\n\
             admin: {{ address: \"{admin}\", socket: off }}\n\
             routes: [{{ match: {{ path: /* }}, respond: ok }}]\n"
        );
        super::write(&home.project(), &[("edgeway.yaml", &yaml)]);
        let (status, _, stderr) = home.run(&["run"]);
        assert_eq!(status, 1, "{stderr}");
        assert!(stderr.contains(&own) && stderr.contains(remedy), "{stderr}");
        assert!(!stderr.contains("--listen"), "{stderr}");
    }
}

#[test]
fn mistakes_in_options_are_explained() {
    let home = Home::new();
    for (arguments, words) in [
        (&["--to", "8080"][..], "round in a circle"),
        (&["--to", "3000", "--listen", "3000"], "round in a circle"),
        (&["--to", "api.internal"], "no port"),
        (&["--to", "99999"], "ports are numbers from 1 to 65535"),
        (&["--to", "3000", "--port", "99999"], "ports are numbers"),
        (&["--to", "3000", "--port"], "--listen <ADDRESS>"),
        (&["--port", "3000"], "--to"),
        (
            &["--to", "3000", "--listen", "shop.localhost"],
            "all addresses",
        ),
        (&["--to", "https://a,3000"], "one protocol"),
        (
            &["--to", "3000", "--https", "--host", "example.com"],
            "does not sign for `example.com`",
        ),
        (&[], "--to"),
    ] {
        let (status, stdout, stderr) = home.run(&[&["proxy"], arguments, &["--print"]].concat());
        assert!(status != 0 && stdout.is_empty(), "{arguments:?}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn a_second_gateway_of_a_user_serves_beside_the_first() {
    let app = EchoOrigin::start().await;
    let home = Home::alone();
    let to = app.address().port().to_string();
    let ports = [free_port().to_string(), free_port().to_string()];
    let _first = home
        .start(&["proxy", "--to", &to, "--listen", &ports[0]])
        .await;
    let second = home
        .start(&["proxy", "--to", &to, "--listen", &ports[1]])
        .await;
    let command = second.text();
    let command = command
        .lines()
        .find_map(|line| line.split_once("edgeway status --socket "));
    let socket = command
        .expect("it prints the command")
        .1
        .trim_end_matches('`')
        .to_owned();
    let (status, text, stderr) = home.run(&["status", "--json", "--socket", &socket]);
    assert_eq!(status, 0, "{stderr}");
    let text: Value = serde_json::from_str(&text).expect("the status is JSON");
    let address = text["listeners"][0]["address"]
        .as_str()
        .expect("it listens");
    assert!(address.ends_with(&ports[1]), "{address}");
}

/// Invariant: what is printed does not depend on the gateways that run here; the remedy for those
/// works.
#[tokio::test]
async fn the_printed_file_is_the_same_beside_another_gateway() {
    let app = EchoOrigin::start().await;
    let home = Home::alone();
    let to = app.address().port().to_string();
    let ports = [free_port().to_string(), free_port().to_string()];
    let print = || home.run(&["proxy", "--to", &to, "--listen", &ports[1], "--print"]);
    let (_, quiet, note) = print();
    assert_eq!(note, "");
    let _first = home
        .start(&["proxy", "--to", &to, "--listen", &ports[0]])
        .await;
    let (status, beside, note) = print();
    assert_eq!((status, &beside), (0, &quiet));
    assert!(!beside.contains("admin"), "{beside}");
    let remedy = note
        .split('`')
        .find(|part| part.starts_with("admin: {"))
        .unwrap_or_else(|| panic!("no remedy: {note}"));
    let files = [("beside.yaml", &*format!("{beside}{remedy}\n"))];
    super::write(&home.project(), &files);
    let _second = home.start(&["run", "--config", "beside.yaml"]).await;
    let address = format!("127.0.0.1:{}", ports[1])
        .parse()
        .expect("an address");
    let response = client::send(address, &get("/")).await;
    assert_eq!(response.expect("it responds").status(), 200);
}

#[tokio::test]
async fn closing_the_terminal_ends_the_gateway() {
    let app = EchoOrigin::start().await;
    let home = Home::new();
    let to = app.address().port().to_string();
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        let listen = free_port().to_string();
        let mut gateway = home
            .start(&["proxy", "--to", &to, "--listen", &listen])
            .await;
        gateway.signal(signal);
        let status = gateway.ends(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
}
