//! Tests of reading a part of a stored body.

use super::*;

#[tokio::test]
async fn a_part_of_a_complete_body_is_read_and_nothing_else() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let fill = bench.store.begin(&bench.draft(&page));
    let mut early = bench.get(&page).unwrap().body.reader().unwrap();
    assert!(!early.seek(0, None), "the rest may never come");
    drop((early, fill));
    let entry = bench.put(&bench.draft(&page), b"0123456789abcdef").unwrap();
    for (start, end, expected) in [
        (2, Some(5), &b"234"[..]),
        (0, Some(1), b"0"),
        (9, Some(12), b"9ab"),
        (14, Some(99), b"ef"),
        (3, None, b"3456789abcdef"),
    ] {
        let mut reader = entry.body.reader().unwrap();
        assert!(reader.seek(start, end));
        assert_eq!(read_all(reader).await.unwrap(), expected);
    }
    assert!(!entry.body.reader().unwrap().seek(16, None));
}

#[tokio::test]
async fn ranges_across_segments_are_exact() {
    let bench = bench(10 * MIB);
    let body: Vec<u8> = (0..=250).cycle().take(700_000).collect();
    let entry = bench.put(&bench.draft(&key("/a")), &body).unwrap();
    assert!(entry.body.whole().unwrap().segments().count() > 1);
    for (start, end) in [(0, 1), (262_143, 262_145), (262_144, 600_000), (1, 700_000)] {
        let mut reader = entry.body.reader().unwrap();
        assert!(reader.seek(start, Some(end)));
        let expected = &body[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        assert!(read_all(reader).await.unwrap() == expected);
    }
}
