//! Tests of the whole store: lookups, eviction and accounting.

mod model;
mod pingora_storage;
mod races;

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::*;
use crate::purge::PurgeTarget;

pub(super) const MIB: u64 = 1024 * 1024;

pub(super) struct Bench {
    pub(super) store: &'static Store,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
}

pub(super) fn bench(budget: u64) -> Bench {
    let (clock, metrics) = (Clock::test(), Metrics::default());
    let store = Store::new(budget, clock.clone(), &metrics);
    Bench {
        store,
        clock,
        metrics,
    }
}

pub(super) fn key(target: &str) -> Key {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (target, None),
    };
    Key::new("https", "shop", path.as_bytes(), query, b"")
}

pub(super) fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    fields.iter().map(field).collect()
}

impl Bench {
    pub(super) fn draft(&self, key: &Key) -> EntryDraft {
        EntryDraft {
            key: key.clone(),
            status: StatusCode::OK,
            headers: headers(&[("content-type", "text/html"), ("etag", "\"1\"")]),
            lifetime: Lifetime {
                response_time: self.clock.wall(),
                initial_age: Duration::ZERO,
                fresh_for: Duration::from_mins(1),
                stale_while_revalidate: Duration::from_secs(30),
                stale_if_error: Duration::from_mins(5),
                always_validate: false,
                must_revalidate: false,
            },
            vary: Vary::Nothing,
            variance: Variance::default(),
            about: EntryRules {
                route: "r".into(),
                tags: Box::default(),
                max_object: 8 * MIB,
                is_compressible: true,
                quota: None,
                keeps_private: false,
            },
            mark: self.store.mark(),
        }
    }

    pub(super) fn tagged(&self, key: &Key, tags: &[&str]) -> EntryDraft {
        let mut draft = self.draft(key);
        draft.about.tags = tags.iter().map(|tag| (*tag).into()).collect();
        draft
    }

    pub(super) fn varied(&self, key: &Key, field: &'static str, value: &str) -> EntryDraft {
        let mut draft = self.draft(key);
        draft.vary = Vary::of(&headers(&[("vary", field)]));
        draft.variance = draft.vary.variance(&headers(&[(field, value)]));
        draft
    }

    pub(super) fn put(&self, draft: &EntryDraft, body: &[u8]) -> Option<Arc<Entry>> {
        self.store.insert(draft, &[Bytes::copy_from_slice(body)])
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.store
            .find(key, SentHeaders::whole(&HeaderMap::new()))
            .entry
    }

    pub(super) fn purge(&self, target: PurgeTarget, effect: PurgeEffect) -> u64 {
        self.store.purge(&Purge { target, effect })
    }

    /// Checks that no entry is left and that nothing is counted that does not exist.
    #[track_caller]
    pub(super) fn expect_empty(&self) {
        let ledger = self.store.ledger;
        assert_eq!(self.store.objects(), 0, "objects");
        assert_eq!(self.store.queues.lock().0.len(), 0, "in queues");
        assert_eq!(self.store.queues.lock().0.bytes(), 0, "bytes in queues");
        assert_eq!(MemoryLedger::get(&ledger.stored), 0, "stored");
        assert_eq!(MemoryLedger::get(&ledger.filling), 0, "filling");
        assert_eq!(self.store.fills.lock().len(), 0, "fills");
        let index = self.store.queues.lock().1.bytes();
        assert_eq!(self.store.bytes(), index, "live");
    }
}

