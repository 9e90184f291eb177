//! Hosts against nginx itself: for random names and hosts, both find the same one, and the groups
//! of its regular expression have the same values.

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr};

use crate::support::{
    client::{Request, send},
    gateway::Gateway,
    nginx::Nginx,
    seed,
};

const ROUNDS: usize = 12;
const HOSTS: usize = 120;

const LABELS: [&str; 6] = ["a", "b", "www", "example", "test", "co"];
const REGEXES: [&str; 8] = [
    r"~^(?<one>[a-z]+)\.(?<two>.+)$",
    r"~^(?<one>a|b)\.",
    r"~(?<one>\.test)$",
    r"~^(?!www\.)(?<one>.+)\.co$",
    r"~^WWW\.(?<one>[^.]+)",
    r"~b",
    r"~^(?<two>[^.]+)\.example(?<one>\..+)?$",
    r"~^a\.b\.test$",
];

fn name() -> String {
    let label = |_| fastrand::choice(LABELS).expect("there are some");
    let labels = (0..fastrand::usize(2..4)).map(label);
    labels.collect::<Vec<_>>().join(".")
}

/// Draws names of servers that nginx takes, none of them twice.
fn names() -> Vec<String> {
    let mut all = BTreeSet::new();
    for _ in 0..fastrand::usize(2..9) {
        all.insert(match fastrand::u8(..6) {
            0 => name(),
            1 => format!("*.{}", name()),
            2 | 3 => format!(
                "{}.*",
                name().split('.').take(2).collect::<Vec<_>>().join(".")
            ),
            _ => (*fastrand::choice(&REGEXES).expect("there are some")).to_owned(),
        });
    }
    let mut all: Vec<String> = all.into_iter().collect();
    fastrand::shuffle(&mut all);
    all
}

/// Returns a target with the number of a name and the values of its groups, with these marks
/// around each.
fn target(number: usize, name: &str, [before, after]: [&str; 2]) -> String {
    let groups = ["one", "two"].iter().map(|group| {
        if name.contains(&format!("<{group}>")) {
            format!("{before}{group}{after}")
        } else {
            "-".to_owned()
        }
    });
    format!("/{number}/{}", groups.collect::<Vec<_>>().join("/"))
}

async fn ask(to: SocketAddr, host: &str) -> String {
    let request = Request::new("GET", "/x").header("host", host);
    let response = send(to, &request).await.expect("it responds");
    let location = response.header("location").unwrap_or_default();
    // nginx writes the whole URL.
    let rest = location.strip_prefix("http://");
    let path = rest.map_or(location, |rest| {
        &rest[rest.find('/').unwrap_or(rest.len())..]
    });
    format!("{} {path}", response.status())
}

#[tokio::test]
async fn hosts_lead_to_the_same_server_as_with_nginx() {
    let seed = seed::drawn();
    fastrand::seed(seed);
    let mut found = 0;
    for round in 0..ROUNDS {
        let names = names();
        let home = tempfile::tempdir().expect("a folder for the test can be made");
        let nginx = Nginx::start(home.path(), |address| {
            let mut config = "  access_log off; server_names_hash_bucket_size 128;\n".to_owned();
            let _ = writeln!(config, "server {{ listen {address}; return 404; }}");
            for (number, name) in names.iter().enumerate() {
                let to = target(number, name, ["$", ""]);
                let _ = writeln!(
                    config,
                    "server {{ listen {address}; server_name \"{name}\"; return 302 {to}; }}"
                );
            }
            config
        })
        .await;
        let mut routes = String::from("routes:\n");
        for (number, name) in names.iter().enumerate() {
            let to = target(number, name, ["{", "}"]);
            let _ = writeln!(
                routes,
                "- {{ match: {{ host: '{name}' }}, redirect: {{ to: '{to}', status: 302 }} }}"
            );
        }
        let gateway = Gateway::start(&routes).await;
        for _ in 0..HOSTS {
            let mut host = name();
            if fastrand::u8(..4) == 0 {
                host.make_ascii_uppercase();
            }
            let theirs = ask(nginx.address, &host).await;
            let own = ask(gateway.address(), &host).await;
            found += usize::from(theirs.starts_with("302"));
            // For a host of no server the gateway has another status.
            let is_none =
                theirs.starts_with("404") && (own.starts_with("404") || own.starts_with("421"));
            assert!(
                is_none || theirs == own,
                "round {round}, {host}: nginx {theirs}, own {own}; {names:#?}"
            );
        }
    }
    // Most draws have a server for many hosts, and a few for hardly any.
    assert!(found > ROUNDS * HOSTS / 16, "{found} found");
}
