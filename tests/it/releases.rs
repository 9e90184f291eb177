//! Releases of a Next.js app: deploys while browsers have pages of the build before.
//!
//! Invariant: whatever a page of a build asks for comes from that build, as long as its release
//! runs or its files are kept; a release that has gone breaks no page.

use std::{fs, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    browser::{Outcome, describe, look},
    support::{
        client::{self, get},
        fleet::edgeway,
        gateway::Gateway,
        ports::free_port,
        releases::{Site, built},
        seed,
        wait::wait_for,
    },
};

const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn assert_fine(outcome: &Outcome, count: usize) {
    let failures: Vec<String> = outcome.failed.iter().map(describe).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(outcome.passed.len(), count);
}

/// Uses tabs that were opened before a deploy. `more` are further steps of it.
async fn tabs_survive(old: &str, latest: &str, is_named: bool, more: &[&str]) {
    let site = Site::start("      linger: 1h").await;
    tabs_of_survive(&site, [old, latest], is_named, more, &json!({})).await;
}

/// Uses tabs as [`tabs_survive`] does, of an app at other `places`.
async fn tabs_of_survive(
    site: &Site,
    [old, latest]: [&str; 2],
    is_named: bool,
    more: &[&str],
    places: &Value,
) {
    site.deploy(old).await;
    let mut deploy = vec![site.deploying(latest)];
    deploy.extend(more.iter().map(|command| site.command(&[command])));
    let mut arguments = json!({
        "front": format!("http://{}", site.gateway.address()),
        "old": old,
        "latest": latest,
        "tabs": seed::cases(2, 4),
        "deploy": deploy,
        "isNamed": is_named,
    });
    for (name, place) in places.as_object().expect("a mapping") {
        arguments[name] = place.clone();
    }
    let outcome = look("releases.js", &arguments).await;
    assert_eq!(site.state(old).await, "lingers");
    assert_eq!(site.state(latest).await, "current");
    assert_fine(&outcome, 1);
}

#[tokio::test]
async fn tabs_of_an_app_with_deployment_ids_survive_a_deploy() {
    tabs_survive("named-one", "named-two", true, &["upgrade"]).await;
}

#[tokio::test]
async fn tabs_of_an_app_without_deployment_ids_survive_a_deploy() {
    tabs_survive("plain-one", "plain-two", false, &[]).await;
}

/// An app below a path, whose releases need no sources.
#[tokio::test]
async fn tabs_of_a_standalone_app_below_a_path_survive_a_deploy() {
    let start = "      start: [node, server.js]\n      linger: 1h";
    let site = Site::start_app("/site/shop/", start).await;
    let places = json!({ "home": "/site/", "legacy": "/site/legacy/" });
    tabs_of_survive(&site, ["based-one", "based-two"], true, &[], &places).await;
}

/// An app whose files have another path than its pages.
#[tokio::test]
async fn tabs_of_an_app_with_prefixed_files_survive_a_deploy() {
    tabs_survive("prefixed-one", "prefixed-two", false, &[]).await;
}

/// Invariant: log and `explain` name the release of a request, and a response of another release
/// is not stored.
#[tokio::test]
async fn the_release_of_a_request_is_known_everywhere() {
    let site = Site::start("      linger: 1h").await;
    site.deploy("named-one").await;
    site.deploy("named-two").await;
    let gateway = &site.gateway;
    // A payload for a page of the old build; documents are of the current one.
    let named = |query: &str| match query {
        "old" => vec![("rsc", "1"), ("x-deployment-id", "dpl-one")],
        _ => Vec::new(),
    };
    let ask = async |query: &str| {
        let mut request = get(&format!("/shop?{query}"));
        for (name, value) in named(query) {
            request = request.header(name, value);
        }
        let response = gateway.send(&request).await;
        (
            response.status(),
            response.header("x-cache-status").map(str::to_owned),
        )
    };
    let explained = async |query: &str| {
        let url = format!("/shop?{query}");
        let mut arguments = vec!["explain", "--live", "--format", "json"];
        let headers = named(query).into_iter();
        let headers: Vec<String> = headers.map(|(n, v)| format!("{n}: {v}")).collect();
        arguments.extend(headers.iter().flat_map(|header| ["-H", header.as_str()]));
        arguments.extend(["GET", &url]);
        let text = site.run(&arguments).await;
        // The cache has the build of the release, too.
        assert!(!text.contains("no_build"), "{text}");
        let explained: Value = serde_json::from_str(&text).expect("it prints JSON");
        explained["release"].clone()
    };
    let old = "old";
    assert_eq!(ask("a").await.0, 200);
    assert!(ask(old).await.0 < 400);
    assert_eq!(explained("a").await, "named-two (the current one)");
    assert_eq!(explained(old).await, "named-one");

    // The current release has no backend: the other one responds.
    site.end_instances("named-two").await;
    let stands_in = wait_for(
        "the old release responds for the new one",
        SOON,
        async || {
            ask("b").await;
            let lines = gateway.log_lines(3).await;
            let mut lines = lines.into_iter();
            lines.find(|line| line["query"] == "b" && line["status"] == 200)
        },
    )
    .await;
    assert_eq!(stands_in["release"], "named-two");
    assert_eq!(stands_in["cache_why"], "release", "{stands_in}");
    let lines = gateway.log_lines(3).await;
    for (query, release) in [("a", "named-two"), (old, "named-one")] {
        let mut lines = lines.iter();
        let line = lines.find(|line| line["query"] == query);
        assert_eq!(line.expect("it is logged")["release"], release);
    }

    // No request could tell these two apart.
    let folder = built("named-one");
    let folder = folder.to_str().expect("the path is text");
    let ran = edgeway(gateway, &["deploy", "web", folder, "--name", "again"]).await;
    let note = "release `named-one` has the `deploymentId` `dpl-one` as well";
    assert!(
        ran.status == Some(0) && ran.stderr.contains(note),
        "{}",
        ran.stderr
    );
}