pub(super) async fn read_all(mut reader: Reader) -> Result<Vec<u8>, FillEnd> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next().await? {
        assert!(!bytes.is_empty());
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn a_filled_response_is_found_and_read() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let mut fill = bench.store.begin(&bench.draft(&page));
    let early = bench.get(&page).unwrap();
    assert!(!early.is_complete());
    let reader = read_all(early.body.reader().unwrap());
    fill.write(Bytes::from_static(b"one ")).await.unwrap();
    fill.write(Bytes::from_static(b"two")).await.unwrap();
    let stored = fill.finish().unwrap().unwrap();
    assert_eq!(reader.await, Ok(b"one two".to_vec()));
    assert!(Arc::ptr_eq(&stored, &bench.get(&page).unwrap()));
    assert!(Arc::ptr_eq(&stored, &early));
    assert_eq!(
        read_all(stored.body.reader().unwrap()).await.unwrap(),
        b"one two"
    );
    assert_eq!(stored.headers()[header::ETAG], "\"1\"");
    drop((early, stored));
    assert_eq!(bench.purge(PurgeTarget::All, PurgeEffect::Hard), 1);
    bench.expect_empty();
}

#[tokio::test]
async fn a_dead_writer_is_an_error_to_readers_and_the_old_response_stays() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let old = bench.put(&bench.draft(&page), b"old").unwrap();
    let mut fill = bench.store.begin(&bench.draft(&page));
    fill.write(Bytes::from_static(b"ne")).await.unwrap();
    let early = bench.get(&page).unwrap();
    assert!(!Arc::ptr_eq(&early, &old), "the one under way is preferred");
    let mut reader = early.body.reader().unwrap();
    assert_eq!(reader.next().await, Ok(Some(Bytes::from_static(b"ne"))));
    drop(fill);
    assert_eq!(reader.next().await, Err(FillEnd::Writer));
    assert!(early.body.reader().is_none(), "the rest never comes");
    assert!(Arc::ptr_eq(&bench.get(&page).unwrap(), &old));
}

