//! Tests of encoded entries, of stamps and of the queue.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use proptest::{collection::vec, prelude::*};

use super::{
    codec,
    metrics::DiscardReason,
    queue::BoundedQueue,
    stamps::{self, Digest, EntrySubject},
    *,
};
use crate::{
    policy::{CacheRules, Lifetime, Variance, Vary},
    purge::{PurgeMatcher, PurgeTarget, ledger::Noted},
    store::{EntryDraft, RouteRules},
};

const MIB: u64 = 1 << 20;

fn store() -> (&'static Store, Clock) {
    let clock = Clock::test();
    let store = Store::new(64 * MIB, clock.clone(), &Metrics::default());
    (store, clock)
}

fn about() -> EntryRules {
    let route = RouteRules {
        name: "r".into(),
        max_object: 8 * MIB,
        quota: None,
        keeps_private: false,
        rules: None,
    };
    EntryRules {
        route: Arc::new(route),
        tags: Box::default(),
        is_compressible: true,
    }
}

fn draft(store: &Store, clock: &Clock, key: &Key) -> EntryDraft {
    EntryDraft {
        key: key.clone(),
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        lifetime: Lifetime {
            response_time: clock.wall(),
            initial_age: Duration::from_secs(3),
            fresh_for: Duration::from_mins(1),
            stale_while_revalidate: Duration::from_secs(30),
            stale_if_error: Duration::from_millis(1500),
            always_validate: false,
            must_revalidate: true,
        },
        vary: Vary::Nothing,
        variance: Variance::default(),
        about: about(),
        mark: store.mark(),
    }
}

fn key(path: &str) -> Key {
    Key::new("https", "shop", path.as_bytes(), None, b"extra\n")
}

fn put(draft: &EntryDraft, body: &[u8]) -> Arc<Entry> {
    let (store, _) = store();
    let body = Bytes::copy_from_slice(body);
    let draft = EntryDraft {
        mark: store.mark(),
        ..draft.clone()
    };
    store.insert(&draft, &[body]).expect("there is room")
}

/// Invariant: a stored response is fresh and stale at most as long as the rules here allow.
#[test]
fn the_rules_of_the_reader_bound_the_lifetime() {
    let (store, clock) = store();
    let key = key("/a");
    let minutes = |minutes: Option<u64>| CacheRules {
        ttl: minutes.map(Duration::from_mins),
        stale_if_error: Some(Duration::from_mins(9)),
        ..CacheRules::default()
    };
    let read = |control: Option<&'static str>, status: u16, rules: Option<CacheRules>| {
        let mut draft = draft(store, &clock, &key);
        draft.status = StatusCode::from_u16(status).unwrap();
        if let Some(control) = control {
            let control = HeaderValue::from_static(control);
            draft.headers.insert(header::CACHE_CONTROL, control);
        }
        draft.lifetime.fresh_for = Duration::from_hours(1);
        draft.lifetime.stale_if_error = Duration::from_hours(1);
        let bytes = codec::encode(&put(&draft, b"x")).unwrap();
        let mut here = about();
        let route = RouteRules::clone(&here.route);
        here.route = Arc::new(RouteRules {
            rules: rules.map(Box::new),
            ..route
        });
        let read = codec::decode(bytes.into(), Some(&key)).unwrap();
        let lifetime = read.draft(&here, store.mark()).0.lifetime;
        [lifetime.fresh_for, lifetime.stale_if_error].map(|time| time.as_secs() / 60)
    };
    for (control, status, rules, expected) in [
        (None, 200, Some(minutes(Some(2))), [2, 9]),
        (None, 200, Some(minutes(Some(120))), [60, 9]),
        (None, 200, Some(minutes(None)), [0, 0]),
        (None, 500, Some(minutes(Some(2))), [0, 0]),
        (Some("max-age=300"), 200, Some(minutes(None)), [5, 9]),
        (None, 500, None, [60, 60]),
    ] {
        let lifetime = read(control, status, rules);
        assert_eq!(lifetime, expected, "{status} {control:?}");
    }
}