/// Returns the target of the image that a page of a build shows, as its browser asks for it.
fn image_of(site: &Site, build: &str, deployment: &str) -> String {
    let media = site.folder.path().join(build).join(".next/static/media");
    let mut files = fs::read_dir(media).expect("it is there").flatten();
    let name = files.find_map(|entry| {
        let is_png = entry.path().extension().is_some_and(|it| it == "png");
        is_png
            .then(|| entry.file_name().into_string().ok())
            .flatten()
    });
    let name = name.expect("the build has an image");
    format!("/_next/image?url=%2F_next%2Fstatic%2Fmedia%2F{name}&w=256&q=75{deployment}")
}

/// Invariant: an image that a page shows is made at the edge from the file of its own build,
/// whichever release is the current one and whether its own still runs, and is the one that its app
/// would make.
#[tokio::test]
async fn images_of_old_pages_are_made_from_their_own_release() {
    let site = Site::start("      linger: 1h\n    images: edge").await;
    let gateway = &site.gateway;
    let builds = [
        ("plain-one", ""),
        ("named-one", "&dpl=dpl-one"),
        ("named-two", "&dpl=dpl-two"),
    ];
    let accept = |target: &str| get(target).header("accept", "image/webp,*/*");
    let mut expected = Vec::new();
    for (build, deployment) in builds {
        site.deploy(build).await;
        let target = image_of(&site, build, deployment);
        let status = gateway.status().await;
        let backends = status["upstreams"][0]["backends"]
            .as_array()
            .expect("a list");
        let mut own = backends
            .iter()
            .filter(|backend| backend["release"] == build);
        let address = own.next().expect("it runs")["address"].as_str();
        let address = address.and_then(|it| it.parse().ok()).expect("an address");
        let theirs = client::send(address, &accept(&target)).await;
        let theirs = theirs.expect("the app responds");
        assert_eq!(theirs.status(), 200, "{target}");
        expected.push((build, target, theirs));
    }
    assert_ne!(
        expected[1].2.body, expected[2].2.body,
        "the builds have other images"
    );
    let before = gateway.count("edgeway_upstream_requests_total").await;
    for (build, target, theirs) in &expected {
        let explained = [
            "explain",
            "--live",
            "-H",
            "Accept: image/webp",
            "GET",
            target,
        ];
        let explained = site.run(&explained).await;
        assert!(
            explained.contains("image       made at the edge\n"),
            "{explained}"
        );
        assert!(
            explained.contains(&format!("release     {build}")),
            "{explained}"
        );
        for round in 0..2 {
            let ours = gateway.send(&accept(target)).await;
            assert_eq!(ours.status(), 200, "{target}");
            assert_eq!(ours.header("content-type"), Some("image/webp"));
            assert_eq!(ours.body, theirs.body, "{build}, {round}");
        }
    }
    // An old tab has its image even if nothing of its release runs.
    site.end_instances("plain-one").await;
    site.end_instances("named-one").await;
    gateway.purge(&json!({ "all": true })).await;
    for (build, target, theirs) in &expected {
        let ours = gateway.send(&accept(target)).await;
        assert_eq!(ours.body, theirs.body, "{build} is gone");
    }
    assert_eq!(
        gateway.count("edgeway_upstream_requests_total").await,
        before
    );
    assert!(gateway.count("edgeway_images_total").await >= 3);
    // For a client without WebP the app makes it, and `explain` says so.
    let target = &expected[2].1;
    let explained = site.run(&["explain", "--live", "GET", target]).await;
    assert!(
        explained.contains("left to the app (`format`)"),
        "{explained}"
    );
    let elsewhere = "/_next/image?url=https%3A%2F%2Felsewhere.test%2Fa.png&w=256&q=75";
    let explained = site.run(&["explain", "--live", "GET", elsewhere]).await;
    assert!(
        explained.contains("image       left to the app: "),
        "{explained}"
    );
    let explained = site.run(&["explain", "--live", "GET", "/shop"]).await;
    assert!(!explained.contains("\nimage "), "{explained}");
}

