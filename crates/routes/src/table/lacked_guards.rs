//! Index of the routes that lack a guard, built from one pass over the guards of all routes.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use smart_default::SmartDefault;

/// A list of routes, and for each guard the first of them that lacks it.
///
/// Most routes have guards of their own, so to compare each route with each other one takes seconds
/// for ten thousand routes.
#[derive(Debug, Default)]
pub struct LackedGuards {
    routes: Vec<usize>,
    /// Guards of the first route, each with the number of routes from the first on that all have it.
    common: HashMap<u32, usize, ahash::RandomState>,
}

impl LackedGuards {
    /// Adds a route behind the others.
    pub fn push(&mut self, route: usize, guards: &BTreeSet<u32>) {
        let before = self.routes.len();
        for guard in guards {
            work::count();
            if before == 0 {
                self.common.insert(*guard, 1);
            } else if let Some(common) = self.common.get_mut(guard)
                && *common == before
            {
                *common += 1;
            }
        }
        self.routes.push(route);
    }

    /// Returns the first route that lacks one of these guards.
    pub fn first_without(&self, guards: &BTreeSet<u32>) -> Option<usize> {
        let common = guards.iter().map(|guard| {
            work::count();
            self.common.get(guard).copied().unwrap_or_default()
        });
        self.routes.get(common.min()?).copied()
    }
}

/// Lists of routes by a key.
#[derive(Debug, SmartDefault)]
pub struct LackedGuardsBy<K>(HashMap<K, LackedGuards, ahash::RandomState>);

impl<K: Eq + Hash> LackedGuardsBy<K> {
    pub fn push(&mut self, key: K, route: usize, guards: &BTreeSet<u32>) {
        self.0.entry(key).or_default().push(route, guards);
    }

    /// Returns the first route of the list at `key` that lacks one of these guards.
    pub fn first_without(&self, key: &K, guards: &BTreeSet<u32>) -> Option<usize> {
        work::count();
        self.0.get(key)?.first_without(guards)
    }
}

/// Count of the comparisons of guards, for tests that bound them.
pub mod work {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    /// Counts a comparison, while a configuration is compiled.
    #[inline]
    pub(crate) fn count() {
        COUNT.with(|count| count.set(count.get() + 1));
    }

    /// Returns the comparisons of this thread during `run`.
    pub fn measure<T>(run: impl FnOnce() -> T) -> (T, u64) {
        let before = COUNT.with(Cell::get);
        let result = run();
        (result, COUNT.with(Cell::get) - before)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_route_without_a_guard_is_that_of_a_search(
            routes in prop::collection::vec(prop::collection::btree_set(0..6_u32, 0..5), 0..12),
            asked in prop::collection::btree_set(0..6_u32, 0..4),
        ) {
            let mut index = LackedGuards::default();
            for (number, guards) in routes.iter().enumerate() {
                index.push(number, guards);
            }
            let searched = routes.iter().position(|guards| !asked.is_subset(guards));
            prop_assert_eq!(index.first_without(&asked), searched);
        }
    }
}
