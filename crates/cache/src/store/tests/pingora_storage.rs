//! Tests the store through Pingora's trait.

use pingora_cache::{CacheMeta, HitHandler, Storage, storage::PurgeTarget, trace::Span};

use super::*;

async fn lookup(bench: &Bench, page: &Key) -> Option<(CacheMeta, HitHandler)> {
    let wanted = RequestedLookup {
        key: page.clone(),
        headers: Arc::default(),
        unchanged: None,
    };
    let trace = Span::inactive().handle();
    let found = bench.store.lookup(&wanted.into_cache_key(), &trace).await;
    found.unwrap()
}

async fn read(hit: &mut HitHandler) -> pingora::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = hit.read_body().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

fn meta_with<T: Clone + Send + Sync + 'static>(extension: T) -> CacheMeta {
    let header = pingora::http::ResponseHeader::build(200, None).unwrap();
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    let mut meta = CacheMeta::new(epoch, epoch, 0, 0, header);
    meta.extensions_mut().insert(extension);
    meta
}

#[tokio::test]
async fn a_miss_is_written_read_along_and_hit() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    assert!(lookup(&bench, &page).await.is_none());
    let wanted = RequestedLookup {
        key: page.clone(),
        headers: Arc::default(),
        unchanged: None,
    };
    let (cache_key, trace) = (wanted.into_cache_key(), Span::inactive().handle());
    let mut draft = bench.draft(&page);
    draft.lifetime.initial_age = Duration::from_secs(5);
    let meta = meta_with(Arc::new(draft));
    let store = bench.store;
    let mut miss = store
        .get_miss_handler(&cache_key, &meta, &trace)
        .await
        .unwrap();
    let tag = miss.streaming_write_tag().map(<[u8]>::to_vec);
    let own = store
        .lookup_streaming_write(&cache_key, tag.as_deref(), &trace)
        .await;
    let (_, mut own) = own.unwrap().unwrap();
    let (_, mut other) = lookup(&bench, &page).await.unwrap();
    assert!(!other.can_seek());
    let written = async {
        miss.write_body(Bytes::from_static(b"0123456789"), false)
            .await
            .unwrap();
        miss.write_body(Bytes::from_static(b"abcdef"), true)
            .await
            .unwrap();
        miss.finish().await.unwrap();
    };
    let (own, other, ()) = tokio::join!(read(&mut own), read(&mut other), written);
    assert_eq!(own.unwrap(), b"0123456789abcdef");
    assert_eq!(other.unwrap(), b"0123456789abcdef");

    let (meta, mut hit) = lookup(&bench, &page).await.unwrap();
    assert!(meta.extensions().get::<Arc<Entry>>().is_some());
    let now = bench.clock.wall();
    assert_eq!(meta.created(), now);
    assert_eq!(meta.epoch(), now - Duration::from_secs(5));
    assert!(meta.is_fresh(now + Duration::from_secs(54)));
    assert!(!meta.is_fresh(now + Duration::from_secs(55)));
    assert_eq!(meta.stale_if_error_sec(), 300);
    assert_eq!(meta.headers()[header::ETAG], "\"1\"");
    // A request for several ranges gets the whole body: each part would end it.
    assert!(!hit.can_seek_multipart());
    for (start, end, expected) in [
        (2, Some(5), &b"234"[..]),
        (0, Some(1), b"0"),
        (9, Some(12), b"9ab"),
        (14, Some(99), b"ef"),
        (3, None, b"3456789abcdef"),
    ] {
        hit.seek(start, end).unwrap();
        assert_eq!(read(&mut hit).await.unwrap(), expected);
    }
    assert!(hit.seek(16, None).is_err());
}

#[tokio::test]
async fn ranges_across_segments_are_exact() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let body: Vec<u8> = (0..=250).cycle().take(700_000).collect();
    let entry = bench.put(&bench.draft(&page), &body).unwrap();
    assert!(entry.body.whole().unwrap().segments().count() > 1);
    let (_, mut hit) = lookup(&bench, &page).await.unwrap();
    for (start, end) in [(0, 1), (262_143, 262_145), (262_144, 600_000), (1, 700_000)] {
        hit.seek(start, Some(end)).unwrap();
        assert!(read(&mut hit).await.unwrap() == body[start..end]);
    }
}

#[tokio::test]
async fn a_truncated_response_is_an_error_to_pingora() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let trace = Span::inactive().handle();
    let wanted = RequestedLookup {
        key: page.clone(),
        headers: Arc::default(),
        unchanged: None,
    };
    let cache_key = wanted.into_cache_key();
    let meta = meta_with(Arc::new(bench.draft(&page)));
    let store = bench.store;
    let mut miss = store
        .get_miss_handler(&cache_key, &meta, &trace)
        .await
        .unwrap();
    miss.write_body(Bytes::from_static(b"x"), false)
        .await
        .unwrap();
    let (_, mut hit) = lookup(&bench, &page).await.unwrap();
    drop(miss);
    assert!(read(&mut hit).await.is_err());
    assert!(lookup(&bench, &page).await.is_none());
}

#[tokio::test]
async fn a_validated_response_gets_its_new_headers_and_one_key_is_purged() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let trace = Span::inactive().handle();
    let old = bench.put(&bench.draft(&page), b"x").unwrap();
    let refresh = Refresh {
        headers: headers(&[("etag", "\"2\"")]),
        lifetime: old.lifetime(),
        vary: Vary::Nothing,
        variance: Variance(0),
        mark: bench.store.mark(),
        old,
    };
    let wanted = RequestedLookup {
        key: page.clone(),
        headers: Arc::default(),
        unchanged: None,
    };
    let cache_key = wanted.into_cache_key();
    let meta = meta_with(Arc::new(refresh));
    let updated = bench.store.update_meta(&cache_key, &meta, &trace).await;
    assert!(updated.unwrap());
    let (meta, _) = lookup(&bench, &page).await.unwrap();
    assert_eq!(meta.headers()[header::ETAG], "\"2\"");
    let compact = cache_key.to_compact();
    let target = PurgeTarget::Active(&compact);
    bench.store.expire(target, &trace).await.unwrap();
    assert!(bench.get(&page).unwrap().stale_since().is_some());
    let purge_type = pingora_cache::PurgeType::Invalidation;
    let purged = Storage::purge(bench.store, target, purge_type, &trace);
    purged.await.unwrap();
    assert!(bench.get(&page).is_none());
}