/// The same for apps whose files, or all of whose paths, are below another one.
#[tokio::test]
async fn images_of_apps_with_other_paths_are_made_from_their_own_release() {
    for (kind, start, health, (optimizer, files)) in [
        (
            "based",
            "      start: [node, server.js]",
            "/site/shop/",
            ("/site/_next/image/", "%2Fsite"),
        ),
        (
            "prefixed",
            "      start: [node, node_modules/next/dist/bin/next, start, -H, 127.0.0.1]",
            "/shop",
            ("/_next/image", "%2Fcdn"),
        ),
    ] {
        let more = format!("{start}\n      linger: 1h\n    images: edge");
        let site = Site::start_app(health, &more).await;
        let gateway = &site.gateway;
        let (old, latest) = (format!("{kind}-one"), format!("{kind}-two"));
        site.deploy(&old).await;
        let target = image_of(&site, &old, "");
        let target = target.replace("/_next/image?url=", &format!("{optimizer}?url={files}"));
        let request = get(&target).header("accept", "image/webp,*/*");
        let status = gateway.status().await;
        let address = status["upstreams"][0]["backends"][0]["address"].as_str();
        let address = address.and_then(|it| it.parse().ok()).expect("an address");
        let theirs = client::send(address, &request)
            .await
            .expect("the app responds");
        assert_eq!(theirs.status(), 200, "{target}");
        site.deploy(&latest).await;
        let before = gateway.count("edgeway_upstream_requests_total").await;
        let ours = gateway.send(&request).await;
        assert_eq!(ours.status(), 200, "{target}");
        assert_eq!(ours.body, theirs.body, "{target}");
        for name in ["cache-control", "content-type", "content-disposition"] {
            assert_eq!(ours.header(name), theirs.header(name), "{target}");
        }
        site.end_instances(&old).await;
        let spelled = get(&format!("{target}&x=1")).header("accept", "image/webp,*/*");
        assert_eq!(gateway.send(&spelled).await.body, theirs.body, "{target}");
        let after = gateway.count("edgeway_upstream_requests_total").await;
        assert_eq!(after, before, "{target}");
        assert_eq!(gateway.count("edgeway_images_total").await, 1, "{target}");
    }
}

/// Returns the addresses of chunks and styles in a page.
fn files_of(page: &str) -> Vec<String> {
    let mut files: Vec<String> = page
        .split(['"', '\\'])
        .filter(|text| text.starts_with("/_next/static/"))
        .map(str::to_owned)
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}

#[tokio::test]
async fn a_release_that_has_gone_breaks_no_tab() {
    let site = Site::start("      linger: 0s\n      keep: 1").await;
    site.deploy("named-one").await;
    // The old release ends at once, and the script waits for that.
    let waiting = json!([
        "sh",
        "-c",
        "for i in $(seq 100); do [ -d \"$1/.next/server\" ] || exit 0; sleep 0.2; done; exit 1",
        "wait",
        site.folder.path().join("named-one"),
    ]);
    let outcome = look(
        "releases.js",
        &json!({
            "front": format!("http://{}", site.gateway.address()),
            "old": "named-one",
            "latest": "named-two",
            "afterwards": [site.deploying("named-two"), waiting],
        }),
    )
    .await;
    assert_eq!(site.state("named-one").await, "files");
    assert_fine(&outcome, 1);
}

