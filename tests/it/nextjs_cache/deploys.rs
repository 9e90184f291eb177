//! What a deploy does to what is kept (R6).

use std::{fs, time::Duration};

use super::{front_with, router, status_of, warm};
use crate::support::{
    apps::NextApp,
    client::get,
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
    let kept = [get("/isr"), router("/isr?_rsc"), get(chunk)];
    warm(app, &kept).await;
    for request in &kept {
        gateway.send(request).await;
        assert_eq!(status_of(&gateway.send(request).await), "HIT");
    }
    // A build begins: nothing changes.
    fs::remove_file(&id).unwrap();
    pass(Duration::from_millis(2500)).await;
    assert_eq!(status_of(&gateway.get("/isr").await), "HIT");
    fs::write(&id, "two").unwrap();
    wait_for("the page is another", Duration::from_secs(10), async || {
        let answer = gateway.get("/isr").await;
        (status_of(&answer) != "HIT").then_some(())
    })
    .await;
    assert_ne!(status_of(&gateway.send(&kept[1]).await), "HIT");
    assert_eq!(status_of(&gateway.send(&kept[2]).await), "HIT");
}
