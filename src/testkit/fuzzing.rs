//! Checks of the fuzz targets, by name. `fuzz/` runs them under libFuzzer; here they run over the
//! seeds and over a number of mutated seeds, as ordinary tests.

use edgeway_base::net::TrustedProxies;
use edgeway_cache::{policy, tier};
use edgeway_config::diagnostic::Style;
use edgeway_core::chain::{Client, Scheme, host::public_host};
use edgeway_filters::jwt;
use edgeway_proxy::{edge, forwarded};
use edgeway_routes as routes;
use http::{HeaderValue, header};
use pingora::http::RequestHeader;

use super::gateway;

/// The check that a target runs on an input.
pub type Check = fn(&[u8]);

/// All targets: the folder of the seeds, and the check.
pub const TARGETS: [(&str, Check); 10] = [
    ("head", edge::testkit::head),
    ("chunks", edge::testkit::chunks),
    ("proxy_protocol", edge::testkit::proxy_protocol),
    ("host", host),
    ("path", path),
    ("forwarded", forwarded),
    ("jwt", jwt::testkit::token),
    ("config", config),
    ("cache_control", policy::testkit::cache_control),
    ("stored_entry", tier::testkit::stored_entry),
];

/// Returns the target of this name.
///
/// # Panics
/// Panics if there is none.
pub fn target(name: &str) -> Check {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.expect("the target is in the list").1
}

/// Checks that a normalized host stays unchanged, and contains nothing that ends a host elsewhere.
fn host(data: &[u8]) {
    let Ok(host) = routes::host_of(data) else {
        return;
    };
    assert_eq!(routes::host_of(host.as_bytes()).as_deref(), Ok(&*host));
    let is_host =
        |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'[' | b']' | b':');
    assert!(host.len() <= 255 && host.bytes().all(is_host), "{host:?}");
}

/// Checks that a target in normal form stays unchanged, and has no dot segments left.
fn path(data: &[u8]) {
    let Ok(normal) = routes::normalise(data, routes::Slashes::Merge) else {
        return;
    };
    let target = normal.rewritten().unwrap_or_else(|| data.to_vec());
    assert!(target == b"*" || target.starts_with(b"/"));
    let again = routes::normalise(&target, routes::Slashes::Merge)
        .expect("what is in normal form can be read again");
    assert_eq!(again.rewritten(), None);
    let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    assert!(!normal.path.split(|b| *b == b'/').any(is_dots));
    assert!(!target.iter().any(|b| *b <= b' ' || *b == b'#'));
}

/// Checks that an untrusted client cannot pose as another one, and that no header value makes an
/// invalid host. Lines of the input are lines of the headers.
fn forwarded(data: &[u8]) {
    let Ok(mut head) = RequestHeader::build("GET", b"/", None) else {
        return;
    };
    let names = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "forwarded",
    ];
    for (index, line) in data.split(|b| *b == b'\n').take(40).enumerate() {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            // Most are of the first kind, which is a list over many lines.
            let name = names[if index < names.len() { index } else { 0 }];
            drop(head.append_header(name, value));
        }
    }
    head.insert_header(header::HOST, "a.test")
        .expect("it is a plain header");
    let trusted = TrustedProxies::new(
        ["127.0.0.0/8", "::1/128"]
            .map(|n| n.parse().expect("a network"))
            .into_iter()
            .collect(),
    );
    let stranger = "192.0.2.1".parse().expect("an address");
    let found = forwarded::resolve_client(&head, stranger, Scheme::Http, &trusted);
    assert_eq!(
        (found.ip, found.scheme, found.is_trusted),
        (stranger, Scheme::Http, false)
    );
    let proxy = "127.0.0.1".parse().expect("an address");
    let found = forwarded::resolve_client(&head, proxy, Scheme::Http, &trusted);
    assert!(found.is_trusted);
    for is_trusted in [false, true] {
        let client = Client {
            is_trusted,
            ..Client::default()
        };
        let host = public_host(&head, &client);
        assert!(is_trusted || host == "a.test", "{host:?}");
        let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]~".contains(&b);
        assert!(host.bytes().all(is_host), "{host:?}");
    }
}

