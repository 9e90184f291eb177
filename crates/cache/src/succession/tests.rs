//! Tests of a transfer from one store to another, through a pipe in memory.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncWriteExt, duplex};

use super::*;
use crate::{
    base::{clock::Clock, metrics::Metrics},
    key::Key,
    policy::{Lifetime, SentHeaders, Variance, Vary},
    purge::{Purge, PurgeEffect, PurgeTarget},
    store::{Entry, EntryDraft, EntryRules, RouteRules, Store},
};

const MIB: u64 = 1 << 20;

struct Process {
    store: &'static Store,
    clock: Clock,
}

fn process(clock: &Clock, budget: u64) -> Process {
    Process {
        store: Store::new(budget, clock.clone(), &Metrics::default()),
        clock: clock.clone(),
    }
}

fn key(path: &str) -> Key {
    Key::new("https", "shop", path.as_bytes(), None, b"upstream: a")
}

fn headers(name: &'static str, value: &str) -> HeaderMap {
    let name = HeaderName::from_static(name);
    [(name, HeaderValue::from_str(value).unwrap())]
        .into_iter()
        .collect()
}

fn tag(name: &str) -> Purge {
    Purge {
        target: PurgeTarget::Tag(name.to_owned()),
        effect: PurgeEffect::Hard,
    }
}

fn about(route: &str) -> EntryRules {
    let route = RouteRules {
        name: route.into(),
        max_object: 8 * MIB,
        quota: None,
        keeps_private: false,
        rules: None,
    };
    EntryRules {
        route: Arc::new(route),
        tags: Box::default(),
        is_compressible: false,
    }
}

impl Process {
    fn draft(&self, path: &str) -> EntryDraft {
        EntryDraft {
            key: key(path),
            status: StatusCode::OK,
            headers: headers("etag", "\"1\""),
            lifetime: Lifetime {
                response_time: self.clock.wall(),
                initial_age: Duration::from_secs(7),
                fresh_for: Duration::from_mins(5),
                stale_while_revalidate: Duration::ZERO,
                stale_if_error: Duration::ZERO,
                always_validate: false,
                must_revalidate: false,
            },
            vary: Vary::Nothing,
            variance: Variance::default(),
            about: EntryRules {
                tags: [path[1..].into(), "every".into()].into(),
                ..about("shop")
            },
            mark: self.store.mark(),
        }
    }

    fn keep(&self, path: &str, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        assert!(self.store.insert(&self.draft(path), &[body]).is_some());
    }

    fn find_for(&self, path: &str, request: &HeaderMap) -> Option<Arc<Entry>> {
        let found = self.store.find(&key(path), SentHeaders::whole(request));
        found.entry
    }

    fn find(&self, path: &str) -> Option<Arc<Entry>> {
        self.find_for(path, &HeaderMap::new())
    }

    fn body(&self, path: &str) -> Option<String> {
        let entry = self.find(path)?;
        let segments = entry.body.whole()?.concat();
        String::from_utf8(segments).ok()
    }
}

/// All routes but `gone` store their responses.
fn routes(name: &str) -> Option<EntryRules> {
    (name != "gone").then(|| about(name))
}

async fn hand_over(old: &Process, successor: InheritingStore) -> (TransferTotals, io::Result<()>) {
    let (writing, reading) = duplex(1000);
    let giving = give(old.store, &old.clock, writing);
    let taking = successor.take(&old.clock, reading, Arc::new(routes));
    let (given, taken) = tokio::join!(giving, taking);
    match given {
        Ok(given) => assert_eq!(given.entries, taken.0.entries + taken.0.left_out),
        // A successor without room stops reading.
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
    }
    taken
}

#[tokio::test]
async fn a_successor_serves_the_stored_responses() {
    let clock = Clock::test();
    let (old, new) = (process(&clock, 64 * MIB), process(&clock, 64 * MIB));
    for n in 0..50 {
        old.keep(&format!("/{n}"), &format!("body {n}"));
    }
    for language in ["de", "en"] {
        let request = headers("accept-language", language);
        let vary = Vary::parse(&headers("vary", "accept-language"));
        let draft = EntryDraft {
            variance: vary.variance(&request),
            vary,
            ..old.draft("/in")
        };
        let body = Bytes::copy_from_slice(language.as_bytes());
        assert!(old.store.insert(&draft, &[body]).is_some());
    }
    let purged = EntryDraft {
        about: about("gone"),
        ..old.draft("/gone")
    };
    assert!(old.store.insert(&purged, &[]).is_some());
    // A fill in progress is not a stored response yet.
    let fill = old.store.begin(&old.draft("/growing"));
    clock.advance(Duration::from_secs(10));

    let (moved, outcome) = hand_over(&old, InheritingStore::new(new.store)).await;
    outcome.unwrap();
    assert_eq!((moved.entries, moved.left_out), (52, 1));
    for n in 0..50 {
        assert_eq!(new.body(&format!("/{n}")), Some(format!("body {n}")));
    }
    let entry = new.find("/7").unwrap();
    assert_eq!(entry.lifetime().age(clock.wall()), Duration::from_secs(17));
    assert_eq!(entry.headers(), headers("etag", "\"1\""));
    for language in ["de", "en"] {
        let request = headers("accept-language", language);
        let entry = new.find_for("/in", &request).unwrap();
        assert_eq!(entry.body.whole().unwrap().concat(), language.as_bytes());
    }
    assert!(new.find("/gone").is_none());
    assert!(new.find("/growing").is_none());
    assert_eq!(new.store.purge(&tag("7")), 1);
    assert!(new.find("/7").is_none());
    drop(fill);
}

