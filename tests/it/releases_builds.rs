//! Builds of releases, and the disk that has them.
//!
//! Invariant: a deploy that succeeds serves the build that it was given, and nothing that a full disk
//! keeps from being written stands between visitors and a release that runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use crate::support::{
    client::get,
    fleet::edgeway,
    releases::{Behaviour, Site, end_retiring, tried_app},
    seed,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(20);

/// Writes a build of an app that responds with `text` into `folder`.
fn build(folder: &Path, text: &str) {
    let app = tried_app(Behaviour::default());
    let server = fs::read_to_string(app.path().join("server.js")).expect("it is there");
    let server = server.replace(
        "response.end('ok'), delay",
        &format!("response.end('{text}'), delay"),
    );
    fs::create_dir_all(folder.join(".next/server")).expect("it can be made");
    for (name, content) in [(".next/BUILD_ID", text), ("server.js", &server)] {
        fs::write(folder.join(name), content).expect("it can be written");
    }
    fs::copy(
        app.path().join("behaviour.json"),
        folder.join("behaviour.json"),
    )
    .expect("it is there");
}

async fn serving(site: &Site) -> String {
    let response = site.gateway.send(&get("/")).await;
    String::from_utf8_lossy(&response.body).into_owned()
}

/// A build that replaces that of a running release is never taken for it.
#[tokio::test]
async fn a_deploy_serves_its_build_or_is_refused() {
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let more = "      start: [node, server.js]\n      linger: 1h";
    let site = Site::start_app("/health", more).await;
    let other = tempfile::tempdir().expect("a folder for the test can be made");
    let place = |name: &str| -> PathBuf { site.folder.path().join(name) };
    for name in ["one", "two"] {
        build(&place(name), name);
        let folder = place(name);
        let folder = folder.to_str().expect("the path is text");
        site.run(&["deploy", "web", folder, "--name", name]).await;
    }
    let before = site.releases().await;
    for round in 0..seed::cases(3, 20) {
        let text = format!("build-{round}");
        let name = ["one", "two"][draw.usize(..2)];
        // In place, or as a copy under a name whose folder somebody has removed.
        let from = if draw.bool() {
            place(name)
        } else {
            fs::remove_dir_all(place(name)).expect("it can be removed");
            other.path().to_owned()
        };
        build(&from, &text);
        let from = from.to_str().expect("the path is text");
        let options: [&[&str]; 3] = [&[], &["--hold"], &["--canary", "50%"]];
        let options = options[draw.usize(..3)];
        let arguments = [&["deploy", "web", from, "--name", name], options].concat();
        let ran = edgeway(&site.gateway, &arguments).await;
        assert_eq!(ran.status, Some(1), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("runs already"), "{}", ran.stderr);
        assert_eq!(serving(&site).await, "two", "{arguments:?}");
        build(&place(name), &text);
        assert_eq!(site.releases().await, before, "{arguments:?}");
    }
    // Control: once nothing of it runs, the build is served.
    site.run(&["deploys", "web", "--stop"]).await;
    build(&place("one"), "another");
    let folder = place("one");
    let folder = folder.to_str().expect("the path is text");
    site.run(&["deploy", "web", folder, "--name", "one"]).await;
    assert_eq!(serving(&site).await, "another");
}

/// Runs a command of ours as on a disk with no place for files of more than this many bytes.
async fn on_a_full_disk(site: &Site, blocks: u32, arguments: &[&str]) -> Output {
    // Each block has 512 bytes.
    let script = "ulimit -f $0; trap '' XFSZ; exec \"$@\"";
    let ran = tokio::process::Command::new("sh")
        .args([
            "-c",
            script,
            &blocks.to_string(),
            env!("CARGO_BIN_EXE_edgeway"),
        ])
        .args(arguments)
        .env("EDGEWAY_ADMIN_SOCKET", site.gateway.admin_socket())
        .output();
    ran.await.expect("it runs")
}

/// A full disk keeps neither a rollback from its effect nor replaced releases from making room.
#[tokio::test]
async fn a_full_disk_prevents_no_rollback_and_is_freed() {
    let more = "      start: [node, server.js]\n      linger: 6s\n      keep: 1";
    let site = Site::start_app("/health", more).await;
    // Their record has more than a block.
    let names = ["zero", "one", "two"].map(|name| format!("{name}-{}", "x".repeat(90)));
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    for name in &names {
        build(folder.path(), name);
        let from = folder.path().to_str().expect("the path is text");
        site.run(&["deploy", "web", from, "--name", name]).await;
    }
    end_retiring(site.gateway.admin_socket());
    let ran = on_a_full_disk(&site, 0, &["rollback", "web"]).await;
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success() && errors.contains("cannot write"),
        "{errors}"
    );
    assert_eq!(serving(&site).await, names[1]);
    site.run(&["switch", "web", &names[1]]).await;
    end_retiring(site.gateway.admin_socket());
    let state = site.folder.path().join(".state");
    let recorded = fs::read(state.join("releases.json")).expect("it is there");
    assert!(recorded.len() > 512);
    let apart = [0, 2].map(|number| site.folder.path().join(&names[number]).join("server.js"));
    let own = ["retire-releases", "web", "--patience", "1s"];
    wait_for("what nobody needs has gone", SOON, async || {
        let ran = on_a_full_disk(&site, 1, &own).await;
        assert!(!ran.status.success(), "its record cannot be written");
        (!apart.iter().any(|file| file.exists())).then_some(())
    })
    .await;
    assert!(!state.join("removed").exists(), "it still takes its place");
    assert_eq!(serving(&site).await, names[1]);
}
