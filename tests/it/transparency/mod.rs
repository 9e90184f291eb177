//! A stored response is served only to a request that could have got it from the origin itself.
//!
//! Two gateways with the same random configuration get the same random requests. One of them stores
//! nothing, so its origin shows the outcome of *this* request; the stored response of the other one
//! is compared with that.
#![allow(
    clippy::format_push_string,
    clippy::panic,
    reason = "tests: what goes wrong here fails them, and says so"
)]

mod cases;
mod draw;
mod judge;

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use rcgen::DnType;
use rustls::ClientConfig;

use self::{
    draw::{By, Configuration, Drawn},
    judge::Reflection,
};
use crate::support::{
    certificates::{Ca, Wanted},
    client::{Connection, Response},
    gateway::Gateway,
    origins::{Origin, ReflectingOrigin},
};

/// `Cache-Control` values of the origins; the path of a request selects one.
const CACHE_CONTROL: [&str; 10] = [
    "max-age=600",
    "public, max-age=600",
    "s-maxage=600",
    "max-age=600, must-revalidate",
    "private, max-age=600",
    "no-store",
    // Stale on arrival: within its window, or to be validated.
    "public, max-age=60, stale-while-revalidate=600\r\nage: 61",
    "max-age=60, stale-while-revalidate=600\r\nage: 61",
    "public, max-age=60\r\nage: 61",
    "max-age=60\r\nage: 61",
];
const VARY: [&str; 14] = [
    "",
    "X-User-Id",
    "X-Real-IP",
    "X-Forwarded-Host, X-Forwarded-Proto",
    "Cookie",
    "Accept-Language",
    "X-Set",
    "X-Client-Cert-Subject",
    "Authorization",
    "X-Tenant",
    "Accept-Encoding",
    "X-Forwarded-For",
    "Forwarded, X-Forwarded-Port",
    "Accept-Language, X-Api-Name",
];

/// Address of the trusted proxy.
const PROXY: &str = "127.0.0.2";

/// Number of requests of one configuration.
const REQUESTS: usize = 120;

/// Seed and number of configurations; `EDGEWAY_TRANSPARENCY=SEED:CONFIGURATIONS` changes both.
fn plan() -> (u64, usize) {
    let given = std::env::var("EDGEWAY_TRANSPARENCY").ok();
    let given = given.as_deref().and_then(|text| text.split_once(':'));
    match given {
        Some((seed, count)) => (
            seed.parse().unwrap_or_else(|_| fastrand::u64(..)),
            count.parse().expect("a number of configurations"),
        ),
        None => (crate::support::seed::drawn(), 6),
    }
}

/// Origins, certificates and two gateways.
struct Pair {
    storing: Gateway,
    asking: Gateway,
    clients: [Arc<ClientConfig>; 3],
    _origins: [Origin<ReflectingOrigin>; 2],
}

impl Pair {
    async fn start(configuration: &Configuration) -> Self {
        let ca = Ca::new();
        let origins = [
            ReflectingOrigin::start("one", &CACHE_CONTROL, &VARY).await,
            ReflectingOrigin::start("two", &CACHE_CONTROL, &VARY).await,
        ];
        let addresses = origins.each_ref().map(Origin::address);
        let client = |name| ca.issue(&Wanted::client(&[(DnType::CommonName, name)]));
        let (ann, bob) = (client("ann"), client("bob"));
        let clients = [None, Some(&ann), Some(&bob)];
        let clients = clients.map(|own| Arc::new(ca.trust_with(own)));
        let prepare = |folder: &Path| {
            fs::create_dir(folder.join("sites")).expect("a folder");
            let site = ca.site(&draw::HOSTS);
            site.write(&folder.join("sites"), "site");
            fs::write(folder.join("ca.pem"), ca.pem()).expect("a file");
        };
        let start = async |keeps| {
            let yaml = configuration.yaml(&addresses, keeps);
            Gateway::start_in(&yaml, prepare).await
        };
        Self {
            storing: start(true).await,
            asking: start(false).await,
            clients,
            _origins: origins,
        }
    }

    async fn send(&self, gateway: &Gateway, drawn: &Drawn) -> Response {
        let address = |name: &str| -> SocketAddr {
            let address = gateway.listener(name);
            address.parse().expect("an address")
        };
        let sent = match drawn.by {
            By::Plain => {
                let mut connection = Connection::open(address("plain")).await;
                connection
                    .as_mut()
                    .expect("it listens")
                    .send(&drawn.request())
                    .await
            }
            By::Proxy => {
                let from = PROXY.parse().expect("an address");
                let mut connection = Connection::open_from(from, address("plain")).await;
                connection
                    .as_mut()
                    .expect("it listens")
                    .send(&drawn.request())
                    .await
            }
            By::Tls | By::Asked(_) => {
                let (listener, client) = match drawn.by {
                    By::Asked(client) => ("asking", client),
                    _ => ("tls", 0),
                };
                let config = &self.clients[client];
                let site = draw::HOSTS[drawn.host];
                let mut connection = Connection::open_tls(address(listener), site, config).await;
                connection
                    .as_mut()
                    .expect("it listens")
                    .send(&drawn.request())
                    .await
            }
        };
        sent.unwrap_or_else(|error| panic!("{drawn:?}: {error}"))
    }
}

/// Sends every request to both; returns the number of requests, and of those served from the store.
async fn check(seed: u64, configuration: &Configuration) -> (usize, usize) {
    let pair = Pair::start(configuration).await;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut asked: Vec<(Drawn, Reflection)> = Vec::new();
    let (mut hits, mut naive) = (0, 0);
    for number in 0..REQUESTS {
        let drawn = configuration.request(&mut random);
        let own = pair.send(&pair.asking, &drawn).await;
        assert_ne!(
            own.header("x-cache-status"),
            Some("HIT"),
            "it keeps nothing"
        );
        let got = pair.send(&pair.storing, &drawn).await;
        let place = format!("request {number} of seed {seed}: {drawn:?}\n{configuration:#?}");
        assert_eq!(own.status(), got.status(), "{place}");
        let Some(own) = Reflection::of(&own) else {
            continue;
        };
        let route = configuration.route(&own);
        if matches!(got.header("x-cache-status"), Some("HIT" | "STALE")) {
            hits += 1;
            let got = Reflection::of(&got).expect("it is the origin's");
            if let Err(why) = judge::may_be_served(&got, &own, route) {
                panic!("{why}\ngot {got:#?}\nits own is {own:#?}\n{place}");
            }
        }
        // The control: a cache that compares URL, `Host` and the client's headers.
        let wrong = asked.iter().filter(|(other, stored)| {
            draw::is_alike(other, &drawn, stored)
                && judge::may_be_served(stored, &own, route).is_err()
        });
        naive += usize::from(wrong.count() > 0);
        asked.push((drawn, own));
    }
    (hits, naive)
}

#[tokio::test]
async fn stored_responses_reach_only_clients_that_the_origin_would_have_sent_them_to() {
    let (seed, count) = plan();
    let (mut hits, mut naive) = (0, 0);
    for number in 0..count {
        let seed = seed.wrapping_add(number as u64);
        let configuration = Configuration::draw(&mut fastrand::Rng::with_seed(seed));
        let (more, wrong) = check(seed, &configuration).await;
        hits += more;
        naive += wrong;
    }
    println!("seed {seed}: {count} configurations, {hits} hits; a naive cache: {naive} wrong");
    assert!(hits > 5 * count, "{hits} hits of seed {seed} show nothing");
    assert!(
        naive > 5 * count,
        "{naive} of seed {seed}: the draw finds nothing"
    );
}
