//! The settings of a route that all of its stored responses have in common.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{EntryRules, quota::Quota};

/// Settings of the route that an entry was stored for: those of [`EntryRules`] that do not depend on
/// the response.
#[derive(Debug)]
pub(super) struct RouteRules {
    pub(super) route: Arc<str>,
    pub(super) max_object: u64,
    pub(super) quota: Option<Arc<Quota>>,
}

/// The latest settings of each route.
#[derive(Debug, Default)]
pub(super) struct RouteTable(Mutex<HashMap<Arc<str>, Arc<RouteRules>>>);

impl RouteTable {
    /// Returns the settings in `rules`, the same ones for the responses of a route.
    pub(super) fn get(&self, rules: &EntryRules) -> Arc<RouteRules> {
        let mut routes = self.0.lock();
        if let Some(known) = routes.get(&rules.route)
            && known.is_of(rules)
        {
            return Arc::clone(known);
        }
        if routes.len() == routes.capacity() {
            // Before the table grows, routes without stored responses leave it.
            routes.retain(|_, known| Arc::strong_count(known) > 1);
        }
        let new = Arc::new(RouteRules {
            route: Arc::clone(&rules.route),
            max_object: rules.max_object,
            quota: rules.quota.clone(),
        });
        routes.insert(Arc::clone(&rules.route), Arc::clone(&new));
        new
    }
}

impl RouteRules {
    fn is_of(&self, rules: &EntryRules) -> bool {
        let quota = |quota: &Option<Arc<Quota>>| quota.as_ref().map(Arc::as_ptr);
        self.max_object == rules.max_object && quota(&self.quota) == quota(&rules.quota)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(route: &str, max_object: u64) -> EntryRules {
        EntryRules {
            route: route.into(),
            tags: Box::default(),
            max_object,
            is_compressible: true,
            quota: None,
            keeps_private: false,
        }
    }

    #[test]
    fn responses_of_a_route_share_its_settings() {
        let table = RouteTable::default();
        let one = table.get(&rules("a", 1));
        assert!(Arc::ptr_eq(&one, &table.get(&rules("a", 1))));
        let changed = table.get(&rules("a", 2));
        assert_eq!((one.max_object, changed.max_object), (1, 2));
        let quota = Arc::new(Quota::new(1, 10));
        let limited = EntryRules {
            quota: Some(Arc::clone(&quota)),
            ..rules("a", 2)
        };
        let limited = table.get(&limited);
        assert!(Arc::ptr_eq(limited.quota.as_ref().unwrap(), &quota));
    }

    #[test]
    fn routes_that_are_gone_leave_the_table() {
        let table = RouteTable::default();
        let kept = table.get(&rules("kept", 1));
        for number in 0..10_000 {
            table.get(&rules(&format!("r{number}"), 1));
        }
        assert!(table.0.lock().capacity() < 1000);
        assert!(Arc::ptr_eq(&kept, &table.get(&rules("kept", 1))));
    }
}
