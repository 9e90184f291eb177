//! Stored responses are the bytes that the origin sent: drawn headers and bodies, compared with the
//! script of the origin and with the response to the first client.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{
    client::{Response, get},
    front::Front,
    http2,
    origins::{FixedOrigin, ScriptedOrigin},
};

const RESPONSES: usize = 150;
/// More names than the store gives codes to.
const NAMES: usize = 200;
/// Names that differ from response to response, or that only the first one has.
const CHANGING: [&str; 7] = [
    "accept-ranges",
    "age",
    "cache-status",
    "connection",
    "date",
    "x-cache-status",
    "x-request-id",
];

struct Drawn {
    fields: Vec<(String, String)>,
    body: String,
}

fn text(dice: &mut fastrand::Rng, most: usize) -> String {
    let len = dice.usize(0..=most);
    let text: String = (0..len).map(|_| char::from(dice.u8(b'!'..=b'~'))).collect();
    text.replace('"', "'")
}

fn drawn(dice: &mut fastrand::Rng) -> Drawn {
    let known = [
        "content-type",
        "content-language",
        "etag",
        "last-modified",
        "link",
        "x-nextjs-prerender",
    ];
    let mut fields = Vec::new();
    for name in known {
        if dice.bool() {
            let value = match name {
                "etag" => format!("\"{}\"", text(dice, 20)),
                "last-modified" => "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
                _ => text(dice, 60),
            };
            fields.push((name.to_owned(), value));
        }
    }
    for _ in 0..dice.usize(0..6) {
        let name = match dice.usize(0..10) {
            0 => format!("x-{}", "long".repeat(20)),
            _ => format!("x-drawn-{}", dice.usize(0..NAMES)),
        };
        let most = if dice.usize(0..8) == 0 { 3000 } else { 40 };
        // Some of them on several lines.
        for _ in 0..=dice.usize(0..8) / 6 {
            fields.push((name.clone(), text(dice, most)));
        }
    }
    let most = [0, 100, 2000, 20_000, 100_000][dice.usize(0..5)];
    Drawn {
        fields,
        body: text(dice, most),
    }
}

impl Drawn {
    fn script(&self) -> String {
        let mut lines = String::new();
        for (name, value) in &self.fields {
            lines.extend([&**name, ": ", &**value, "\r\n"]);
        }
        format!(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\n{lines}content-length: {}\r\n\r\n{}",
            self.body.len(),
            self.body
        )
    }

    #[track_caller]
    fn check(&self, response: &Response, place: &str) {
        assert!(response.body == self.body, "{place}: another body");
        let sent = by_name(self.fields.iter().map(|(name, value)| (&**name, &**value)));
        for (name, values) in &sent {
            let received: Vec<_> = response.headers.get_all(name).collect();
            assert_eq!(received, *values, "{place}: {name}");
        }
    }
}

fn by_name<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, Vec<&'a str>> {
    let mut names: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in fields {
        names
            .entry(name.to_ascii_lowercase())
            .or_default()
            .push(value);
    }
    names.retain(|name, _| !CHANGING.contains(&&**name));
    names
}

#[tokio::test]
async fn stored_responses_are_those_of_the_origin_to_the_byte() {
    let seed = crate::support::seed::drawn();
    let mut dice = fastrand::Rng::with_seed(seed);
    let all: Vec<_> = (0..RESPONSES).map(|_| drawn(&mut dice)).collect();
    let scripts = all.iter().enumerate();
    let scripts: Vec<_> = scripts
        .map(|(at, one)| (format!("/{at}"), one.script()))
        .collect();
    let script: Vec<_> = scripts
        .iter()
        .map(|(path, text)| (&**path, &**text))
        .collect();
    let origin = ScriptedOrigin::start(&script).await;
    let gateway = Front::to(&origin)
        .listener("http2: { cleartext: true }, limits: { requests_per_connection: 100000 }")
        .route("cache: {}, compression: false")
        .start()
        .await;
    let mut client = gateway.connect().await;
    let http2 = http2::Client::open(gateway.address()).await;
    for (at, one) in all.iter().enumerate() {
        let path = format!("/{at}");
        let mut first = None;
        for turn in ["MISS", "HIT", "HIT"] {
            let place = format!("seed {seed}, {path}, {turn}");
            let response = client.send(&get(&path)).await.expect("a response");
            assert_eq!(response.header("x-cache-status"), Some(turn), "{place}");
            one.check(&response, &place);
            let fields = response.headers.fields.iter();
            let fields = by_name(fields.map(|(name, value)| (&**name, &**value)));
            let fields = format!("{fields:#?}");
            let expected = first.get_or_insert_with(|| fields.clone());
            assert_eq!(fields, *expected, "{place}");
        }
        let place = format!("seed {seed}, {path} over HTTP/2");
        // It sends another host, and so has an entry of its own.
        drop(http2.get(&path).await);
        let response = http2.get(&path).await;
        assert_eq!(response.header("x-cache-status"), Some("HIT"), "{place}");
        assert!(response.body == one.body, "{place}: another body");
        let fields = response.parts.headers.iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII")));
        let fields = format!("{:#?}", by_name(fields));
        assert_eq!(Some(fields), first, "{place}");
    }
}

/// Bytes of the large body with this number.
fn numbered(number: usize, len: usize) -> String {
    let letter =
        |at: usize| char::from(b'a' + u8::try_from((at / 11 + number * 5) % 26).expect("26"));
    (0..len).map(letter).collect()
}

/// A client gets the response that was stored when it asked, however slowly it reads: the store has
/// dropped that response meanwhile, and others take its memory, from which the kernel still sends.
#[tokio::test]
async fn slow_clients_get_the_response_that_was_stored_when_they_asked() {
    const ROUNDS: usize = 12;
    let seed = crate::support::seed::drawn();
    let mut dice = fastrand::Rng::with_seed(seed);
    let lens: Vec<_> = (0..ROUNDS).map(|_| dice.usize(33_000..2_000_000)).collect();
    let fresh = ("cache-control", "max-age=600");
    let origin = FixedOrigin::start(200, &[fresh], "").await;
    let gateway = Front::to(&origin)
        .with("cache: { memory: 16MiB, max_object: 4MiB }")
        .route("cache: {}")
        .start()
        .await;
    let mut begun = Vec::new();
    for (number, len) in lens.iter().enumerate() {
        let body = numbered(number, *len);
        origin.settings().set(200, &[fresh], &body);
        let mut filler = gateway.connect().await;
        let response = filler.send(&get("/a")).await.expect("a response");
        assert_eq!(response.header("x-cache-status"), Some("MISS"));
        for _ in 0..3 {
            let mut client = gateway.connect().await;
            let headers = client.start(&get("/a")).await.expect("headers");
            assert_eq!(headers.header("x-cache-status"), Some("HIT"), "seed {seed}");
            begun.push((client, headers, number));
        }
        assert_eq!(gateway.purge(&json!({ "all": true })).await.0, 200);
    }
    dice.shuffle(&mut begun);
    for (mut client, headers, number) in begun {
        let response = client.finish(headers).await.expect("the body");
        let is_same = response.body == numbered(number, lens[number]);
        assert!(is_same, "seed {seed}: another body than number {number}");
    }
}
