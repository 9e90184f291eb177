//! Playing the cases of a shape against one side.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::ClientConfig;

use super::{
    compare::Record,
    conf::Directive,
    draft::Case,
    edges::FILES,
    origin::{CASE, Seen},
    servers::Side,
    site::{Compares, servers},
    wire::{Message, send},
};
use crate::support::certificates::Ca;

/// Sends all requests, and returns what became of each, by number.
pub(super) async fn play(
    side: &Side,
    cases: &[Case],
    trust: &Arc<ClientConfig>,
) -> BTreeMap<usize, Record> {
    let mut records = BTreeMap::new();
    for case in cases {
        let messages = case.requests.iter().map(|request| {
            let mut bytes = side.real(&request.head).into_bytes();
            bytes.extend(&request.body);
            Message {
                bytes,
                is_head: request.method == "HEAD",
            }
        });
        let messages: Vec<Message> = messages.collect();
        let tls = case.tls.clone().map(|name| (Arc::clone(trust), name));
        let to = side.address(case.listen);
        let mut done = 0;
        // A client goes on with a new connection where one was closed.
        while done < messages.len() {
            let (port, outcomes) = send(case.from, to, tls.clone(), &messages[done..]).await;
            for (index, mut outcome) in outcomes.into_iter().enumerate() {
                for (name, value) in &mut outcome.fields {
                    *value = side.neutral(value);
                    if name == "x-backend" {
                        *value = side.group(value);
                    } else if name == "location" {
                        *value = side.grouped(value);
                    }
                }
                let record = Record {
                    outcome,
                    seen: Vec::new(),
                    key: format!("{}:{port} {}", case.from, index + 1),
                };
                records.insert(case.requests[done].number, record);
                done += 1;
            }
        }
        for mut seen in side.origins.take() {
            // Requests to an auth service may lack the number.
            let number = seen.header(CASE).and_then(|number| number.parse().ok());
            let number = number.or(case.requests.last().map(|last| last.number));
            neutralise(side, &mut seen);
            let record = number.and_then(|number: usize| records.get_mut(&number));
            if let Some(record) = record {
                record.seen.push(seen);
            }
        }
    }
    records
}

fn neutralise(side: &Side, seen: &mut Seen) {
    seen.group = side.group(&seen.backend.to_string());
    seen.target = side.neutral(&seen.target);
    for (name, value) in &mut seen.headers {
        *value = if name == "x-forwarded-port" {
            side.neutral(&format!(":{value}"))
        } else {
            side.neutral(value)
        };
    }
}

/// Files of users with hashes of `secret` as `htpasswd -m` and `-s` write them.
const OLD_HASHES: [(&str, &str); 2] = [
    ("old-md5.htpasswd", "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/"),
    ("old-sha.htpasswd", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="),
];

/// Writes the files that a shape names: folders of sites, certificates, passwords, media types.
pub(super) fn prepare(shared: &Path, main: &Directive, ca: &Ca) {
    let mime = fs::read("/etc/nginx/mime.types").expect("nginx brings it along");
    fs::write(shared.join("mime.types"), mime).expect("the folder takes files");
    let hash = bcrypt::hash("secret", 5).expect("a cost that there is");
    let users = format!("ann:{hash}\n");
    fs::write(shared.join("users.htpasswd"), users).expect("the folder takes files");
    for (name, hash) in OLD_HASHES {
        let users = format!("ann:{hash}\n");
        fs::write(shared.join(name), users).expect("the folder takes files");
    }
    let mut random = fastrand::Rng::with_seed(1);
    for server in servers(main, &mut random) {
        for location in &server.locations {
            let Some((folder, prefix)) = location.folder() else {
                continue;
            };
            let folder = folder.replace("/var/www/", "www/");
            let folder = shared.join(folder);
            grow(&folder);
            let is_below = prefix == "/" && location.compares == Compares::Prefix;
            if is_below && location.text.ends_with('/') && location.text != "/" {
                grow(&folder.join(location.text.trim_matches('/')));
            }
        }
    }
    main.walk(&mut Vec::new(), &mut |directive, _| {
        if directive.name() == "ssl_certificate" {
            let name = directive.first().split('/').rev().nth(1);
            let name = name.expect("below a folder");
            let folder = shared.join("certs").join(name);
            fs::create_dir_all(&folder).expect("the folder takes folders");
            let issued = ca.site(&[name, &format!("*.{name}")]);
            fs::write(folder.join("fullchain.pem"), issued.cert).expect("a file");
            fs::write(folder.join("privkey.pem"), issued.key).expect("a file");
        }
    });
}

/// Files of every folder, besides those that are asked for by name.
const PAGES: [&str; 5] = [
    "404.html",
    "50x.html",
    "outage.html",
    "empty.gif",
    "report.txt",
];

fn grow(folder: &Path) {
    let long = "a line of a file that is worth its compression\n".repeat(60);
    for name in FILES.iter().chain(&PAGES) {
        let path = folder.join(name);
        let above = path.parent().expect("it is below the folder");
        fs::create_dir_all(above).expect("the folder takes folders");
        let text = match *name {
            "big.bin" => "0123456789abcdef".repeat(5000),
            "app.js" | "style.css" => format!("/* {name} */\n{long}"),
            _ => format!("the file {name} of {}\n", above.ends_with("docs")),
        };
        fs::write(&path, text).expect("the folder takes files");
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let file = fs::File::options().write(true).open(&path);
        let file = file.expect("it was written");
        file.set_modified(then).expect("it is ours");
    }
}