proptest! {
    #[test]
    fn an_entry_is_read_as_it_was_written(
        path in "/[ -~]{0,40}",
        query in proptest::option::of("[a-z=&%]{0,20}"),
        extra in vec(any::<u8>(), 0..30),
        headers in vec(("[a-z][a-z-]{0,10}", vec(0x20_u8..0x7f, 0..30)), 0..10),
        vary in vec("[a-z]{1,8}", 0..4),
        tags in vec("[!-~]{1,12}", 0..5),
        status in 200_u16..600,
        variance in any::<u128>(),
        times in [0_u64..1 << 40, 0..1 << 40, 0..1 << 40, 0..1 << 40],
        flags in [any::<bool>(), any::<bool>(), any::<bool>()],
        body in vec(any::<u8>(), 0..3000),
    ) {
        let (store, clock) = store();
        let query = query.as_deref().map(str::as_bytes);
        let path = path.replace('?', "!");
        let key = Key::new("https", "shop:8443", path.as_bytes(), query, &extra);
        let mut draft = draft(store, &clock, &key);
        draft.status = StatusCode::from_u16(status).unwrap();
        for (name, value) in &headers {
            let name: HeaderName = name.parse().unwrap();
            draft.headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let mut names: Vec<HeaderName> = vary.iter().map(|name| name.parse().unwrap()).collect();
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if !names.is_empty() {
            draft.vary = Vary::Fields(names.into());
        }
        draft.variance = Variance(variance);
        draft.about.is_compressible = flags[2];
        draft.about.tags = tags.iter().map(|tag| tag.as_str().into()).collect();
        let [initial_age, fresh_for, stale_while_revalidate, stale_if_error] =
            times.map(Duration::from_millis);
        draft.lifetime = Lifetime {
            response_time: clock.wall(),
            initial_age,
            fresh_for,
            stale_while_revalidate,
            stale_if_error,
            always_validate: flags[0],
            must_revalidate: flags[1],
        };
        let entry = put(&draft, &body);
        let bytes = Bytes::from(codec::encode(&entry).unwrap());
        let read = codec::decode(bytes, Some(&key)).unwrap();
        let (read, read_body) = read.draft(&about(), store.mark());
        prop_assert_eq!(&read.key, &key);
        prop_assert_eq!(read.status, draft.status);
        prop_assert_eq!(read.headers, draft.headers);
        prop_assert_eq!(read.lifetime, draft.lifetime);
        prop_assert_eq!(read.vary, draft.vary);
        prop_assert_eq!(read.variance, draft.variance);
        prop_assert_eq!(read.about.tags, draft.about.tags);
        prop_assert_eq!(read.about.is_compressible, flags[2]);
        prop_assert_eq!(&read_body[..], &body[..]);
    }

    /// Invariant: the stamps of a purge match the entries that it affects, and no others.
    #[test]
    fn stamps_and_purges_match_the_same_responses(
        authority in "(shop|a:81)",
        path in "/(x|y|x/y|)",
        query in proptest::option::of("(|a=1|_rsc=2|a=1&_rsc=2|_rsc|b)"),
        tags in vec("(t|u)", 0..3),
        kind in 0..5,
        purged in "((|https://|http://)(shop|SHOP|a:81))?/(x|y|x/y|)(|\\?|\\?a=1|\\?_rsc=3|\\?a)",
    ) {
        let query = query.as_deref().map(str::as_bytes);
        let key = Key::new("https", &authority, path.as_bytes(), query, b"extra");
        let tags: Box<[Box<str>]> = tags.iter().map(|tag| tag.as_str().into()).collect();
        let target = match kind {
            0 => PurgeTarget::Url(purged),
            1 => PurgeTarget::Prefix(purged),
            2 => PurgeTarget::Tag("t".to_owned()),
            3 => PurgeTarget::Written(format!("http://shop{}", purged.trim_start_matches("https://").trim_start_matches("http://").trim_start_matches(|c| c != '/'))),
            _ => PurgeTarget::All,
        };
        let is_about = PurgeMatcher::new(&target).is_about(&key, &tags);
        let stamps = Stamp::for_target(&target);
        let found = stamps.iter().any(|stamp| finds(stamp, &key, &tags));
        prop_assert_eq!(found, is_about, "{:?} {:?}", target, key);
        prop_assert!(finds(&Stamp::of_key(&key), &key, &tags));
    }
}

/// Compares as the scripts do.
fn finds(stamp: &Stamp, key: &Key, tags: &[Box<str>]) -> bool {
    let subject = EntrySubject::new(key, tags);
    assert_eq!(subject.part, EntrySubject::part_of(key));
    let has = |digest: &Digest| subject.digests.contains(digest);
    match stamp {
        Stamp::Url { part, digest } => {
            let is_found = has(digest);
            assert!(!is_found || *part == subject.part, "looked for elsewhere");
            is_found
        }
        Stamp::Everywhere(digest) => has(digest),
        Stamp::Prefix(prefix) => {
            key.without_scheme().starts_with(prefix) || key.target().starts_with(prefix)
        }
        Stamp::Region(_) => has(&stamp.id().unwrap()),
        Stamp::All => true,
        Stamp::Written(written) => {
            let is_found = has(&written.digest());
            assert!(
                !is_found || written.place == stamps::place(key),
                "looked for elsewhere"
            );
            is_found
        }
    }
}

#[test]
fn the_unsafe_request_of_one_origin_leaves_others_alone() {
    let stamp = Stamp::of_key(&key("/x"));
    let other = |scheme, authority| Key::new(scheme, authority, b"/x", None, b"");
    assert!(finds(&stamp, &other("https", "shop"), &[]));
    assert!(!finds(&stamp, &other("http", "shop"), &[]));
    assert!(!finds(&stamp, &other("https", "other"), &[]));
}

#[test]
fn every_damaged_byte_is_detected() {
    let (store, clock) = store();
    let page = key("/a");
    let entry = put(&draft(store, &clock, &page), b"a body of some bytes");
    let bytes = codec::encode(&entry).unwrap();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            let read = codec::decode(Bytes::from(damaged), Some(&page));
            assert!(read.is_err(), "byte {at}");
        }
        let truncated = Bytes::copy_from_slice(&bytes[..at]);
        assert!(
            codec::decode(truncated, Some(&page)).is_err(),
            "truncated at {at}"
        );
    }
    let long = [&bytes[..], b"x"].concat();
    let long = codec::decode(Bytes::from(long), Some(&page));
    assert_eq!(long.unwrap_err(), DiscardReason::Damaged);
    let other = codec::decode(Bytes::from(bytes.clone()), Some(&key("/b")));
    assert_eq!(other.unwrap_err(), DiscardReason::Key);
    // Keys of version 1 lack what their routes sent to the origin.
    for version in [0, 1, bytes[0] + 1] {
        let mut other = bytes.clone();
        other[0] = version;
        let other = codec::decode(Bytes::from(other), None);
        assert_eq!(other.unwrap_err(), DiscardReason::Version);
    }
}

