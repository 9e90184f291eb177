//! `Cache-Status` as clients read it.

use std::time::Duration;

use edgeway_core::chain::{CacheFacts, CacheOutcome};

use crate::cache::status;

fn facts(outcome: CacheOutcome) -> CacheFacts {
    CacheFacts::new(outcome)
}

fn text(facts: &CacheFacts) -> String {
    status(facts).value().to_str().unwrap().to_owned()
}

#[test]
fn cache_status_names_the_outcome() {
    let hit = CacheFacts {
        ttl: Some(57),
        age: Some(Duration::from_secs(3)),
        ..facts(CacheOutcome::Hit)
    };
    assert_eq!(text(&hit), "Edgeway; hit; ttl=57");
    let miss = CacheFacts {
        origin_status: 200,
        is_stored: true,
        ..facts(CacheOutcome::Miss).why("uri-miss")
    };
    assert_eq!(text(&miss), "Edgeway; fwd=uri-miss; fwd-status=200; stored");
    let refused = CacheFacts {
        origin_status: 200,
        ..facts(CacheOutcome::Miss).why("set-cookie")
    };
    assert_eq!(
        text(&refused),
        "Edgeway; fwd=uri-miss; fwd-status=200; detail=set-cookie"
    );
    let revalidated = CacheFacts {
        origin_status: 304,
        is_stored: true,
        ..facts(CacheOutcome::Revalidated).why("stale")
    };
    assert_eq!(
        text(&revalidated),
        "Edgeway; fwd=stale; fwd-status=304; stored"
    );
    let stale = CacheFacts {
        ttl: Some(-2),
        ..facts(CacheOutcome::Stale)
    };
    assert_eq!(text(&stale), "Edgeway; hit; ttl=-2");
    let past = facts(CacheOutcome::Bypass).why("route");
    assert_eq!(text(&past), "Edgeway; fwd=bypass; detail=route");
}
