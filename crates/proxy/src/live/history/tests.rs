//! The history of requests against a list of all of them.

use std::time::Duration;

use edgeway_core::chain::{FixedFields, Text};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A request of the tests.
#[derive(Clone, Debug)]
struct Ended {
    millis: u64,
    status: u16,
    reason: Option<&'static str>,
    path: String,
}

fn push(history: &RequestHistory, ended: &Ended) {
    let mut request = LoggedRequest {
        fixed: FixedFields {
            ended: UNIX_EPOCH + Duration::from_millis(ended.millis),
            status: ended.status,
            reason: ended.reason,
            ..FixedFields::default()
        },
        texts: [None; Text::COUNT],
    };
    request.texts[Text::Path as usize] = Some(ended.path.as_bytes());
    history.push(&request, &NOTHING);
}

fn query(text: &str) -> RequestQuery {
    let request = http::Request::get(format!("/?{text}")).body(()).unwrap();
    axum::extract::Query::try_from_uri(request.uri()).unwrap().0
}

fn paths(lines: &[u8]) -> Vec<String> {
    let lines = lines.split_inclusive(|b| *b == b'\n');
    lines
        .map(|line| {
            assert!(line.ends_with(b"}\n"));
            let read: Value = serde_json::from_slice(line).unwrap();
            read["path"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn taken(follower: &mut Follower) -> (Vec<String>, u64) {
    let taken = follower.take();
    let lines: Vec<u8> = taken.lines.into_iter().flat_map(|line| line.json).collect();
    (paths(&lines), taken.missed)
}

fn plain(number: u64) -> Ended {
    Ended {
        millis: 1000 + number,
        status: 200,
        reason: None,
        path: format!("/{number}"),
    }
}

fn names(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("/{number}")).collect()
}

#[test]
fn traffic_and_refusals_push_no_error_out() {
    let history = RequestHistory::with_capacity(10);
    let error = Ended {
        status: 502,
        path: "/error".to_owned(),
        ..plain(0)
    };
    push(&history, &error);
    for number in 1..1000 {
        push(&history, &plain(number));
        let refused = Ended {
            status: 429,
            reason: Some("rate_limited"),
            ..plain(number)
        };
        push(&history, &refused);
    }
    assert_eq!(paths(&history.latest(&query("errors=true"))), ["/error"]);
    assert_eq!(
        paths(&history.latest(&query("reason=rate_limited"))),
        names(990..1000)
    );
    assert_eq!(
        paths(&history.latest(&query("status=200&n=3"))),
        names(997..1000)
    );
}

#[test]
fn a_follower_takes_each_request_once_and_learns_how_many_it_missed() {
    let history = Arc::new(RequestHistory::with_capacity(10));
    push(&history, &plain(0));
    let mut follower = history.follow(query(""), None).unwrap();
    for number in 1..5 {
        push(&history, &plain(number));
    }
    assert_eq!(taken(&mut follower), (names(1..5), 0));
    assert_eq!(taken(&mut follower), (vec![], 0));
    for number in 5..30 {
        push(&history, &plain(number));
    }
    assert_eq!(taken(&mut follower), (names(20..30), 15));
    // Another one begins with full rings, and misses nothing.
    let mut follower = history.follow(query(""), None).unwrap();
    push(&history, &plain(30));
    assert_eq!(taken(&mut follower), (names(30..31), 0));
}

#[test]
fn a_follower_that_comes_back_late_learns_that_it_missed_requests() {
    let history = Arc::new(RequestHistory::with_capacity(10));
    for number in 0..30 {
        push(&history, &plain(number));
    }
    let after = |number: u64| Some((1000 + number) * 1000);
    let mut late = history.follow(query(""), after(12)).unwrap();
    assert_eq!(taken(&mut late), (names(20..30), 1));
    let mut soon = history.follow(query(""), after(19)).unwrap();
    assert_eq!(taken(&mut soon), (names(20..30), 0));
}

#[test]
fn a_follower_of_errors_misses_none_of_the_others() {
    let history = Arc::new(RequestHistory::with_capacity(10));
    for number in 0..30 {
        push(&history, &plain(number));
    }
    let after = Some((1000 + 12) * 1000);
    for text in ["errors=true", "reason=rate_limited"] {
        let mut late = history.follow(query(text), after).unwrap();
        assert_eq!(taken(&mut late), (vec![], 0), "{text}");
    }
}

#[test]
fn a_follower_that_is_lost_while_one_ring_is_far_behind_continues_without_a_gap() {
    let history = Arc::new(RequestHistory::with_capacity(2000));
    let mut follower = history.follow(query(""), None).unwrap();
    let number = 2 * BATCH + 100;
    for number in 0..number {
        push(&history, &plain(number));
    }
    let error = Ended {
        status: 502,
        ..plain(number)
    };
    push(&history, &error);
    let first = follower.take();
    let last = first.lines.last().unwrap().id();
    drop(follower);
    let mut again = history.follow(query(""), Some(last)).unwrap();
    let (rest, missed) = taken(&mut again);
    assert_eq!(missed, 0);
    assert_eq!(
        first.lines.len() + rest.len(),
        usize::try_from(number).unwrap() + 1
    );
}

#[test]
fn a_follower_begins_with_the_last_ones_or_continues_after_one() {
    let history = Arc::new(RequestHistory::with_capacity(10));
    for number in 0..20 {
        push(&history, &plain(number));
    }
    let mut follower = history.follow(query("n=3"), None).unwrap();
    assert_eq!(taken(&mut follower), (names(17..20), 0));
    let after = Some((1000 + 15) * 1000);
    let mut follower = history.follow(query("n=3"), after).unwrap();
    assert_eq!(taken(&mut follower), (names(16..20), 0));
    // A wall clock that is set back hides nothing that ends from now on.
    push(&history, &plain(5));
    assert_eq!(taken(&mut follower), (names(5..6), 0));
}

#[test]
fn followers_are_limited() {
    let history = Arc::new(RequestHistory::with_capacity(10));
    let mut all: Vec<Follower> = (0..FOLLOWERS)
        .map(|_| history.follow(query(""), None).unwrap())
        .collect();
    assert!(history.follow(query(""), None).is_none());
    all.pop();
    assert!(history.follow(query(""), None).is_some());
}

proptest! {
    /// Invariant: what is listed are the last requests that match, of those that are kept.
    #[test]
    fn the_last_ones_that_match_are_listed(
        statuses in proptest::collection::vec((200u16..600, any::<bool>()), 0..60),
        n in 0usize..30,
        class in 2u16..6,
    ) {
        let (history, kept) = (RequestHistory::with_capacity(20), 20);
        let all: Vec<Ended> = (0..).zip(statuses).map(|(number, (status, is_refused))| Ended {
            status,
            reason: is_refused.then_some("banned"),
            ..plain(number)
        }).collect();
        for ended in &all {
            push(&history, ended);
        }
        let mut expected: Vec<&Ended> = Vec::new();
        for kind in [
            |ended: &&Ended| ended.status >= 500,
            |ended: &&Ended| ended.status < 500 && ended.reason.is_some(),
            |ended: &&Ended| ended.status < 500 && ended.reason.is_none(),
        ] {
            expected.extend(all.iter().rev().filter(kind).take(kept));
        }
        expected.retain(|ended| ended.status / 100 == class);
        expected.sort_by_key(|ended| ended.millis);
        let surplus = expected.len().saturating_sub(n);
        let expected: Vec<String> = expected[surplus..].iter().map(|e| e.path.clone()).collect();
        let listed = history.latest(&query(&format!("n={n}&status={class}xx")));
        prop_assert_eq!(paths(&listed), expected);
    }
}

#[test]
fn queries_choose_by_each_field() {
    let history = RequestHistory::with_capacity(10);
    let mut request = LoggedRequest {
        fixed: FixedFields {
            client: "192.0.2.7".parse().unwrap(),
            status: 503,
            reason: Some("no_backend"),
            total: Duration::from_millis(250),
            ..FixedFields::default()
        },
        texts: [None; Text::COUNT],
    };
    for (text, value) in [
        (Text::Method, "POST"),
        (Text::Host, "shop.example.com:8080"),
        (Text::Path, "/api/x"),
        (Text::Route, "api"),
        (Text::Upstream, "web"),
        (Text::Backend, "127.0.0.1:3000"),
        (Text::Id, "abc"),
        (Text::User, "ann"),
        (Text::Limit, "edge"),
    ] {
        request.texts[text as usize] = Some(value.as_bytes());
    }
    history.push(&request, &NOTHING);
    let count = |text: &str| paths(&history.latest(&query(text))).len();
    for text in [
        "",
        "n=1",
        "errors=true",
        "status=503",
        "status=5xx",
        "client=192.0.2.7",
        "client=192.0.2.0/24",
        "slower=250ms",
        "method=post",
        "host=shop.example.com",
        "host=Shop.example.com:8080",
        "path=/api",
        "route=api",
        "upstream=web",
        "backend=127.0.0.1:3000",
        "reason=no_backend",
        "id=abc",
        "user=ann",
        "limit=edge",
        "errors=false&route=api&status=404,503",
    ] {
        assert_eq!(count(text), 1, "{text}");
    }
    for text in [
        "n=0",
        "status=404",
        "client=192.0.2.8",
        "slower=251ms",
        "method=GET",
        "host=shop",
        "path=/ap1",
        "route=ap",
        "route=-",
        "upstream=we",
        "backend=x",
        "reason=x",
        "id=ab",
        "user=bob",
        "limit=x",
        "cache=HIT",
        "route=api&status=404",
    ] {
        assert_eq!(count(text), 0, "{text}");
    }
}

#[test]
fn a_query_that_cannot_be_read_is_an_error() {
    for (text, expected) in [
        ("colour=red", "unknown field `colour`"),
        ("status=abc", "invalid status `abc`"),
        ("client=here", "invalid network `here`"),
        ("slower=soon", "soon"),
        ("n=many", "n"),
        ("errors=perhaps", "errors"),
    ] {
        let uri: http::Uri = format!("/?{text}").parse().unwrap();
        let read = axum::extract::Query::<RequestQuery>::try_from_uri(&uri);
        let error = edgeway_base::error::chain(&read.unwrap_err());
        assert!(error.contains(expected), "{text}: {error}");
    }
}
