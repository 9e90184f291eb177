//! Changes the lifetime of stored responses after the settings of their route changed.

use std::sync::Arc;

use super::{Entry, LogMark, Refresh, Store};
use crate::policy::Lifetime;

impl Store {
    /// Gives an entry another lifetime; its headers and its body stay. Returns `false` if it is no
    /// longer stored, has other headers by now, or was purged since `mark`.
    pub fn set_lifetime(&self, entry: &Arc<Entry>, lifetime: Lifetime, mark: LogMark) -> bool {
        let refresh = Refresh {
            old: Arc::clone(entry),
            headers: entry.headers(),
            lifetime,
            vary: entry.vary().clone(),
            variance: entry.variance(),
            // Its content is as old as before: a purge that is being applied now affects it.
            mark: entry.mark(),
        };
        // A soft purge is a mark on the entry, which the new entry would not have.
        let is_unchanged =
            |it: &Arc<Entry>| Arc::ptr_eq(it, entry) && entry.stale_since().is_none();
        self.replace(&refresh, mark, is_unchanged).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        purge::{PurgeEffect, PurgeTarget},
        store::tests::{MIB, bench, key},
    };

    #[test]
    fn a_lifetime_changes_and_nothing_else() {
        let bench = bench(10 * MIB);
        let page = key("/a");
        bench.put(&bench.tagged(&page, &["t"]), b"x").unwrap();
        let entry = bench.get(&page).unwrap();
        let bytes = bench.store.bytes();
        let longer = Lifetime {
            fresh_for: Duration::from_mins(30),
            ..entry.lifetime()
        };
        let mark = bench.store.mark();
        assert!(bench.store.set_lifetime(&entry, longer.clone(), mark));
        let new = bench.get(&page).unwrap();
        assert_eq!(new.lifetime(), longer);
        assert_eq!(new.headers(), entry.headers());
        // The former entry has been replaced by now.
        assert!(!bench.store.set_lifetime(&entry, longer, mark));
        drop(entry);
        assert_eq!(bench.store.bytes(), bytes);
        assert_eq!(
            bench.purge(PurgeTarget::Tag("t".into()), PurgeEffect::Hard),
            1
        );
        drop(new);
        bench.expect_empty();
    }

    #[test]
    fn purged_entries_stay_purged() {
        let bench = bench(10 * MIB);
        let page = key("/a");
        for effect in [PurgeEffect::Soft, PurgeEffect::Hard] {
            bench.put(&bench.draft(&page), b"x").unwrap();
            let entry = bench.get(&page).unwrap();
            let longer = Lifetime {
                fresh_for: Duration::from_mins(30),
                ..entry.lifetime()
            };
            let mark = bench.store.mark();
            bench.clock.advance(Duration::from_secs(1));
            assert_eq!(bench.purge(PurgeTarget::All, effect), 1);
            for mark in [mark, bench.store.mark()] {
                assert!(!bench.store.set_lifetime(&entry, longer.clone(), mark));
            }
            let is_fresh = |entry: Arc<Entry>| entry.lifetime().is_fresh(bench.clock.wall());
            assert!(!bench.get(&page).is_some_and(is_fresh), "{effect:?}");
        }
    }
}