/// A request may find a response just before it is no longer stored: it must not begin to send it.
#[tokio::test]
async fn only_those_who_can_have_all_of_a_response_read_it() {
    let bench = bench(10 * MIB);
    for is_read in [false, true] {
        let page = key("/a");
        let mut fill = bench.store.begin(&bench.draft(&page));
        let found = bench.get(&page).unwrap();
        let early = is_read.then(|| found.body.reader().unwrap());
        let own = fill.own_reader();
        bench.purge(PurgeTarget::All, PurgeEffect::Hard);
        fill.write(Bytes::from_static(b"one ")).await.unwrap();
        assert_eq!(fill.passed(), Some(NotStoredReason::Purged));
        // As long as another reader has read nothing of it, nothing is gone.
        let late = found.body.reader().unwrap();
        fill.write(Bytes::from_static(b"two")).await.unwrap();
        assert!(fill.finish().unwrap().is_none());
        assert!(found.body.reader().is_none(), "nobody keeps it");
        for reader in [Some(own), early, Some(late)].into_iter().flatten() {
            assert_eq!(read_all(reader).await, Ok(b"one two".to_vec()));
        }
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_dies() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let mut draft = bench.draft(&page);
    draft.headers.insert(header::CONTENT_LENGTH, 3.into());
    let mut fill = bench.store.begin(&draft);
    let reader = fill.own_reader();
    fill.write(Bytes::from_static(b"ab")).await.unwrap();
    let error = FillError::Length {
        came: 2,
        expected: 3,
    };
    assert_eq!(fill.finish().unwrap_err(), error);
    assert_eq!(read_all(reader).await, Err(FillEnd::Writer));
    let mut fill = bench.store.begin(&draft);
    let error = FillError::Length {
        came: 4,
        expected: 3,
    };
    let written = fill.write(Bytes::from_static(b"abcd")).await;
    assert_eq!(written.unwrap_err(), error);
    drop(fill);
    assert!(bench.get(&page).is_none());
    bench.expect_empty();
    let mut fill = bench.store.begin(&draft);
    fill.write(Bytes::from_static(b"abc")).await.unwrap();
    assert!(fill.finish().unwrap().is_some());
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_passed_on_completely_and_not_stored() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let mut draft = bench.draft(&page);
    draft.about.max_object = 100_000;
    let mut fill = bench.store.begin(&draft);
    let own = fill.own_reader();
    let early = bench.get(&page).unwrap().body.reader().unwrap();
    let body: Vec<u8> = (0..=250).cycle().take(3_000_000).collect();
    let written = async {
        for chunk in body.chunks(30_000) {
            fill.write(Bytes::copy_from_slice(chunk)).await.unwrap();
            if fill.passed().is_some() {
                assert!(bench.get(&page).is_none(), "nobody joins any more");
            }
        }
        assert_eq!(fill.passed(), Some(NotStoredReason::TooLarge));
        let text = String::from_utf8(bench.metrics.text()).unwrap();
        for line in [
            "edgeway_cache_fills 1",
            "edgeway_cache_not_stored_total{reason=\"too_large\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(fill.finish().unwrap().is_none());
    };
    let (own, early, ()) = tokio::join!(read_all(own), read_all(early), written);
    assert!(own.unwrap() == body && early.unwrap() == body);
    bench.expect_empty();
}

#[tokio::test(start_paused = true)]
async fn stalled_readers_hold_up_others_for_a_while_only() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let mut draft = bench.draft(&page);
    draft.about.max_object = 0;
    let mut fill = bench.store.begin(&draft);
    assert_eq!(fill.passed(), None);
    let (mut idle, reads) = (
        fill.entry().body.reader().unwrap(),
        fill.entry().body.reader().unwrap(),
    );
    let chunk = Bytes::from(vec![1; 100_000]);
    let written = async {
        for _ in 0..50 {
            fill.write(chunk.clone()).await.unwrap();
        }
        assert!(bench.store.bytes() < 3 * MIB, "{}", bench.store.bytes());
        fill.finish().unwrap();
    };
    let (read, ()) = tokio::join!(read_all(reads), written);
    assert_eq!(read.unwrap().len(), 5_000_000);
    assert_eq!(idle.next().await, Err(FillEnd::TooSlow));
}

#[tokio::test(start_paused = true)]
async fn an_own_reader_that_takes_nothing_ends_the_transfer_with_bounded_memory() {
    let bench = bench(100 * MIB);
    let mut draft = bench.draft(&key("/a"));
    draft.about.max_object = 0;
    let mut fill = bench.store.begin(&draft);
    let _own = fill.own_reader();
    let chunk = Bytes::from(vec![1; 64 * 1024]);
    let mut written = 0;
    let error = loop {
        match fill.write(chunk.clone()).await {
            Ok(()) => written += chunk.len() as u64,
            Err(error) => break error,
        }
        assert!(written < 8 * MIB, "{written}");
    };
    assert_eq!(error, FillError::NoReader);
}

/// A client that reads nothing.
#[derive(Debug)]
struct Idle;

impl Client for Idle {
    fn is_ready(&self) -> bool {
        false
    }
}

fn idle() -> Arc<dyn Client> {
    Arc::new(Idle)
}

#[tokio::test(start_paused = true)]
async fn a_response_of_unknown_length_is_not_held_for_stalled_readers() {
    let bench = bench(100 * MIB);
    let mut fill = bench.store.begin(&bench.draft(&key("/a")));
    fill.set_client(&idle());
    let _own = fill.own_reader();
    let chunk = Bytes::from(vec![1; 64 * 1024]);
    let mut written = 0;
    let error = loop {
        match fill.write(chunk.clone()).await {
            Ok(()) => written += chunk.len() as u64,
            Err(error) => break error,
        }
        assert!(written <= 512 * 1024, "{written}");
    };
    assert_eq!(error, FillError::NoReader);
    assert_eq!(fill.passed(), Some(NotStoredReason::Slow));
}

#[tokio::test(start_paused = true)]
async fn a_response_of_unknown_length_is_stored_as_fast_as_a_client_reads_it() {
    let bench = bench(100 * MIB);
    let page = key("/a");
    let mut fill = bench.store.begin(&bench.draft(&page));
    fill.set_client(&idle());
    let _own = fill.own_reader();
    let reads = fill.entry().body.reader().unwrap();
    let chunk = Bytes::from(vec![1; 64 * 1024]);
    let written = async {
        for _ in 0..64 {
            fill.write(chunk.clone()).await.unwrap();
        }
        fill.finish().unwrap()
    };
    let begun = tokio::time::Instant::now();
    let (read, stored) = tokio::join!(read_all(reads), written);
    assert_eq!(read.unwrap().len() as u64, 4 * MIB);
    assert!(stored.is_some());
    assert!(begun.elapsed() < Duration::from_secs(1), "{begun:?}");
}

#[tokio::test]
async fn bodies_in_flight_are_copied_in_small_pieces() {
    let bench = bench(10 * MIB);
    let mut draft = bench.draft(&key("/a"));
    draft.headers.insert(header::CONTENT_LENGTH, 200_000.into());
    let mut fill = bench.store.begin(&draft);
    let mut reader = fill.entry().body.reader().unwrap();
    fill.write(Bytes::from(vec![1; 150_000])).await.unwrap();
    let mut read = 0;
    while read < 150_000 {
        let piece = reader.next().await.unwrap().unwrap();
        assert!(piece.len() <= 16 * 1024, "{}", piece.len());
        read += piece.len();
    }
}

#[test]
fn the_variant_is_the_latest_that_matches() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    for lang in ["de", "en"] {
        let draft = bench.varied(&page, "accept-language", lang);
        bench.put(&draft, lang.as_bytes()).unwrap();
    }
    let find = |fields: &[(&'static str, &str)]| {
        let headers = headers(fields);
        bench.store.find(&page, SentHeaders::whole(&headers))
    };
    let body = |found: &Lookup| {
        let entry = found.entry.as_ref()?;
        entry.body.segment(0)
    };
    assert_eq!(body(&find(&[("accept-language", "de")])).unwrap(), "de");
    assert_eq!(body(&find(&[("accept-language", "en")])).unwrap(), "en");
    let none = find(&[("accept-language", "fr")]);
    assert!(none.entry.is_none() && matches!(none.vary, Some(Vary::Fields(_))));
    bench.clock.advance(Duration::from_secs(1));
    // Another field: both may match, and the later headers win.
    let draft = bench.varied(&page, "accept", "x");
    bench.put(&draft, b"x").unwrap();
    let both = [("accept-language", "de"), ("accept", "x")];
    assert_eq!(body(&find(&both)).unwrap(), "x");
    assert_eq!(body(&find(&[("accept-language", "de")])).unwrap(), "de");
    // A response without `Vary` replaces all variants.
    bench.clock.advance(Duration::from_secs(1));
    bench.put(&bench.draft(&page), b"all").unwrap();
    assert_eq!(bench.store.objects(), 1);
    assert_eq!(body(&find(&both)).unwrap(), "all");
}

#[test]
fn variants_of_one_key_are_bounded() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    for n in 0..200 {
        bench.clock.advance(Duration::from_secs(1));
        let draft = bench.varied(&page, "user-agent", &n.to_string());
        bench.put(&draft, b"x").unwrap();
    }
    assert_eq!(bench.store.objects(), 64);
    let find = |agent: &str| {
        let headers = headers(&[("user-agent", agent)]);
        bench.store.find(&page, SentHeaders::whole(&headers))
    };
    let last = find("199");
    assert!(last.entry.is_some());
    let first = find("0");
    assert!(first.entry.is_none());
}

