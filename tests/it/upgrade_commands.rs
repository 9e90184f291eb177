//! Commands after an upgrade, while processes before it still have kept connections.
//!
//! Invariant: what a command has confirmed holds for every process of the gateway that still
//! serves: no request that begins later gets a response from before it.

use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::support::{
    client::{Connection, Request, get, post, post_json},
    gateway::Gateway,
    http2,
    origins::{FixedOrigin, NumberedOrigin, Origin},
    seed::{cases, drawn},
};

/// Address of clients that are banned now and then.
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// A gateway with two processes before the one that serves, and what it was told last.
struct Site {
    gateway: Gateway,
    releases: [Origin<FixedOrigin>; 2],
    pages: Origin<NumberedOrigin>,
    /// Index of the current release.
    current: usize,
    drained: Option<usize>,
    is_banned: bool,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let releases = [
            FixedOrigin::start(200, &[], "0").await,
            FixedOrigin::start(200, &[], "1").await,
        ];
        let pages = NumberedOrigin::start().await;
        let headers = [("cache-control", "max-age=600"), ("surrogate-key", "pages")];
        pages.settings().tell("/page", 200, &headers);
        let folder = tempfile::tempdir().expect("a folder can be made");
        let gateway = Gateway::start(&format!(
            "listeners: [{{ address: '127.0.0.1:0', http2: {{ cleartext: true }} }}]
drain: {{ idle: 20s, deadline: 30s }}
upstreams:
  web: {{ app: nextjs, health: false, releases: {{ folder: '{}', ports: 1-4, start: [x] }} }}
  both: {{ backends: ['{}', '{}'], health: false }}
  pages: {{ backends: ['{}'], health: false }}
routes:
- {{ match: {{ path: '/*' }}, upstream: web }}
- {{ match: {{ path: '/both' }}, upstream: both }}
- {{ match: {{ path: '/page' }}, upstream: pages, cache: {{ purge_on_write: true }} }}
",
            folder.path().display(),
            releases[0].address(),
            releases[1].address(),
            pages.address(),
        ))
        .await;
        let site = Self {
            gateway,
            releases,
            pages,
            current: 0,
            drained: None,
            is_banned: false,
            _folder: folder,
        };
        for (index, release) in site.releases.iter().enumerate() {
            let added = json!({ "address": release.address(), "release": format!("r{index}") });
            site.order(&post_json("/v1/upstreams/web/backends", &added))
                .await;
        }
        let first = json!({ "release": "r0" });
        site.order(&post_json("/v1/upstreams/web/release", &first))
            .await;
        site
    }

    async fn order(&self, request: &Request) -> Value {
        let response = self.gateway.send_admin(request).await;
        assert_eq!(response.status(), 200, "{}", response.text());
        response.json()
    }

    /// Performs a drawn command. Returns the path that shows its effect, and the text of a response
    /// from before it.
    async fn command(&mut self, rng: &mut Rng) -> (&'static str, Option<String>) {
        match rng.u8(..5) {
            0 => {
                self.current = 1 - self.current;
                let to = json!({ "release": format!("r{}", self.current) });
                self.order(&post_json("/v1/upstreams/web/release", &to))
                    .await;
                ("/", None)
            }
            1 => {
                let (at, how) = match self.drained.take() {
                    Some(drained) => (drained, "undrain"),
                    None => (*self.drained.insert(rng.usize(..2)), "drain"),
                };
                let address = self.releases[at].address();
                let path = format!("/v1/upstreams/both/backends/{address}/{how}");
                self.order(&post(&path, "")).await;
                ("/both", None)
            }
            2 => {
                self.is_banned = !self.is_banned;
                if self.is_banned {
                    let ban = json!({ "address": GUEST, "for": "1h" });
                    self.order(&post_json("/v1/bans", &ban)).await;
                } else {
                    let path = format!("/v1/bans/{GUEST}");
                    self.order(&Request::new("DELETE", &path)).await;
                }
                ("/", None)
            }
            3 => {
                let before = self.gateway.get("/page").await.text();
                let purges = [
                    json!({ "url": "/page" }),
                    json!({ "tag": "pages" }),
                    json!({ "all": true }),
                ];
                let purge = rng.choice(&purges).expect("there are some");
                assert_eq!(self.gateway.purge(purge).await.0, 200);
                ("/page", Some(before))
            }
            _ => {
                let before = self.gateway.get("/page").await.text();
                let written = self.gateway.send(&post("/page", "x")).await;
                assert_eq!(written.status(), 200);
                ("/page", Some(before))
            }
        }
    }

    /// Checks a response for `path` that was requested after the last command.
    fn check(&self, path: &str, before: Option<&str>, status: u16, text: &str) {
        if self.is_banned {
            return assert_eq!(status, 403, "{path}");
        }
        assert_eq!(status, 200, "{path}: {text}");
        match (path, self.drained) {
            ("/", _) => assert_eq!(text, self.current.to_string()),
            ("/both", Some(drained)) => assert_ne!(text, drained.to_string()),
            ("/both", None) => {}
            _ => assert_ne!(
                Some(text),
                before,
                "{} pages",
                self.pages.counts().requests()
            ),
        }
    }
}

/// Opens a connection that has had a response, and is kept.
async fn kept(gateway: &Gateway) -> Connection {
    let opened = Connection::open_from(GUEST, gateway.address()).await;
    let mut connection = opened.expect("the gateway accepts");
    for path in ["/page", "/"] {
        let response = connection.send(&get(path)).await.expect("it responds");
        assert_eq!(response.status(), 200);
    }
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_command_holds_for_the_processes_that_drain() {
    let mut rng = Rng::with_seed(drawn());
    for _ in 0..cases(1, 20) {
        let mut site = Site::start().await;
        let mut waiting = Vec::new();
        let mut streams = Vec::new();
        for _ in 0..2 {
            for _ in 0..12 {
                waiting.push(kept(&site.gateway).await);
            }
            let client = http2::Client::open(site.gateway.address()).await;
            assert_eq!(client.get("/").await.status(), 200);
            streams.push(client);
            site.gateway.upgrade().await;
        }
        rng.shuffle(&mut waiting);
        // Neither process has closed one, and each closes with its next response.
        for mut connection in waiting {
            let (path, before) = site.command(&mut rng).await;
            let response = connection.send(&get(path)).await.expect("it is kept");
            assert_eq!(response.header("connection"), Some("close"));
            site.check(path, before.as_deref(), response.status(), &response.text());
        }
        if !site.is_banned {
            for client in streams {
                if let Ok(response) = client.send(http2::request("GET", "/"), "").await {
                    assert_eq!(response.text(), site.current.to_string());
                }
            }
        }
        let log = site.gateway.stderr();
        assert!(!log.contains("did not confirm"), "{log}");
    }
}
