//! Rules by which a source on another server is taken for one that may be fetched.

use std::{fs, path::Path, process::Command};

use edgeway_base::reach::Reach;
use edgeway_cache::nextjs::Build;
use serde_json::{Value, json};

use super::{remote::encoded, script};
use crate::support::seed;

/// Invariant: whatever the configuration of an app allows and however a URL is written, a source is
/// taken for one that Next.js allows only if Next.js does, and its URL is the one that Next.js asks
/// for.
#[test]
fn patterns_of_servers_are_those_of_the_app() {
    let seed = seed::drawn();
    let output = script("patterns.mjs")
        .args([&(seed & 0xffff_ffff).to_string(), "400"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let folder = tempfile::tempdir().unwrap();
    let (mut allowed, mut found) = (0, 0);
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let build = build_with(folder.path(), &case["images"]);
        for url in case["urls"].as_array().unwrap() {
            let written = url["url"].as_str().unwrap();
            let query = format!("url={}&w=64&q=75", encoded(written));
            let accept = [&b"image/webp"[..]].into_iter();
            let image = build.image(b"/_next/image", Some(query.as_bytes()), accept);
            let is_allowed = url["isAllowed"] == true;
            allowed += u32::from(is_allowed);
            let Some((request, _)) = image else {
                continue;
            };
            found += 1;
            let source = request.remote.expect("it is on another server");
            assert!(is_allowed, "{written} by {}", case["images"]);
            assert_eq!(source.as_str(), url["href"], "{written}");
            assert_eq!(source.target(), url["target"], "{written}");
            assert_eq!(source.host_header(), url["host"], "{written}");
        }
    }
    println!("{found} of {allowed} are made at the edge");
    assert!(allowed > 200 && found * 3 > allowed, "{found} of {allowed}");
}

fn build_with(folder: &Path, images: &Value) -> Build {
    let mut all = json!({
        "deviceSizes": [64], "imageSizes": [], "qualities": [75], "path": "/_next/image",
        "loader": "default", "formats": ["image/webp"], "minimumCacheTTL": 60,
        "maximumResponseBody": 50_000_000, "contentSecurityPolicy": "sandbox;",
        "contentDispositionType": "attachment",
    });
    for (name, value) in images.as_object().unwrap() {
        all[name] = value.clone();
    }
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    write("BUILD_ID", "a".to_owned());
    write(
        "routes-manifest.json",
        json!({ "basePath": "" }).to_string(),
    );
    write("images-manifest.json", json!({ "images": all }).to_string());
    Build::read(folder, true).unwrap()
}

/// Invariant: an address counts as public only if Python's `ipaddress` calls it global, and the other
/// way round except for addresses that are no hosts; as local only if that calls it private.
#[test]
fn the_reach_of_addresses_is_that_of_python() {
    let seed = seed::drawn() & 0xffff_ffff;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/images/addresses.py");
    let drawn = Command::new("python3")
        .args([script, &seed.to_string(), "10000"])
        .output()
        .unwrap();
    assert!(drawn.status.success(), "{drawn:?}");
    let (mut public, mut local) = (0, 0);
    for line in String::from_utf8(drawn.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [address, facts @ ..] = words.as_slice() else {
            panic!("{line}");
        };
        let facts: Vec<bool> = facts.iter().map(|fact| *fact == "1").collect();
        let [is_host, is_private, is_strange] = facts[..] else {
            panic!("{line}");
        };
        match Reach::classify(address.parse().unwrap()) {
            Reach::Public => {
                assert!(is_host && !is_private && !is_strange, "{line}");
                public += 1;
            }
            Reach::Local => {
                assert!(is_private, "{line}");
                local += 1;
            }
            Reach::Special => assert!(!is_host || is_strange, "{line}"),
        }
    }
    assert!(public > 10_000 && local > 1_000, "{public} {local}");
}