/// Invariant: all files that HTML of the last builds names are there, whatever runs.
#[tokio::test]
async fn files_of_earlier_releases_need_no_backend() {
    let site = Site::start("      linger: 0s\n      keep: 1").await;
    let mut files = Vec::new();
    for build in ["plain-one", "named-one", "named-two"] {
        site.deploy(build).await;
        let page = site.gateway.get("/").await;
        assert_eq!(page.status(), 200);
        let own = files_of(&page.text());
        assert!(own.len() > 3, "{own:?}");
        files.extend(own);
    }
    wait_for("only the files of the first are left", SOON, async || {
        (site.state("plain-one").await == "files").then_some(())
    })
    .await;
    for path in fs::read_dir(site.folder.path().join(".state")).expect("it is there") {
        let path = path.expect("it can be read").path();
        if path.extension().is_some_and(|it| it == "pid") {
            let id = fs::read_to_string(&path).expect("it is there");
            let id = id.parse().ok().and_then(Pid::from_raw).expect("an id");
            let _sent = kill_process(id, Signal::TERM);
        }
    }
    // One is for the current release, the other for all.
    for path in ["/", "/_next/static/chunks/none.js"] {
        wait_for("no backend runs", SOON, async || {
            // A response breaks off if its backend ends meanwhile.
            let sent = client::send(site.gateway.address(), &get(path)).await;
            sent.is_ok_and(|response| response.status() >= 502)
                .then_some(())
        })
        .await;
    }
    for file in &files {
        let response = site.gateway.get(file).await;
        assert_eq!(response.status(), 200, "{file}");
        let kept = response.header("cache-control").expect("it is there");
        assert!(kept.contains("immutable"), "{file}: {kept}");
        let tag = response.header("etag").expect("a validator");
        let again = get(file).header("if-none-match", tag);
        assert_eq!(site.gateway.send(&again).await.status(), 304, "{file}");
    }
}

#[tokio::test]
async fn a_build_that_never_gets_healthy_changes_nothing() {
    let site = Site::start("      linger: 1h").await;
    site.deploy("named-one").await;
    let broken = tempfile::tempdir().expect("a folder for the test can be made");
    fs::create_dir(broken.path().join(".next")).expect("it can be made");
    fs::write(broken.path().join(".next/BUILD_ID"), "broken").expect("it can be written");
    let folder = broken.path().to_str().expect("the path is text");
    let deploy = [
        "deploy",
        "web",
        folder,
        "--name",
        "broken",
        "--timeout",
        "4s",
    ];
    let ran = edgeway(&site.gateway, &deploy).await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    // What the app printed last says more than that it does not listen.
    assert!(
        ran.stderr.contains("is not healthy after 4s") && ran.stderr.contains("\n  Node.js v"),
        "{}",
        ran.stderr
    );
    let names: Vec<Value> = site.releases().await;
    assert_eq!(names.len(), 1, "{names:?}");
    let page = site.gateway.get("/").await.text();
    assert!(page.contains("page of <!-- -->named-one") || page.contains("page of named-one"));
    // The same folder, whole, goes through afterwards, and back again.
    site.deploy("named-two").await;
    assert_eq!(site.state("named-two").await, "current");
    site.run(&["rollback", "web"]).await;
    assert_eq!(site.state("named-one").await, "current");
    assert_eq!(site.state("named-two").await, "lingers");
    let page = site.gateway.get("/").await.text();
    assert!(page.contains("page of named-one"), "{page}");
}

/// Control: the same tabs behind the same gateway, with one app replaced by the other.
#[tokio::test]
async fn a_deploy_without_releases_is_seen_to_break_tabs() {
    let start = async |build: &str| {
        let port = free_port();
        let app = tokio::process::Command::new("node")
            .args([
                "node_modules/next/dist/bin/next",
                "start",
                "-H",
                "127.0.0.1",
            ])
            .current_dir(built(build))
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed");
        wait_for("the app listens", SOON, async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            connected.ok().map(drop)
        })
        .await;
        (app, format!("127.0.0.1:{port}"))
    };
    let (_old, old) = start("named-one").await;
    let (_latest, latest) = start("named-two").await;
    let gateway = Gateway::start(&format!(
        "
upstreams:
  web: {{ app: nextjs, backends: [\"{old}\"] }}
routes:
  - match: {{ path: /* }}
    upstream: web
"
    ))
    .await;
    let socket = format!("EDGEWAY_ADMIN_SOCKET={}", gateway.admin_socket());
    let program = env!("CARGO_BIN_EXE_edgeway");
    let outcome = look(
        "releases.js",
        &json!({
            "front": format!("http://{}", gateway.address()),
            "old": "named-one",
            "latest": "named-two",
            "tabs": 1,
            "deploy": [
                ["env", &socket, program, "upstream", "add", "web", latest],
                ["env", &socket, program, "drain", &format!("web/{old}")],
            ],
            "isNamed": true,
        }),
    )
    .await;
    assert_eq!(outcome.passed.len(), 0);
}
