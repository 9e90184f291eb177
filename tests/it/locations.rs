//! Locations against nginx itself: for random locations and requests, both find the same one.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use crate::support::{
    client::{Connection, Request},
    gateway::Gateway,
    nginx::Nginx,
    seed,
};

const HOSTS: usize = 60;
const REQUESTS: [usize; 2] = [30, 80];

const PLAIN: [&str; 16] = [
    "/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/A", "/b", "/b/a", "/a b", "/ä", "/a.js", "/a/a.js",
    "/ab/", "/b/", "/B/a",
];
const REGEXES: [&str; 14] = [
    r"\.js$",
    "^/a",
    "b$",
    "/b/",
    "^/[^/]+$",
    "a|b",
    "^/(?!a)",
    r"(?<!b)\.js$",
    "ä",
    "^/a/(.*)$",
    "B",
    "a b",
    r"^/\w+/$",
    ".",
];
const SEGMENTS: [&str; 17] = [
    "a", "b", "A", "B", "ab", "a.js", "b.js", "x", "%61", "%2F", "%2f%62", "a%20b", "%C3%A4", "",
    "a%2Ejs", "%41", "%25",
];

/// Draws locations that nginx takes: no plain path and no expression twice.
fn locations() -> Vec<String> {
    let mut found = BTreeMap::<(&str, &str), String>::new();
    for _ in 0..fastrand::usize(1..9) {
        let mark = fastrand::choice(["", "", "= ", "^~ ", "~ ", "~* "]).expect("there are some");
        let texts: &[&str] = if mark.starts_with('~') {
            &REGEXES
        } else {
            &PLAIN
        };
        let text = *fastrand::choice(texts).expect("there are some");
        let kind = if mark == "^~ " { "" } else { mark };
        found.insert((kind, text), format!("{mark}{text}"));
    }
    let mut written: Vec<String> = found.into_values().collect();
    fastrand::shuffle(&mut written);
    written
}

fn path() -> String {
    let mut path = String::new();
    for _ in 0..fastrand::usize(1..4) {
        let segment = fastrand::choice(SEGMENTS).expect("there are some");
        path.push('/');
        path.push_str(segment);
    }
    path
}

/// Starts nginx, whose locations respond with their numbers.
async fn nginx(home: &Path, hosts: &[Vec<String>]) -> Nginx {
    Nginx::start(home, |address| {
        let mut config = "  access_log off; default_type text/plain;\n  \
                          server_names_hash_bucket_size 128;\n"
            .to_owned();
        for (host, locations) in hosts.iter().enumerate() {
            let _ = writeln!(
                config,
                "server {{ listen {address}; server_name h{host}.test;"
            );
            for (number, location) in locations.iter().enumerate() {
                let (mark, text) = location
                    .split_once(' ')
                    .filter(|_| !location.starts_with('/'))
                    .unwrap_or(("", location));
                let _ = writeln!(
                    config,
                    "location {mark} \"{text}\" {{ return 200 \"{number}\"; }}"
                );
            }
            config.push_str("}\n");
        }
        config
    })
    .await
}

async fn gateway(hosts: &[Vec<String>]) -> Gateway {
    let mut yaml = "routes:\n".to_owned();
    for (host, locations) in hosts.iter().enumerate() {
        for (number, location) in locations.iter().enumerate() {
            let location = location.replace('\'', "''");
            let _ = writeln!(
                yaml,
                "- {{ match: {{ host: h{host}.test, location: '{location}' }}, \
                 respond: {{ body: '{number}' }} }}"
            );
        }
    }
    Gateway::start(&yaml).await
}

#[tokio::test]
async fn a_location_is_the_one_that_nginx_finds() {
    let seed = seed::drawn();
    println!("seed {seed}");
    fastrand::seed(seed);
    let hosts: Vec<Vec<String>> = (0..HOSTS).map(|_| locations()).collect();
    let home = tempfile::tempdir().expect("a folder for the test can be made");
    let nginx = nginx(home.path(), &hosts).await;
    let gateway = gateway(&hosts).await;
    let mut found = 0;
    let requests = seed::cases(REQUESTS[0], REQUESTS[1]);
    for (host, locations) in hosts.iter().enumerate() {
        let mut theirs = Connection::open(nginx.address)
            .await
            .expect("nginx accepts");
        let mut own = gateway.connect().await;
        for _ in 0..requests {
            let request = Request::new("GET", &path()).header("host", format!("h{host}.test"));
            let expected = theirs.send(&request).await.expect("nginx responds");
            let response = own.send(&request).await.expect("the gateway responds");
            // Without a location nginx looks for a file.
            let number = |status: u16, text: String| (status == 200).then_some(text);
            let expected = number(expected.status(), expected.text());
            let response = number(response.status(), response.text());
            found += usize::from(expected.is_some());
            assert_eq!(response, expected, "{} in {locations:#?}", request.text());
        }
    }
    // Most draws have a location for most paths.
    assert!(found > HOSTS * requests / 3, "{found} found");
}
