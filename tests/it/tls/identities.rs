//! Identities by certificate. Invariants: a subject reaches origins and rules as nginx and OpenSSL write
//! it, whatever is in it; and it stands for one client only together with the CAs of its listener, in
//! the cache and in limits.

use std::{collections::HashMap, fs, net::SocketAddr, path::Path, sync::Arc};

use fastrand::Rng;
use rcgen::DnType;
use rustls::ClientConfig;

use super::{WATCHED, clients::fingerprint};
use crate::support::{
    certificates::{Ca, Wanted, replace},
    client::{Connection, Response, get},
    gateway::Gateway,
    nginx::Nginx,
    origins::EchoOrigin,
    seed::{cases, drawn},
    wait::wait_for,
};

/// Pieces of names, among them all that a header, a log or RFC 4514 treats differently.
const PIECES: [&str; 22] = [
    "ann",
    "b",
    " ",
    "  ",
    // Alone, OpenSSL leaves it as it is.
    "#1",
    "\"",
    "+",
    ",",
    ";",
    "<",
    ">",
    "\\",
    "=",
    "'",
    "ü",
    "漢",
    "\0",
    "\r\n",
    "X-Admin: 1",
    "\u{7f}",
    "{",
    "CN=root",
];

fn kinds() -> Vec<DnType> {
    let custom = |last: u64| DnType::CustomDnType(vec![2, 5, 4, last]);
    let mut kinds = vec![
        DnType::CommonName,
        DnType::OrganizationName,
        DnType::OrganizationalUnitName,
        DnType::CountryName,
        DnType::LocalityName,
        DnType::StateOrProvinceName,
        DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]),
        DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]),
        DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
    ];
    kinds.extend([4, 5, 9, 12, 13, 15, 17, 41, 42, 43, 44, 46, 65, 97].map(custom));
    for last in 1..=3 {
        kinds.push(DnType::CustomDnType(vec![
            1, 3, 6, 1, 4, 1, 311, 60, 2, 1, last,
        ]));
    }
    kinds
}

fn subject(random: &mut Rng) -> Vec<(DnType, String)> {
    let count = random.usize(0..5);
    let kinds = random.choose_multiple(kinds(), count);
    let parts = kinds.into_iter().map(|kind| {
        let count = random.usize(1..5);
        let pieces = (0..count).map(|_| *random.choice(&PIECES).expect("there are some"));
        (kind, pieces.collect())
    });
    parts.collect()
}

fn client(ca: &Ca, subject: &[(DnType, String)], trusts: &Ca) -> (Arc<ClientConfig>, String) {
    let parts: Vec<_> = { subject.iter() }
        .map(|(kind, value)| (kind.clone(), &**value))
        .collect();
    let own = ca.issue(&Wanted::client(&parts));
    let config = trusts.trust_with(Some(&own));
    (Arc::new(config), fingerprint(&own))
}

async fn fetch(to: SocketAddr, config: &Arc<ClientConfig>, path: &str) -> Response {
    let mut open = Connection::open_tls(to, "a.test", config).await.unwrap();
    let request = get(path).header("host", "a.test");
    open.send(&request).await.unwrap()
}

fn prepare(ca: &Ca, folder: &Path) {
    ca.site(&["a.test"]).write(folder, "a");
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
}

fn header(response: &Response, name: &str) -> String {
    let echo = response.json();
    let headers = echo["headers"].as_array().expect("a list").clone();
    let value = headers.iter().find(|pair| pair[0] == name);
    let value = value.and_then(|pair| pair[1].as_str());
    value.expect("it is in the echo").to_owned()
}

