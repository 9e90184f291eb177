//! Keys of `cache` that have a counterpart in nginx, against nginx itself. Invariant: for the same
//! requests in the same order, both ask their origin for the same ones and send the same of its
//! responses, but for cookies, which nobody gets from the store.
#![allow(
    clippy::print_stdout,
    reason = "tests: a seed that is shown can be used again"
)]

use std::fmt::Write as _;

use fastrand::Rng;

use crate::support::{
    client::{Connection, Request, Response},
    gateway::Gateway,
    nginx::Nginx,
    origins::{LetteredOrigin, Origin},
    seed,
};

const LOCATIONS: usize = 40;
const REQUESTS: usize = 2_000;

/// Settings of a location.
#[derive(Clone, Debug)]
struct Settings {
    min_uses: u32,
    ignored: Vec<&'static str>,
    bypass: Vec<usize>,
    no_store: Vec<usize>,
    key: usize,
    /// Own word for what nginx always does.
    ranges: &'static str,
}

/// Values of requests, in the words of both.
const VALUES: [(&str, &str); 4] = [
    ("$http_x_fresh", "{header.x-fresh}"),
    ("$arg_fresh", "{query.fresh}"),
    ("$cookie_preview", "{cookie.preview}"),
    ("$is_admin", "{map.is_admin}"),
];

/// Keys, in the words of both.
const KEYS: [(&str, &str); 4] = [
    ("$scheme$host$request_uri", "{}"),
    (
        "$scheme$host$uri$arg_page",
        "{ query: [], pass_unkeyed: true, values: ['{query.page}'] }",
    ),
    (
        "$scheme$host$request_uri$cookie_theme",
        "{ values: ['{cookie.theme}'] }",
    ),
    (
        "$host$uri$is_admin-$http_x_lang",
        "{ query: [], pass_unkeyed: true, values: ['{map.is_admin}', '{header.x-lang}'] }",
    ),
];

impl Settings {
    fn draw(random: &mut Rng) -> Self {
        let mut ignored = vec!["Cache-Control", "Expires", "Set-Cookie", "Vary"];
        ignored.retain(|_| random.u8(..3) == 0);
        let mut some = || (0..VALUES.len()).filter(|_| random.u8(..4) == 0).collect();
        Self {
            bypass: some(),
            no_store: some(),
            min_uses: random.u32(1..4),
            key: random.usize(..KEYS.len()),
            ranges: "announced",
            ignored,
        }
    }

    fn of_nginx(&self) -> String {
        let mut text = String::new();
        let list = |values: &[usize]| -> Vec<&str> {
            values.iter().map(|value| VALUES[*value].0).collect()
        };
        let mut add = |name: &str, words: &[&str]| {
            if !words.is_empty() {
                writeln!(text, "    {name} {};", words.join(" ")).expect("text");
            }
        };
        add("proxy_cache_min_uses", &[&self.min_uses.to_string()]);
        add("proxy_ignore_headers", &self.ignored);
        add("proxy_cache_bypass", &list(&self.bypass));
        add("proxy_no_cache", &list(&self.no_store));
        add("proxy_cache_key", &[KEYS[self.key].0]);
        text
    }

    fn own(&self) -> String {
        let list = |values: &[usize]| {
            let words = values.iter().map(|value| format!("'{}'", VALUES[*value].1));
            words.collect::<Vec<_>>().join(", ")
        };
        let ignored = self.ignored.join(", ").to_lowercase();
        format!(
            "{{ mode: strict, anonymous_cookies: ['*'], whole: true, keep_on_write: true, \
             by_status: {{ 200: 10min }}, ranges: {}, min_uses: {}, ignore_headers: [{ignored}], \
             bypass_if: [{}], no_store_if: [{}], key: {} }}",
            self.ranges,
            self.min_uses,
            list(&self.bypass),
            list(&self.no_store),
            KEYS[self.key].1
        )
    }
}

/// Both sides with origins of their own.
struct Sides {
    nginx: Nginx,
    gateway: Gateway,
    _origins: [Origin<LetteredOrigin>; 2],
    _home: tempfile::TempDir,
}

