//! Entries outside of memory, what is remembered of purges, and what waits.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use proptest::{collection::vec, prelude::*};

use super::{
    coded::{self, Damage},
    queue::Queue,
    stamps::{self, Digest, Subject},
    *,
};
use crate::cache::{
    policy::{Lifetime, Variance, Vary},
    purge::What,
    store::{Draft, Target},
};

const MIB: u64 = 1 << 20;

fn store() -> (&'static Store, Clock) {
    let clock = Clock::test();
    let store = Store::new(64 * MIB, clock.clone(), &Metrics::default());
    (store, clock)
}

fn about() -> About {
    About {
        route: "r".into(),
        tags: Box::default(),
        max_object: 8 * MIB,
        is_compressible: true,
        quota: None,
    }
}

fn draft(store: &Store, clock: &Clock, key: &Key) -> Draft {
    Draft {
        key: key.clone(),
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        lifetime: Lifetime {
            answered: clock.wall(),
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

fn put(draft: &Draft, body: &[u8]) -> Arc<Entry> {
    let (store, _) = store();
    let body = Bytes::copy_from_slice(body);
    let draft = Draft {
        mark: store.mark(),
        ..draft.clone()
    };
    store.insert(&draft, &[body]).expect("there is room")
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
            answered: clock.wall(),
            initial_age,
            fresh_for,
            stale_while_revalidate,
            stale_if_error,
            always_validate: flags[0],
            must_revalidate: flags[1],
        };
        let entry = put(&draft, &body);
        let bytes = Bytes::from(coded::encode(&entry).unwrap());
        let read = coded::decode(bytes, Some(&key)).unwrap();
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

    #[test]
    fn whatever_is_no_entry_is_refused(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(coded::decode(Bytes::from(bytes), None).is_err());
    }

    /// A purge leaves what finds the entries that it is about, and no others.
    #[test]
    fn stamps_are_about_what_purges_are_about(
        authority in "(shop|a:81)",
        path in "/(x|y|x/y|)",
        query in proptest::option::of("(|a=1|_rsc=2|a=1&_rsc=2|_rsc|b)"),
        tags in vec("(t|u)", 0..3),
        kind in 0..4,
        purged in "((|https://|http://)(shop|SHOP|a:81))?/(x|y|x/y|)(|\\?|\\?a=1|\\?_rsc=3|\\?a)",
    ) {
        let query = query.as_deref().map(str::as_bytes);
        let key = Key::new("https", &authority, path.as_bytes(), query, b"extra");
        let tags: Box<[Box<str>]> = tags.iter().map(|tag| tag.as_str().into()).collect();
        let what = match kind {
            0 => What::Url(purged),
            1 => What::Prefix(purged),
            2 => What::Tag("t".to_owned()),
            _ => What::All,
        };
        let is_about = Target::of(&what).is_about(&key, &tags);
        let found = finds(&Stamp::of(&what), &key, &tags);
        prop_assert_eq!(found, is_about, "{:?} {:?}", what, key);
        prop_assert!(finds(&Stamp::of_key(&key), &key, &tags));
    }
}

/// As the scripts compare.
fn finds(stamp: &Stamp, key: &Key, tags: &[Box<str>]) -> bool {
    let subject = Subject::new(key, tags);
    assert_eq!(subject.part, Subject::part_of(key));
    let has = |digest: &Digest| subject.digests.contains(digest);
    match stamp {
        Stamp::Url { part, digest } => {
            let is_found = has(digest);
            assert!(!is_found || *part == subject.part, "looked for elsewhere");
            is_found
        }
        Stamp::Everywhere(digest) => has(digest),
        Stamp::Prefix(prefix) => {
            let (url, at) = stamps::url(key);
            url.starts_with(prefix) || url[at..].starts_with(prefix)
        }
        Stamp::All => true,
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
fn every_damaged_byte_is_found_out() {
    let (store, clock) = store();
    let page = key("/a");
    let entry = put(&draft(store, &clock, &page), b"a body of some bytes");
    let bytes = coded::encode(&entry).unwrap();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            let read = coded::decode(Bytes::from(damaged), Some(&page));
            assert!(read.is_err(), "byte {at}");
        }
        let cut = Bytes::copy_from_slice(&bytes[..at]);
        assert!(coded::decode(cut, Some(&page)).is_err(), "cut at {at}");
    }
    let long = [&bytes[..], b"x"].concat();
    let long = coded::decode(Bytes::from(long), Some(&page));
    assert_eq!(long.unwrap_err(), Damage::Checksum);
    let other = coded::decode(Bytes::from(bytes.clone()), Some(&key("/b")));
    assert_eq!(other.unwrap_err(), Damage::Key);
    // Keys of version 1 do not say what its routes asked the origin for.
    for version in [0, 1, bytes[0] + 1] {
        let mut other = bytes.clone();
        other[0] = version;
        let other = coded::decode(Bytes::from(other), None);
        assert_eq!(other.unwrap_err(), Damage::Version);
    }
}

#[test]
fn a_queue_is_bounded_by_number_and_by_bytes() {
    let (store, clock) = store();
    let draft = draft(store, &clock, &key("/a"));
    let small = put(&draft, b"x");
    let queue = Queue::default();
    let taken = (0..2000).filter(|_| queue.push(&small)).count();
    assert_eq!(taken, 1024);
    while queue.pop().is_some() {}
    let large = put(&draft, &vec![7; 7 << 20]);
    let taken = (0..10).filter(|_| queue.push(&large)).count();
    assert_eq!(taken, 4);
    // Room is given back byte by byte.
    assert!(queue.pop().is_some());
    assert!(queue.push(&large));
    queue.clear();
    assert!(queue.pop().is_none());
    assert_eq!((0..10).filter(|_| queue.push(&large)).count(), 4);
}

#[tokio::test]
async fn one_asks_and_the_others_wait_for_it() {
    let flights = Flights::default();
    let first = flights.lead(1).await.expect("nobody asks yet");
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