#[tokio::test]
async fn subjects_are_written_as_nginx_writes_them() {
    let random = &mut Rng::with_seed(drawn());
    let ca = Ca::new();
    let home = tempfile::tempdir().unwrap();
    prepare(&ca, home.path());
    let nginx = Nginx::start(home.path(), |address| {
        let at = home.path().display();
        format!(
            "server {{ listen {address} ssl; ssl_certificate {at}/a.pem; \
             ssl_certificate_key {at}/a.key; ssl_client_certificate {at}/ca.pem; \
             ssl_verify_client on; return 200 \"$ssl_client_s_dn\"; }}"
        )
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..cases(40, 400) {
        let (config, _) = client(&ca, &subject(random), &ca);
        let text = fetch(nginx.address, &config, "/").await.text();
        clients.push((config, text));
    }
    let origin = EchoOrigin::start().await;
    let mut yaml = format!(
        "listeners:
  - address: '127.0.0.1:0'
    tls: {{ certificates: {{ cert: a.pem, key: a.key }}, client_ca: ca.pem }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
  - {{ match: {{ path: / }}, upstream: app }}
",
        origin.address()
    );
    for (number, (_, text)) in clients
        .iter()
        .enumerate()
        .filter(|(_, (_, text))| !text.is_empty())
    {
        let text = text.replace('\'', "''");
        yaml += &format!(
            "  - {{ match: {{ path: /{number} }}, respond: own, client_cert: {{ subject: '{text}' }} }}\n"
        );
    }
    let gateway = Gateway::start_in(&yaml, |folder| prepare(&ca, folder)).await;
    for (config, text) in &clients {
        let seen = fetch(gateway.address(), config, "/").await;
        // RFC 9110, 5.5: a header ends with no space.
        assert_eq!(header(&seen, "x-client-cert-subject"), text.trim_end());
        let other = random.usize(..clients.len());
        for (number, (_, listed)) in clients.iter().enumerate() {
            let is_own = listed == text;
            if listed.is_empty() || !(is_own || number == other) {
                continue;
            }
            let status = fetch(gateway.address(), config, &format!("/{number}"))
                .await
                .status();
            assert_eq!(
                status,
                if is_own { 200 } else { 403 },
                "`{text}` for `{listed}`"
            );
        }
    }
}

/// Requests that one client may make to the path with a limit.
const LIMIT: usize = 3;

#[tokio::test]
async fn a_subject_is_one_client_only_together_with_its_cas() {
    let random = &mut Rng::with_seed(drawn());
    let cas = [Ca::new(), Ca::new()];
    let origin = EchoOrigin::start().await;
    let tls = "certificates: { cert: a.pem, key: a.key }, client_ca";
    let yaml = format!(
        "listeners:
  - {{ address: '127.0.0.1:0', name: l0, tls: {{ {tls}: ca0.pem }} }}
  - {{ address: '127.0.0.1:0', name: l1, tls: {{ {tls}: ca1.pem, client_certificate: optional }} }}
rate_limits: {{ few: {{ rate: {LIMIT}/10h, key: user }} }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
defaults: {{ client_cert: true }}
routes:
  - {{ match: {{ path: /pages/* }}, upstream: app, cache: {{ ttl: 1h, key: {{ by: [user] }} }} }}
  - {{ match: {{ path: /limited }}, respond: here, rate_limit: [few] }}
",
        origin.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        prepare(&cas[0], folder);
        for (number, ca) in cas.iter().enumerate() {
            fs::write(folder.join(format!("ca{number}.pem")), ca.pem()).unwrap();
        }
    })
    .await;
    let at = ["l0", "l1"].map(|name| gateway.listener(name).parse::<SocketAddr>().unwrap());
    // Two certificates of each name from each CA; nobody is known by an empty name or one that is
    // longer than any.
    let names = ["ann", "ann, the other", "", &"x".repeat(5000)];
    let mut clients = Vec::new();
    for (number, ca) in cas.iter().enumerate() {
        for name in names.into_iter().chain(names) {
            let parts = { Some(name).into_iter() }
                .filter(|name| !name.is_empty())
                .map(|name| (DnType::CommonName, name.to_owned()));
            let (config, own) = client(ca, &parts.collect::<Vec<_>>(), &cas[0]);
            clients.push((number, name, config, own));
        }
    }
    let is_named = |name: &str| !name.is_empty() && name.len() < 4096;
    let (mut hits, mut passed) = (0, HashMap::<_, usize>::new());
    for _ in 0..cases(160, 1600) {
        let (ca, name, config, own) = &clients[random.usize(..clients.len())];
        let path = format!("/pages/{}", random.u8(..3));
        let response = fetch(at[*ca], config, &path).await;
        let owner = header(&response, "x-client-cert-fingerprint");
        let owner = clients.iter().find(|(.., own)| *own == owner).unwrap();
        let is_same = (owner.0, owner.1) == (*ca, *name);
        assert!(
            owner.3 == *own || is_same && is_named(name),
            "`{name}` of CA {ca} got the page of `{}` of CA {}",
            owner.1,
            owner.0
        );
        hits += usize::from(response.cache_status() == "HIT");
        let status = fetch(at[*ca], config, "/limited").await.status();
        *passed.entry((*ca, *name)).or_default() += usize::from(status == 200);
    }
    assert!(hits > 0, "the control: nothing was stored");
    for ((ca, name), count) in passed.into_iter().filter(|((_, name), _)| is_named(name)) {
        assert_eq!(count, LIMIT, "`{name}` of CA {ca}");
    }

    // The first listener takes the other CA: its clients get no page of those before them.
    replace(&gateway.folder().join("ca0.pem"), cas[1].pem());
    let (.., config, own) = clients.iter().find(|(ca, ..)| *ca == 1).unwrap();
    let response = wait_for("the other CA is trusted", WATCHED, async || {
        let mut open = Connection::open_tls(at[0], "a.test", config).await.ok()?;
        open.send(&get("/pages/0").header("host", "a.test"))
            .await
            .ok()
    })
    .await;
    let owner = header(&response, "x-client-cert-fingerprint");
    let owner = clients.iter().find(|(.., own)| *own == owner).unwrap();
    assert!(
        owner.3 == *own || owner.0 == 1,
        "a page of `{}` of the CA before",
        owner.1
    );
}
