//! Tests of the whole store: lookups, eviction and accounting.

mod fills;
mod model;
mod races;
mod ranges;

use std::{os::fd::OwnedFd, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::*;
use crate::{
    base::encoding::Encoding,
    policy::{Lifetime, Variance},
    purge::PurgeTarget,
};

pub(super) const MIB: u64 = 1024 * 1024;

impl Store {
    /// Returns the number of responses, complete or in flight.
    pub(crate) fn objects(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.read().shard.len).sum()
    }
}

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
                route: Arc::new(RouteRules {
                    name: "r".into(),
                    max_object: 8 * MIB,
                    quota: None,
                    keeps_private: false,
                    rules: None,
                }),
                tags: Box::default(),
                is_compressible: true,
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
        draft.vary = Vary::parse(&headers(&[("vary", field)]));
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
        assert_eq!(self.store.metrics.fills.get(), 0, "fills");
        assert_eq!(ledger.files.counted(), (0, 0), "files");
        let index = self.store.queues.lock().1.bytes();
        assert_eq!(self.store.bytes(), index, "live");
    }
}

/// Returns the bytes of the file of a body.
pub(super) fn content(file: &OwnedFd) -> Vec<u8> {
    let length = rustix::fs::fstat(file).unwrap().st_size;
    let mut content = vec![0; usize::try_from(length).unwrap()];
    let read = rustix::io::pread(file, &mut content[..], 0).unwrap();
    assert_eq!(read, content.len());
    content
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
    assert!(!entry.lifetime().is_fresh(bench.clock.wall()));
}

#[test]
fn a_304_replaces_the_headers_and_not_the_body() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let old = bench.put(&bench.tagged(&page, &["t"]), b"body").unwrap();
    bench.purge(PurgeTarget::Tag("t".into()), PurgeEffect::Soft);
    let draft = bench.draft(&page);
    let refresh = |mark, old: &Arc<Entry>| {
        bench.store.refresh(&Refresh {
            old: Arc::clone(old),
            headers: headers(&[("etag", "\"2\"")]),
            lifetime: draft.lifetime.clone(),
            vary: Vary::Nothing,
            variance: Variance(0),
            mark,
        })
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
fn files_are_counted_limited_and_unchangeable() {
    let bench = bench(4 * MIB);
    let put = |name: &str, length| {
        let body: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
        let entry = bench.put(&bench.draft(&key(name)), &body).unwrap();
        (entry, body)
    };
    let (entry, body) = put("/a", 300_001);
    let before = bench.store.bytes();
    assert!(bench.store.add_file(&entry).unwrap());
    assert!(!bench.store.add_file(&entry).unwrap(), "it has one");
    let size = 300_001_u64.next_multiple_of(4096);
    assert_eq!(bench.store.ledger.files.counted(), (1, size));
    let more = bench.store.bytes() - before;
    assert!((size..size + 1024).contains(&more), "{more}");
    let file = entry.file().unwrap();
    assert_eq!(content(&file), body);
    assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
    assert!(rustix::fs::ftruncate(&file, 0).is_err());
    // An eighth of the budget is for all files.
    let (other, _) = put("/b", 300_000);
    assert!(!bench.store.add_file(&other).unwrap());
    let (small, _) = put("/c", 100_000);
    assert!(bench.store.add_file(&small).unwrap());
    drop((other, small));
    // What is being sent stays as it is.
    bench.purge(PurgeTarget::All, PurgeEffect::Hard);
    assert!(entry.file().is_none());
    assert!(!bench.store.add_file(&entry).unwrap(), "it is not stored");
    assert_eq!(content(&file), body);
    drop(entry);
    bench.expect_empty();
}

#[test]
fn a_file_is_wanted_after_some_hits() {
    let bench = bench(MIB);
    let page = key("/a");
    let entry = bench.put(&bench.draft(&page), &vec![1; 64_000]).unwrap();
    assert!(may_have_file(64_000) && !may_have_file(47_000) && !may_have_file(2 * MIB));
    let mut hits = 0;
    while !bench.store.wants_file(&entry) {
        bench.get(&page).unwrap();
        hits += 1;
    }
    assert_eq!(hits, 16);
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
        Arc::make_mut(&mut draft.about.route).quota = Some(Arc::clone(&quota));
        bench.put(&draft, &vec![1; 100_000]);
        assert!(quota.used() <= MIB);
    }
    assert!(quota.used() > MIB / 2);
    assert!(bench.get(&key("/other")).is_some());
    bench.store.limit(&quota, 0);
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
