//! A million stored responses with three tags each: measures the memory of the cache's index, and
//! the duration of purges.
//!
//! `million [COUNT]` fills the store alone, without a gateway around it, and prints a table.
#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "it reports to the terminal"
)]

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_base::{clock::Clock, metrics::Metrics};
use edgeway_cache::{
    key::Key,
    policy::{Lifetime, Variance, Vary},
    purge::{Purge, PurgeEffect, PurgeTarget},
    store::{EntryDraft, EntryRules, RouteRules, Store},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BODY: &[u8] = &[b'x'; 100];

fn main() {
    let count = std::env::args().nth(1);
    let count = count.and_then(|count| count.parse().ok());
    let count: usize = count.unwrap_or(1_000_000);
    let clock = Clock::machine();
    let store = Store::new(16 << 30, clock.clone(), &Metrics::default());
    let route = Arc::new(RouteRules {
        name: "app".into(),
        max_object: 1 << 20,
        quota: None,
        keeps_private: false,
        rules: None,
    });
    let before = resident();
    let begun = clock.now();
    for number in 0..count {
        let draft = draft(store, &clock, &route, number);
        let stored = store.insert(&draft, &[Bytes::from_static(BODY)]);
        assert!(stored.is_some(), "there is room for {number}");
    }
    let took = clock.now() - begun;
    let grown = resident().saturating_sub(before);
    let each = |bytes: u64| bytes as f64 / count as f64;
    println!(
        "{} objects, {:.2} µs each",
        count,
        took.as_secs_f64() * 1e6 / count as f64
    );
    println!("{:8.0} bytes each, as counted", each(store.bytes()));
    println!(
        "{:8.0} bytes each of resident memory, {:.3} × what is counted",
        each(grown),
        grown as f64 / store.bytes() as f64
    );
    let tag = |tag: &str| PurgeTarget::Tag(tag.to_owned());
    for (target, name) in [
        (tag("nobody"), "a tag of nothing"),
        (tag("item-7"), "a tag"),
        (tag("hundred-3"), "a tag"),
        (tag("thousand-5"), "a tag"),
        (tag("many-4"), "a tag"),
        (PurgeTarget::Url("/4/4321".to_owned()), "a URL"),
        (PurgeTarget::Prefix("/2/".to_owned()), "a prefix"),
        (
            PurgeTarget::Prefix("/none/".to_owned()),
            "a prefix of nothing",
        ),
        (PurgeTarget::All, "all"),
    ] {
        for effect in [PurgeEffect::Soft, PurgeEffect::Hard] {
            let target = target.clone();
            let begun = clock.now();
            let objects = store.purge(&Purge { target, effect });
            let took = clock.now() - begun;
            println!("{took:>12.2?}  {effect:?} purge of {name}: {objects} objects");
        }
    }
}

fn draft(
    store: &'static Store,
    clock: &Clock,
    route: &Arc<RouteRules>,
    number: usize,
) -> EntryDraft {
    // Half of them are in sets of a thousand, the others in sets of a hundred thousand.
    let large = if number.is_multiple_of(2) {
        format!("thousand-{}", number / 2000)
    } else {
        format!("many-{}", number / 200_000)
    };
    let tags = [
        format!("item-{number}"),
        format!("hundred-{}", number / 100),
        large,
    ];
    let path = format!("/{}/{number}", number / 1000);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::ETAG, "\"5f3759df\""),
        (header::CACHE_CONTROL, "max-age=60"),
        (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    EntryDraft {
        key: Key::new("https", "shop.example.com", path.as_bytes(), None, b""),
        status: StatusCode::OK,
        headers,
        lifetime: Lifetime {
            response_time: clock.wall(),
            initial_age: Duration::ZERO,
            fresh_for: Duration::from_hours(1),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            always_validate: false,
            must_revalidate: false,
        },
        vary: Vary::Nothing,
        variance: Variance::default(),
        about: EntryRules {
            route: Arc::clone(route),
            tags: tags.map(Into::into).into(),
            is_compressible: false,
        },
        mark: store.mark(),
    }
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