#[tokio::test]
async fn a_purge_wins_over_earlier_requests() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let body = Bytes::from_static(b"x");
    for effect in [PurgeEffect::Hard, PurgeEffect::Soft] {
        // Before the response arrives.
        let draft = bench.tagged(&page, &["t"]);
        bench.purge(PurgeTarget::Tag("t".into()), effect);
        let mut fill = bench.store.begin(&draft);
        assert_eq!(fill.passed(), Some(NotStoredReason::Purged));
        let reader = fill.own_reader();
        fill.write(body.clone()).await.unwrap();
        assert!(fill.finish().unwrap().is_none());
        assert_eq!(read_all(reader).await.unwrap(), b"x");
        assert!(bench.put(&draft, b"x").is_none());
        // While it arrives.
        let mut fill = bench.store.begin(&bench.tagged(&page, &["t"]));
        let reader = fill.own_reader();
        fill.write(body.clone()).await.unwrap();
        assert_eq!(bench.purge(PurgeTarget::Tag("t".into()), effect), 1);
        assert!(bench.get(&page).is_none());
        fill.write(body.clone()).await.unwrap();
        assert!(fill.finish().unwrap().is_none());
        assert_eq!(read_all(reader).await.unwrap(), b"xx");
        // A purge of something else.
        let fill = bench.store.begin(&bench.tagged(&page, &["t"]));
        assert_eq!(bench.purge(PurgeTarget::Tag("tt".into()), effect), 0);
        assert!(fill.finish().unwrap().is_some());
        assert_eq!(bench.purge(PurgeTarget::All, PurgeEffect::Hard), 1);
    }
    bench.expect_empty();
}

