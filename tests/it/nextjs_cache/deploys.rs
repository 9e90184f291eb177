//! Effects of a deploy on stored responses (R6).

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use super::{front_with, router, status_of, warm};
use crate::support::{
    apps::NextApp,
    client::get,
    releases,
    wait::{pass, wait_for},
};

#[tokio::test]
async fn a_deploy_empties_pages_but_not_the_files_of_the_build() {
    let app = NextApp::shared().await;
    let folder = tempfile::tempdir().unwrap();
    let id = folder.path().join("BUILD_ID");
    fs::write(&id, "one").unwrap();
    let gateway = front_with(app, &format!("folder: {}", folder.path().display())).await;
    let page = gateway.get("/").await.text();
    let chunk = page
        .split('"')
        .find(|text| text.starts_with("/_next/static/") && text.ends_with(".js"))
        .expect("the page has scripts");
    let warmed = [get("/isr"), router("/isr?_rsc"), get(chunk)];
    warm(app, &warmed).await;
    for request in &warmed {
        // Tests that share the app may make a page stale between its warming and this.
        wait_for("it is stored", Duration::from_secs(10), async || {
            (status_of(&gateway.send(request).await) == "HIT").then_some(())
        })
        .await;
    }
    // A build begins: nothing changes.
    fs::remove_file(&id).unwrap();
    pass(Duration::from_millis(2500)).await;
    assert_eq!(status_of(&gateway.get("/isr").await), "HIT");
    fs::write(&id, "two").unwrap();
    wait_for("the page is another", Duration::from_secs(10), async || {
        let response = gateway.get("/isr").await;
        (status_of(&response) != "HIT").then_some(())
    })
    .await;
    assert_ne!(status_of(&gateway.send(&warmed[1]).await), "HIT");
    assert_eq!(status_of(&gateway.send(&warmed[2]).await), "HIT");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Invariant: a deploy empties the pages, whatever `BUILD_ID` says; anything else does not. The
/// folder is replaced as teams do it: a link changes, or the files are overwritten.
#[tokio::test]
async fn each_real_build_is_another_one_and_a_copy_is_not() {
    let built = |name: &str| releases::built(name).join(".next");
    let id = |name: &str| fs::read_to_string(built(name).join("BUILD_ID")).unwrap();
    // The reason for this test: `BUILD_ID` is the same.
    assert_eq!(id("named-one"), id("named-again"));
    assert_eq!(id("named-one"), id("named-moved"));
    let app = NextApp::shared().await;
    warm(app, &[get("/isr")]).await;
    for (before, after) in [
        // Another `deploymentId`.
        ("named-again", "named-moved"),
        // The same `deploymentId`, the same code, and another page.
        ("named-one", "named-again"),
        ("plain-one", "plain-again"),
    ] {
        for by_link in [true, false] {
            let temp = tempfile::tempdir().unwrap();
            let folder = temp.path().join("current");
            if by_link {
                symlink(built(before), &folder).unwrap();
            } else {
                copy(&built(before), &folder);
            }
            let gateway = front_with(app, &format!("folder: {}", folder.display())).await;
            let is_hit = async || status_of(&gateway.get("/isr").await) == "HIT";
            wait_for("the page is stored", Duration::from_secs(10), async || {
                is_hit().await.then_some(())
            })
            .await;
            // A copy of the same build with other file times, as in a container image.
            let again = temp.path().join("again");
            copy(&built(before), &again);
            if by_link {
                let new = temp.path().join("new");
                symlink(&again, &new).unwrap();
                fs::rename(&new, &folder).unwrap();
            } else {
                copy(&again, &folder);
            }
            pass(Duration::from_millis(2500)).await;
            assert!(is_hit().await, "{before} is copied, by_link: {by_link}");
            if by_link {
                let new = temp.path().join("newer");
                symlink(built(after), &new).unwrap();
                fs::rename(&new, &folder).unwrap();
            } else {
                copy(&built(after), &folder);
            }
            let condition = format!("{before} gives way to {after}, by_link: {by_link}");
            wait_for(&condition, Duration::from_secs(10), async || {
                (!is_hit().await).then_some(())
            })
            .await;
        }
    }
}
