//! Tests of responses that are read while they are stored.

use super::*;

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
    assert!(!Arc::ptr_eq(&early, &old), "the one in flight is preferred");
    let found = bench
        .store
        .find(&page, SentHeaders::whole(&HeaderMap::new()));
    let complete = found.complete.expect("the old one is found too");
    assert!(Arc::ptr_eq(&complete, &old));
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
    Arc::make_mut(&mut draft.about.route).max_object = 100_000;
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
    Arc::make_mut(&mut draft.about.route).max_object = 0;
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
    Arc::make_mut(&mut draft.about.route).max_object = 0;
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

#[tokio::test(start_paused = true)]
async fn a_response_of_unknown_length_is_not_held_for_stalled_readers() {
    let bench = bench(100 * MIB);
    let mut fill = bench.store.begin(&bench.draft(&key("/a")));
    fill.keep_pace();
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
    fill.keep_pace();
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
