//! Files of earlier builds that are kept for browsers: within a bound, the latest first.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::support::{
    client::get,
    releases::{Behaviour, Site, tried_app},
    seed,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(30);
/// Bytes of the vault, and what a release has beside its file.
const BOUND: u64 = 300 << 10;
const SMALL: u64 = 1 << 10;

fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => size_of(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Returns the number of releases in the records of a folder.
fn recorded(folder: &Path) -> usize {
    let text = fs::read_to_string(folder.join(".state/releases.json")).expect("it is there");
    let state: Value = serde_json::from_str(&text).expect("it is JSON");
    state["releases"].as_object().expect("a mapping").len()
}

/// Invariant: the files of earlier builds never have more than `vault_size` bytes, and those of the
/// latest builds stay, as many as there is room for. They are served as long as they are there.
#[tokio::test]
async fn the_vault_keeps_the_latest_files_within_its_bound() {
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let site = Site::start_app(
        "/health",
        "      start: [node, server.js]\n      linger: 0s\n      keep: 1\n      vault_size: 300KiB",
    )
    .await;
    let mut built: Vec<(String, u64)> = Vec::new();
    for number in 0..7 {
        let size = draw.u64(10 << 10..180 << 10);
        let name = format!("r{number}");
        let release = tried_app(Behaviour::default());
        let folder = release.path().join(".next/static/chunks");
        fs::create_dir_all(&folder).expect("it can be made");
        let content = vec![b'x'; usize::try_from(size).expect("it is small")];
        fs::write(folder.join(format!("{name}.js")), content).expect("it takes files");
        for (name, content) in [
            ("routes-manifest.json", b"{}".to_vec()),
            ("server/code.js", vec![0; 1 << 20]),
        ] {
            let path = release.path().join(".next").join(name);
            fs::write(path, content).expect("it takes files");
        }
        let from = release.path().to_str().expect("the path is text");
        site.run(&["deploy", "web", from, "--name", &name]).await;
        built.push((name, size));
        let earlier = &built[..built.len() - 1];
        let folder = |name: &String| site.folder.path().join(name);
        // The process that a deploy leaves behind records last what it has removed.
        let (there, kept) = wait_for("the vault is within its bound", SOON, async || {
            let releases = site.releases().await;
            let mut others = releases.iter().filter(|it| it["state"] != "current");
            let are_files = others.all(|it| it["state"] == "files");
            let there = earlier.iter().map(|(name, _)| folder(name).exists());
            let there: Vec<bool> = there.collect();
            let kept: u64 = earlier.iter().map(|(name, _)| size_of(&folder(name))).sum();
            let is_recorded =
                recorded(site.folder.path()) == 1 + there.iter().filter(|it| **it).count();
            (are_files && is_recorded && kept <= BOUND).then_some((there, kept))
        })
        .await;
        let first = there.iter().position(|is_there| *is_there);
        let first = first.unwrap_or(there.len());
        assert!(
            there[first..].iter().all(|it| *it),
            "{there:?} of {built:?}"
        );
        if let Some(before) = first.checked_sub(1) {
            let more = earlier[before].1 + SMALL;
            assert!(kept + more > BOUND, "{kept} and {more} of {built:?}");
        }
        for ((name, size), is_there) in earlier.iter().zip(&there) {
            let target = format!("/_next/static/chunks/{name}.js");
            // The app, which has no such files, responds to all requests. The gateway keeps files
            // open for a moment.
            wait_for(
                "a file is served as long as it is there",
                SOON,
                async || {
                    let response = site.gateway.get(&target).await;
                    let is_file = response.body.len() as u64 == *size;
                    assert!(is_file || !is_there, "{name} of {built:?}");
                    (is_file == *is_there).then_some(())
                },
            )
            .await;
        }
        let now = site.gateway.send(&get("/")).await;
        assert_eq!(now.header("x-release"), Some(&*built[built.len() - 1].0));
    }
    assert!(
        built
            .iter()
            .any(|(name, _)| !site.folder.path().join(name).exists()),
        "{built:?}"
    );
}