/// An entry in parts, so that tests can build ones that no gateway would.
#[derive(Clone, Debug, serde::Serialize)]
struct AnyHead {
    key: Vec<u8>,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    times: [u64; 5],
    flags: [bool; 2],
    vary: Vec<String>,
    variance: u128,
    tags: Vec<String>,
    is_compressible: bool,
}

impl AnyHead {
    fn new() -> Self {
        Self {
            key: key("/a").as_bytes().to_vec(),
            status: 200,
            headers: vec![("content-type".to_owned(), b"text/html".to_vec())],
            times: [1_700_000_000_000, 0, 60_000, 0, 0],
            flags: [false, false],
            vary: Vec::new(),
            variance: 0,
            tags: Vec::new(),
            is_compressible: false,
        }
    }

    /// Encodes the entry with a correct checksum, and with this length of the metadata if one is
    /// given.
    fn entry(&self, body: &[u8], head_len: Option<u32>) -> Bytes {
        let head = postcard::to_allocvec(self).unwrap();
        let len = head_len.unwrap_or(u32::try_from(head.len()).unwrap());
        let rest = [&len.to_be_bytes()[..], &head, body].concat();
        let checksum = crc32fast::hash(&rest).to_be_bytes();
        [&[codec::VERSION][..], &checksum, &rest].concat().into()
    }
}

/// Checks that a decoded entry is no larger than an entry can be.
#[track_caller]
fn assert_bounded(decoded: &codec::Decoded) {
    assert!(decoded.headers.len() <= 1024 && decoded.tags.len() <= 1024);
    let spans = [decoded.lifetime.fresh_for, decoded.lifetime.initial_age];
    assert!(
        spans
            .iter()
            .all(|span| *span <= Duration::from_secs(1 << 31))
    );
    assert!(decoded.key.as_bytes().len() <= codec::MAX_HEAD);
}

