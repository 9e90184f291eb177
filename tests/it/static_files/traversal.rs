//! No request reads a file outside of the root.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::write_tree;
use crate::support::gateway::Gateway;

const SECRET: &str = "root-of-all-secrets";

/// Attempts that are sent as they are. `OUT` is the path of the secret file.
const ATTEMPTS: &[&str] = &[
    "/../secret",
    "/../../secret",
    "/a/../../secret",
    "/a/../../../secret",
    "/./../secret",
    "/.../secret",
    "/..%2fsecret",
    "/..%2Fsecret",
    "/%2e%2e/secret",
    "/%2e%2e%2fsecret",
    "/%2E%2E%2Fsecret",
    "/.%2e/secret",
    "/%2e./secret",
    "/a/%2e%2e/%2e%2e/secret",
    "/a/..%2f..%2fsecret",
    "/%252e%252e/secret",
    "/%252e%252e%252fsecret",
    "/..%252fsecret",
    "/..%255csecret",
    "/..\\secret",
    "/..%5csecret",
    "/..%5Csecret",
    "/a\\..\\..\\secret",
    "/%5c..%5csecret",
    "/..;/secret",
    "/..;a=b/secret",
    "/a/..;/..;/secret",
    "/%2e%2e;/secret",
    "/..%00/secret",
    "/secret%00.html",
    "/a.html%00/../../secret",
    "/%00../secret",
    "/..%c0%afsecret",
    "/%c0%ae%c0%ae/secret",
    "/%c0%ae%c0%ae%c0%afsecret",
    "/%e0%80%ae%e0%80%ae/secret",
    "/%f0%80%80%ae%f0%80%80%ae/secret",
    "/..%c1%9csecret",
    "/%uff0e%uff0e/secret",
    "/%u002e%u002e/secret",
    "/\u{ff0e}\u{ff0e}/secret",
    "/..\u{2215}secret",
    "//secret",
    "///../secret",
    "/OUT",
    "//OUT",
    "/%2fOUT",
    "/a/OUT",
    "OUT",
    "/file:///OUT",
    "http://x/../secret",
    "http://x/..%2fsecret",
    "/..",
    "/../",
    "/%2e%2e",
    "/..%2f",
    "/link",
    "/link/",
    "/absolute",
    "/folder/secret",
    "/folder/../secret",
    "/folder/",
    "/chain",
    "/deep/link",
    "/a/..",
    "/proc/self/root/OUT",
    "/self/root/OUT",
    "/a/../link",
    "/link%2f",
    "/LINK",
    "/.git/config",
    "/.env",
    "/a/.env",
    "/%2eenv",
    "/.%65nv",
    "/..env",
    "/a/../.env",
    "/.well-known/../.env",
    "/.well-known/.env",
    "/index.html/../../secret",
    "/*",
    "*",
    "/?/../../secret",
    "/a?../../secret",
    "/%3f/../../secret",
    "/\t/../secret",
    "/%0d%0a/../secret",
];

fn lay_out(folder: &std::path::Path) {
    fs::write(folder.join("secret"), SECRET).unwrap();
    let www = folder.join("www");
    write_tree(
        &www,
        &[
            ("a/x", b"inside"),
            ("deep/x", b"inside"),
            (".env", SECRET.as_bytes()),
            ("a/.env", SECRET.as_bytes()),
            (".well-known/.env", SECRET.as_bytes()),
            (".git/config", SECRET.as_bytes()),
        ],
    );
    symlink("../secret", www.join("link")).unwrap();
    symlink(folder.join("secret"), www.join("absolute")).unwrap();
    symlink("..", www.join("folder")).unwrap();
    symlink("link", www.join("chain")).unwrap();
    symlink("../../secret", www.join("deep/link")).unwrap();
    symlink("/proc/self", www.join("self")).unwrap();
}

async fn front(keys: &str) -> Gateway {
    let yaml = format!(
        "
merge_slashes: false
routes: [{{ match: {{ path: /* }}, files: {{ root: www, recheck: 0s{keys} }} }}]
"
    );
    Gateway::start_in(&yaml, lay_out).await
}

/// Sends the attempt by hand, since no client would, and returns all that comes back.
async fn tried(gateway: &Gateway, target: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = tokio::net::TcpStream::connect(gateway.address())
        .await
        .unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // A refused request may end with a reset.
    drop(stream.read_to_end(&mut all).await);
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn no_attempt_reads_a_file_outside_of_the_root() {
    const { assert!(ATTEMPTS.len() >= 60) };
    for keys in ["", ", symlinks: refuse", ", fallback: /a/x"] {
        let gateway = front(keys).await;
        let out = gateway.folder().join("secret");
        for attempt in ATTEMPTS {
            let out = out.to_string_lossy();
            let target = attempt.replace("OUT", out.trim_start_matches('/'));
            let response = tried(&gateway, &target).await;
            assert!(!response.contains(SECRET), "{keys} {target}: {response}");
            assert!(!response.is_empty(), "{keys} {target}");
        }
        assert_eq!(gateway.get("/a/x").await.text(), "inside");
    }
}

#[tokio::test]
async fn the_control_reads_what_it_is_allowed_to() {
    let gateway = front(", symlinks: follow, dot_files: true").await;
    for target in [
        "/link",
        "/absolute",
        "/folder/secret",
        "/chain",
        "/deep/link",
        "/.env",
    ] {
        let response = tried(&gateway, target).await;
        assert!(response.contains(SECRET), "{target}: {response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_exchanged_meanwhile_lead_nowhere_else() {
    let gateway = front("").await;
    let www = gateway.folder().join("www");
    fs::create_dir(www.join("race")).unwrap();
    fs::write(www.join("race/secret"), "inside").unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let racing = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let (race, aside, folder) = (www.join("race"), www.join("aside"), www.join("folder"));
            while !is_over.load(Ordering::Relaxed) {
                fs::rename(&race, &aside).unwrap();
                fs::rename(&folder, &race).unwrap();
                fs::rename(&race, &folder).unwrap();
                fs::rename(&aside, &race).unwrap();
            }
        }
    });
    let mut served = 0;
    for _ in 0..4 {
        let mut connection = gateway.connect().await;
        for _ in 0..500 {
            let request = crate::support::client::get("/race/secret");
            let response = connection.send(&request).await.unwrap();
            assert_ne!(response.text(), SECRET);
            served += u32::from(response.status() == 200);
        }
    }
    is_over.store(true, Ordering::Relaxed);
    racing.join().unwrap();
    assert!(served > 0);
}