#[test]
fn a_soft_purge_makes_stale_at_that_instant() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    bench.put(&bench.draft(&page), b"x").unwrap();
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(
        bench.purge(PurgeTarget::Url("/a".into()), PurgeEffect::Soft),
        1
    );
    let entry = bench.get(&page).unwrap();
    assert_eq!(entry.stale_since(), Some(bench.clock.wall()));
    assert_eq!(entry.lifetime().fresh_for, Duration::from_secs(10));
    // Another soft purge changes nothing, or the windows would never end.
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(
        bench.purge(PurgeTarget::Url("/a".into()), PurgeEffect::Soft),
        0
    );
    assert_eq!(entry.lifetime().fresh_for, Duration::from_secs(10));
    // A response that is stale already does not get its windows back.
    bench.put(&bench.draft(&page), b"x").unwrap();
    bench.clock.advance(Duration::from_mins(2));
    assert_eq!(bench.purge(PurgeTarget::All, PurgeEffect::Soft), 1);
    let entry = bench.get(&page).unwrap();
    assert_eq!(entry.lifetime().fresh_for, Duration::from_mins(1));
    let meta = entry.meta().unwrap();
    assert!(!meta.is_fresh(bench.clock.wall()));
}

#[test]
fn a_304_replaces_the_headers_and_not_the_body() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let old = bench.put(&bench.tagged(&page, &["t"]), b"body").unwrap();
    bench.purge(PurgeTarget::Tag("t".into()), PurgeEffect::Soft);
    let draft = bench.draft(&page);
    let refresh = |mark, old| {
        let headers = headers(&[("etag", "\"2\"")]);
        let lifetime = draft.lifetime.clone();
        let store = bench.store;
        store.refresh(old, headers, lifetime, Vary::Nothing, Variance(0), mark)
    };
    let new = refresh(bench.store.mark(), &old).unwrap();
    assert_eq!(new.headers()[header::ETAG], "\"2\"");
    assert_eq!(new.stale_since(), None);
    assert!(Arc::ptr_eq(&new, &bench.get(&page).unwrap()));
    assert!(Arc::ptr_eq(&new.body, &old.body));
    // The old entry finds the same slot.
    assert!(refresh(bench.store.mark(), &old).is_some());
    let mark = bench.store.mark();
    bench.purge(PurgeTarget::Tag("t".into()), PurgeEffect::Soft);
    assert!(refresh(mark, &new).is_none(), "requested before the purge");
    assert_eq!(
        bench.purge(PurgeTarget::Tag("t".into()), PurgeEffect::Hard),
        1
    );
    assert!(refresh(bench.store.mark(), &new).is_none(), "gone");
    drop((old, new));
    bench.expect_empty();
}