/// Invariant: whatever the bytes, and whichever program wrote them, reading an entry neither panics
/// nor returns one that is larger than a gateway would write.
#[test]
fn altered_entries_are_refused_or_within_bounds() {
    let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
    let page = key("/a");
    let (mut read, mut refused) = (0, 0);
    for _ in 0..edgeway_testkit::cases(1000, 20_000) {
        let mut head = AnyHead::new();
        for _ in 0..random.usize(1..4) {
            let many = [0, 1, 3, 1024, 1025, 3000][random.usize(..6)];
            let text = |random: &mut fastrand::Rng| -> String {
                let len = random.usize(..12);
                (0..len).map(|_| char::from(random.u8(..128))).collect()
            };
            match random.u8(..9) {
                0 => head.status = random.u16(..),
                1 => {
                    let name = text(&mut random);
                    let value = text(&mut random).into_bytes();
                    head.headers
                        .extend((0..many).map(|_| (name.clone(), value.clone())));
                }
                2 => {
                    head.headers
                        .extend((0..many).map(|n| (format!("x-{n}"), Vec::new())));
                }
                3 => head.times[random.usize(..5)] = random.u64(..) >> random.u8(..64),
                4 => head.vary = (0..many).map(|_| text(&mut random)).collect(),
                5 => head.tags = (0..many).map(|_| text(&mut random)).collect(),
                6 if !head.key.is_empty() => {
                    let at = random.usize(..head.key.len());
                    head.key[at] = random.u8(..);
                }
                7 => head.key = text(&mut random).into_bytes(),
                _ => head.variance = random.u128(..),
            }
        }
        let len = (random.u8(..8) == 0).then(|| random.u32(..) >> random.u8(..32));
        let wanted = random.bool().then_some(&page);
        match codec::decode(head.entry(b"body", len), wanted) {
            Ok(decoded) => {
                assert_bounded(&decoded);
                let _is_storable = decoded.may_be_stored(random.bool());
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
}

#[test]
fn an_object_with_forty_thousand_headers_is_out_of_bounds() {
    let mut head = AnyHead::new();
    assert!(codec::decode(head.entry(b"x", None), Some(&key("/a"))).is_ok());
    for count in [1025, 20_000, 40_000, 70_000] {
        head.headers = (0..count).map(|n| (format!("x{n}"), Vec::new())).collect();
        let read = codec::decode(head.entry(b"x", None), Some(&key("/a")));
        assert_eq!(read.unwrap_err(), DiscardReason::Bounds, "{count}");
    }
}

#[test]
fn responses_that_no_shared_cache_may_store_are_not_taken_from_others() {
    let storable = |name: &str, value: &str, keeps_private| {
        let mut head = AnyHead::new();
        head.headers
            .push((name.to_owned(), value.as_bytes().to_vec()));
        let decoded = codec::decode(head.entry(b"body", None), None).unwrap();
        decoded.may_be_stored(keeps_private)
    };
    for (name, value) in [
        ("set-cookie", "a=b"),
        ("set-cookie2", "a=b"),
        ("vary", "*"),
        ("content-type", "text/event-stream"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("content-length", "5"),
    ] {
        let is_storable = storable(name, value, true);
        // The first `Content-Type` counts.
        assert_eq!(is_storable, name == "content-type", "{name}: {value}");
    }
    for directives in ["private", "no-store", "private=\"x\", max-age=9"] {
        assert!(
            !storable("cache-control", directives, false),
            "{directives}"
        );
        assert!(storable("cache-control", directives, true), "{directives}");
    }
    assert!(storable("content-length", "4", false) && storable("vary", "accept", false));
    let mut part = AnyHead::new();
    part.status = 206;
    let part = codec::decode(part.entry(b"", None), None).unwrap();
    assert!(!part.may_be_stored(true));
}

#[test]
fn a_queue_is_bounded_by_number_and_by_bytes() {
    let (store, clock) = store();
    let draft = draft(store, &clock, &key("/a"));
    let small = put(&draft, b"x");
    let queue = BoundedQueue::default();
    let taken = (0..2000).filter(|_| queue.push(&small)).count();
    assert_eq!(taken, 1024);
    while queue.pop().is_some() {}
    let large = put(&draft, &vec![7; 7 << 20]);
    let taken = (0..10).filter(|_| queue.push(&large)).count();
    assert_eq!(taken, 4);
    // Room is freed by bytes.
    assert!(queue.pop().is_some());
    assert!(queue.push(&large));
    queue.clear();
    assert!(queue.pop().is_none());
    assert_eq!((0..10).filter(|_| queue.push(&large)).count(), 4);
}

#[tokio::test]
async fn one_lookup_runs_and_the_others_wait_for_it() {
    let flights = LookupsInFlight::default();
    let first = flights.lead(1).await.expect("no lookup runs yet");
    let other = flights.lead(2).await;
    assert!(other.is_some());
    let waiting = async { flights.lead(1).await.is_none() };
    let end = async {
        tokio::task::yield_now().await;
        drop(first);
    };
    let (has_waited, ()) = tokio::join!(waiting, end);
    assert!(has_waited);
    assert!(flights.lead(1).await.is_some());
}