/// Checks that every problem of a configuration can be rendered at its place. Keys that access the
/// disk are excluded.
fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if [
        "include",
        "acme",
        "cert",
        "file:",
        "dir:",
        "client_ca",
        "ca:",
    ]
    .iter()
    .any(|word| text.contains(word))
    {
        return;
    }
    let loaded = gateway::load_text("fuzzed.yaml", text);
    let mut diagnostics = loaded.diagnostics;
    if let Some(file) = &loaded.file {
        let folder = std::path::Path::new(".");
        let (_, found) = gateway::compile(file, folder, &gateway::World::default());
        diagnostics.extend(found);
    }
    let shown = diagnostics.render(&loaded.sources, Style::Graphical { colour: false });
    assert_eq!(shown.is_empty(), diagnostics.list().is_empty());
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Mutations of each seed. `FUZZ_ROUNDS` sets more for a longer run.
    const ROUNDS: u32 = 300;
    const SEED: u64 = 0x00ed_9e3a;

    fn seeds(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut seeds: Vec<_> = fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
            .collect();
        seeds.sort();
        assert!(seeds.len() >= 3, "{}", folder.display());
        seeds
    }

    /// Makes a small mutation, as fuzzers do.
    fn change(data: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
        const ODD: &[u8] = b"\r\n\0\t :;,.%#/\\_-[]0f\x7f\x80\xff";
        let at = random.usize(..=data.len());
        let end = (at + random.usize(..16)).min(data.len());
        match random.u8(..6) {
            0 if at < data.len() => data[at] ^= 1 << random.u8(..8),
            1 => data.insert(at, ODD[random.usize(..ODD.len())]),
            2 => drop(data.drain(at..end)),
            3 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            4 => data.truncate(at),
            _ => {
                let from = random.usize(..=other.len());
                let to = (from + random.usize(..32)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied());
            }
        }
    }

    fn run(name: &str, rounds: u32, more: &[&str]) {
        run_check(name, target(name), rounds, more);
    }

    fn run_check(name: &str, check: Check, rounds: u32, more: &[&str]) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut all = seeds(&root.join("fuzz/seeds").join(name));
        for folder in more {
            all.extend(seeds(&root.join(folder)));
        }
        let asked = std::env::var("FUZZ_ROUNDS").ok();
        let rounds = asked.and_then(|text| text.parse().ok()).unwrap_or(rounds);
        let mut random = fastrand::Rng::with_seed(SEED);
        for (file, seed) in &all {
            check(seed);
            for _ in 0..rounds {
                let mut data = seed.clone();
                for _ in 0..random.u8(1..5) {
                    let other = &all[random.usize(..all.len())].1;
                    change(&mut data, other, &mut random);
                }
                let outcome = std::panic::catch_unwind(|| check(&data));
                assert!(outcome.is_ok(), "{file}, changed: {}", data.escape_ascii());
            }
        }
    }

    #[test]
    fn heads_hold_what_they_promise() {
        run("head", ROUNDS, &[]);
    }

    #[test]
    fn chunks_hold_what_they_promise() {
        run("chunks", ROUNDS, &[]);
    }

    #[test]
    fn proxy_headers_hold_what_they_promise() {
        run("proxy_protocol", ROUNDS, &[]);
    }

    #[test]
    fn hosts_hold_what_they_promise() {
        run("host", ROUNDS, &[]);
    }

    #[test]
    fn paths_hold_what_they_promise() {
        run("path", ROUNDS, &[]);
    }

    #[test]
    fn forwarded_claims_hold_what_they_promise() {
        run("forwarded", ROUNDS, &[]);
    }

    #[test]
    fn tokens_hold_what_they_promise() {
        run("jwt", ROUNDS, &[]);
    }

    #[test]
    fn cache_directives_hold_what_they_promise() {
        run("cache_control", ROUNDS, &[]);
    }

    #[test]
    fn configurations_hold_what_they_promise() {
        run("config", 3, &["conf/examples", "tests/it/config/bad"]);
    }

    #[test]
    fn stored_entries_hold_what_they_promise() {
        run("stored_entry", ROUNDS, &[]);
    }

    /// The control: a check with a hole fails on the mutations.
    #[test]
    #[should_panic(expected = "changed")]
    fn a_promise_that_some_change_breaks_is_seen_to_be_broken() {
        run_check("host", |data| assert!(!data.contains(&0)), ROUNDS, &[]);
    }

    #[test]
    fn every_target_has_its_program_and_its_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let listed = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            let program = root.join(format!("fuzz_targets/{name}.rs"));
            let text = fs::read_to_string(&program).unwrap();
            assert!(text.contains(&format!("target(\"{name}\")")), "{name}");
            assert!(
                listed.contains(&format!("fuzz_targets/{name}.rs")),
                "{name}"
            );
            assert!(root.join("seeds").join(name).is_dir(), "{name}");
        }
    }
}