#[test]
fn compressed_forms_are_counted_and_go_first() {
    let bench = bench(MIB);
    let page = key("/a");
    let entry = bench.put(&bench.draft(&page), &vec![1; 300_000]).unwrap();
    let before = bench.store.bytes();
    let form = Bytes::from(vec![2; 100_000]);
    assert!(bench.store.add_form(&entry, Encoding::Br, &form));
    assert!(!bench.store.add_form(&entry, Encoding::Br, &form));
    assert!(bench.store.bytes() >= before + 100_000);
    assert_eq!(entry.form(Encoding::Br), Some(form));
    assert_eq!(entry.form(Encoding::Gzip), None);
    assert!(entry.form(Encoding::Br).is_some());
    for n in 0..2 {
        let other = key(&format!("/{n}"));
        bench.put(&bench.draft(&other), &vec![1; 300_000]).unwrap();
    }
    assert!(entry.form(Encoding::Br).is_some(), "there is room");
    bench.store.set_budget(930_000);
    assert_eq!(bench.store.objects(), 3);
    assert_eq!(entry.form(Encoding::Br), None);
    assert!(bench.store.bytes() <= 930_000);
    bench.purge(PurgeTarget::All, PurgeEffect::Hard);
    assert!(
        !bench
            .store
            .add_form(&entry, Encoding::Br, &Bytes::from_static(b"x"))
    );
    drop(entry);
    bench.expect_empty();
}

#[test]
fn a_quota_evicts_from_its_own_route_only() {
    let bench = bench(10 * MIB);
    let quota = bench.store.quota("r", MIB);
    assert!(Arc::ptr_eq(&quota, &bench.store.quota("r", MIB)));
    bench
        .put(&bench.draft(&key("/other")), &vec![1; 100_000])
        .unwrap();
    for n in 0..50 {
        let page = key(&format!("/{n}"));
        let mut draft = bench.draft(&page);
        draft.about.quota = Some(Arc::clone(&quota));
        bench.put(&draft, &vec![1; 100_000]);
        assert!(quota.used() <= MIB);
    }
    assert!(quota.used() > MIB / 2);
    assert!(bench.get(&key("/other")).is_some());
    bench.store.quota("r", 0);
    assert_eq!((quota.used(), bench.store.objects()), (0, 1));
}

#[test]
fn a_response_inherits_a_part_of_the_popularity_of_the_one_before() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let replaced = || {
        bench.clock.advance(Duration::from_secs(1));
        bench.put(&bench.draft(&page), b"x").unwrap().popularity()
    };
    assert_eq!(replaced(), 0);
    for _ in 0..64 {
        bench.get(&page).unwrap();
    }
    assert_eq!([replaced(), replaced(), replaced()], [32, 16, 8]);
    assert_eq!(bench.get(&page).unwrap().hits(), 1);
    assert_eq!(bench.get(&page).unwrap().popularity(), 10);
}

#[test]
fn removal_takes_one_origin_with_all_variants_and_extras() {
    let bench = bench(10 * MIB);
    let keys = [
        ("https", "shop", None, "", true),
        ("https", "shop", None, "extra", true),
        ("https", "shop", Some("_rsc=1"), "", true),
        ("https", "shop", Some("x"), "", false),
        ("http", "shop", None, "", false),
        ("https", "other", None, "", false),
    ];
    let key = |(scheme, authority, query, extra, _): (&str, &str, Option<&str>, &str, bool)| {
        Key::new(
            scheme,
            authority,
            b"/a",
            query.map(str::as_bytes),
            extra.as_bytes(),
        )
    };
    for it in keys {
        bench.put(&bench.draft(&key(it)), b"x").unwrap();
    }
    let wanted = Key::new("https", "shop", b"/a", None, b"more");
    assert_eq!(bench.store.remove(&wanted), 3);
    for it in keys {
        assert_eq!(bench.get(&key(it)).is_none(), it.4, "{it:?}");
    }
}
