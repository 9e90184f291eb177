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
        let mut part = self.shard(entry.key().hash()).write();
        let Some(at) = part.shard.slot_of(&self.hashes, entry) else {
            return false;
        };
        let is_same = part.shard.at(at).is_some_and(|it| Arc::ptr_eq(it, entry));
        // A soft purge is a mark on the entry, which the new entry would not have.
        let is_purged =
            entry.stale_since().is_some() || self.log.raced(mark, entry.key(), entry.tags());
        if !is_same || is_purged || !entry.is_complete() {
            return false;
        }
        let new = Arc::new(entry.refreshed(&refresh));
        let before = part.shard.replace(at, Arc::clone(&new));
        self.resize(&new);
        drop(part);
        drop(before);
        self.make_room();
        self.tell(|watch| watch.stored(&new));
        true
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