#[tokio::test]
async fn a_purge_wins_whenever_it_comes() {
    let clock = Clock::test();
    let (old, new) = (process(&clock, 64 * MIB), process(&clock, 64 * MIB));
    let successor = InheritingStore::new(new.store);
    for path in ["/before", "/at-both", "/at-successor", "/after", "/stays"] {
        old.keep(path, "old");
    }
    old.store.purge(&tag("before"));
    new.store.purge(&tag("at-successor"));
    new.store.remove(&key("/at-both"));
    let (moved, outcome) = hand_over(&old, successor).await;
    outcome.unwrap();
    assert_eq!((moved.entries, moved.left_out), (2, 2));
    new.store.purge(&tag("after"));
    for path in ["/before", "/at-both", "/at-successor", "/after"] {
        assert!(new.find(path).is_none(), "{path}");
    }
    assert_eq!(new.body("/stays").as_deref(), Some("old"));
    // The control: with a later mark the entries come back.
    let (moved, _) = hand_over(&old, InheritingStore::new(new.store)).await;
    assert_eq!(moved.entries, 3);
    assert!(new.find("/at-successor").is_some());
}

#[tokio::test]
async fn responses_fetched_by_the_successor_itself_stay() {
    let clock = Clock::test();
    let (old, new) = (process(&clock, 64 * MIB), process(&clock, 64 * MIB));
    old.keep("/a", "old");
    clock.advance(Duration::from_secs(1));
    let successor = InheritingStore::new(new.store);
    new.keep("/a", "new");
    let (moved, outcome) = hand_over(&old, successor).await;
    outcome.unwrap();
    assert_eq!((moved.entries, moved.left_out), (0, 1));
    assert_eq!(new.body("/a").as_deref(), Some("new"));
}

#[tokio::test]
async fn a_smaller_successor_takes_the_most_requested_entries() {
    let clock = Clock::test();
    let (old, new) = (process(&clock, 64 * MIB), process(&clock, 4 * MIB));
    let body = "x".repeat(100_000);
    for n in 0..200 {
        old.keep(&format!("/{n}"), &body);
    }
    let requested = || (0..200).step_by(10).map(|n| format!("/{n}"));
    for path in requested() {
        old.find(&path).unwrap();
    }
    let (moved, outcome) = hand_over(&old, InheritingStore::new(new.store)).await;
    outcome.unwrap();
    assert!((30..=41).contains(&moved.entries), "{moved:?}");
    assert!(moved.bytes < 8 * MIB, "{moved:?}");
    assert!(new.store.bytes() <= 4 * MIB);
    for path in requested() {
        assert!(new.find(&path).is_some(), "{path}");
    }
    // The hits come along: they are not the first to be evicted.
    for n in 0..200 {
        new.keep(&format!("/new/{n}"), &body);
    }
    let left = requested().filter(|path| new.find(path).is_some()).count();
    assert!(left > 10, "{left}");
}

#[tokio::test]
async fn a_truncated_transfer_keeps_the_complete_entries() {
    let clock = Clock::test();
    let (old, new) = (process(&clock, 64 * MIB), process(&clock, 64 * MIB));
    for n in 0..10 {
        old.keep(&format!("/{n}"), &"x".repeat(1000));
    }
    let mut all = Vec::new();
    let given = give(old.store, &clock, &mut all).await.unwrap();
    assert_eq!(given.bytes, (all.len() - LENGTH) as u64);
    let half = &all[..all.len() / 2];
    let successor = InheritingStore::new(new.store);
    let (moved, outcome) = successor.take(&clock, half, Arc::new(routes)).await;
    assert_eq!(
        outcome.map_err(|error| error.kind()),
        Err(io::ErrorKind::UnexpectedEof)
    );
    assert_eq!((moved.entries, new.store.objects()), (5, 5));
}

#[tokio::test]
async fn invalid_entries_are_skipped_or_end_the_transfer() {
    let clock = Clock::test();
    let (old, new) = (process(&clock, 64 * MIB), process(&clock, 64 * MIB));
    old.keep("/a", "a");
    old.keep("/b", "b");
    let mut all = Vec::new();
    give(old.store, &clock, &mut all).await.unwrap();
    let take = async |bytes: &[u8]| {
        let successor = InheritingStore::new(new.store);
        successor.take(&clock, bytes, Arc::new(routes)).await
    };
    // One byte of a body is changed, and the length of a route's name is too large.
    let mut damaged = all.clone();
    let end = damaged.len() - LENGTH - 1;
    damaged[end] ^= 1;
    damaged[LENGTH + 1] = 0xff;
    let (moved, outcome) = take(&damaged).await;
    outcome.unwrap();
    assert_eq!((moved.entries, moved.left_out), (0, 2));
    for start in [[0xff; 4], [0, 0, 0, 1]] {
        let (moved, outcome) = take(&start).await;
        assert_eq!(
            outcome.map_err(|error| error.kind()),
            Err(io::ErrorKind::InvalidData)
        );
        assert_eq!(moved.entries, 0);
    }
    assert_eq!(new.store.objects(), 0);
}

#[tokio::test]
async fn a_transfer_without_a_reader_ends_with_an_error() {
    let clock = Clock::test();
    let old = process(&clock, 64 * MIB);
    old.keep("/a", "a");
    let (mut writing, reading) = duplex(10);
    writing.write_all(b"x").await.unwrap();
    drop(reading);
    let given = give(old.store, &clock, writing).await;
    assert_eq!(
        given.map_err(|error| error.kind()),
        Err(io::ErrorKind::BrokenPipe)
    );
}