impl Sides {
    /// Starts both with these settings.
    async fn start(theirs: &[Settings], own: &[Settings]) -> Self {
        let origins = [LetteredOrigin::start().await, LetteredOrigin::start().await];
        let home = tempfile::tempdir().expect("a folder for the test can be made");
        let nginx = Nginx::start(home.path(), |address| {
            let folder = home.path().display();
            let mut text = format!(
                "  access_log off;
  proxy_cache_path {folder}/cache keys_zone=all:10m;
  map $cookie_theme $is_admin {{ default 0; dark 1; }}
  server {{ listen {address};
"
            );
            for (number, settings) in theirs.iter().enumerate() {
                let to = origins[0].address();
                writeln!(
                    text,
                    "  location /{number}/ {{ proxy_pass http://{to}; proxy_set_header Host $host;\n    \
                     proxy_cache all; proxy_cache_valid 200 10m;\n{}  }}",
                    settings.of_nginx()
                )
                .expect("text");
            }
            text + "  }"
        })
        .await;
        let mut yaml = format!(
            "maps: {{ is_admin: {{ from: '{{cookie.theme}}', values: {{ dark: '1' }}, default: '0' }} }}
upstreams: {{ web: {{ backends: ['{}'] }} }}
routes:
",
            origins[1].address()
        );
        for (number, settings) in own.iter().enumerate() {
            let own = settings.own();
            writeln!(
                yaml,
                "- {{ match: {{ path: /{number}/* }}, upstream: web, cache: {own} }}"
            )
            .expect("text");
        }
        Self {
            nginx,
            gateway: Gateway::start(&yaml).await,
            _origins: origins,
            _home: home,
        }
    }

    /// Sends as many drawn requests to both, and returns the first one whose responses differ.
    async fn first_difference(
        &self,
        all: &[Settings],
        random: &mut Rng,
        count: usize,
    ) -> Option<String> {
        let connect = async || {
            let theirs = Connection::open(self.nginx.address).await;
            let own = self.gateway.connect().await;
            (theirs.expect("nginx accepts"), own)
        };
        let (mut theirs, mut own) = connect().await;
        let mut newest = -1;
        for sent in 0..count {
            if sent % 400 == 399 {
                // Each closes a connection after some requests.
                (theirs, own) = connect().await;
            }
            let request = request(all, random);
            let expected = theirs.send(&request).await.expect("nginx responds");
            let response = own.send(&request).await.expect("the gateway responds");
            if shown(&expected) != shown(&response) {
                let text = request.text();
                return Some(format!(
                    "{text}: nginx {}, own {}",
                    shown(&expected),
                    shown(&response)
                ));
            }
            let number = response.header("x-number").expect("the origin's number");
            let number: i64 = number.parse().expect("a number");
            let is_new = number > newest;
            newest = newest.max(number);
            let cookie = response.header("set-cookie").map(str::to_owned);
            let letters = request.text();
            let letters = letters
                .split([' ', '?'])
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            let sets = is_new && letters.contains('s');
            assert_eq!(
                cookie,
                sets.then(|| format!("sid={number}")),
                "a cookie reaches the client whose request it was, and no other: {}",
                request.text()
            );
        }
        None
    }
}

fn shown(response: &Response) -> String {
    format!("{} {}", response.status(), response.text())
}

fn request(all: &[Settings], random: &mut Rng) -> Request {
    const LETTERS: [&str; 14] = [
        "x", "x", "x", "n", "p", "m", "e", "w", "s", "ns", "r", "rm", "v", "vs",
    ];
    let pick = |of: &[&'static str], random: &mut Rng| of[random.usize(..of.len())];
    let location = random.usize(..LOCATIONS);
    // Of a response that varies, nginx forgets the other variants when one of them is renewed.
    let renews = !all[location].bypass.is_empty();
    let letters = pick(&LETTERS[..if renews { 12 } else { 14 }], random);
    let query = pick(
        &[
            "",
            "",
            "?page=1",
            "?page=2",
            "?page=1&fresh=1",
            "?fresh=0",
            "?other=3",
        ],
        random,
    );
    let mut request =
        Request::new("GET", &format!("/{location}/{letters}{query}")).header("host", "a.test");
    let mut add = |name: &str, values: &[&'static str], one_in: u8| {
        if random.u8(..one_in) == 0 {
            let value = values[random.usize(..values.len())];
            request = request.clone().header(name, value);
        }
    };
    add("x-fresh", &["1", "0", "yes"], 6);
    add("x-lang", &["de", "en"], 3);
    add("range", &["bytes=0-0", "bytes=-1", "bytes=0-"], 4);
    add(
        "cookie",
        &[
            "theme=dark",
            "theme=light",
            "preview=1",
            "preview=0; theme=dark",
        ],
        3,
    );
    request
}

fn seeded() -> Rng {
    let seed = seed::drawn();
    Rng::with_seed(seed)
}

#[tokio::test]
async fn the_cache_keeps_what_nginx_keeps() {
    let mut random = seeded();
    let all: Vec<Settings> = (0..LOCATIONS)
        .map(|_| Settings::draw(&mut random))
        .collect();
    let sides = Sides::start(&all, &all).await;
    let count = seed::cases(400, REQUESTS);
    let difference = sides.first_difference(&all, &mut random, count).await;
    assert_eq!(difference, None, "{all:#?}");
}

/// Without one of the keys, the test above fails.
#[tokio::test]
async fn each_of_the_keys_has_an_effect() {
    let mut random = seeded();
    let all: Vec<Settings> = (0..LOCATIONS)
        .map(|_| Settings::draw(&mut random))
        .collect();
    let changes: [fn(&mut Settings); 6] = [
        |own| own.min_uses = 1,
        |own| own.ignored.clear(),
        |own| own.bypass.clear(),
        |own| own.no_store.clear(),
        |own| own.key = 0,
        |own| own.ranges = "any",
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut own = all.clone();
        own.iter_mut().for_each(change);
        let sides = Sides::start(&all, &own).await;
        let difference = sides.first_difference(&all, &mut random, REQUESTS).await;
        assert!(difference.is_some(), "change {number}");
    }
}
