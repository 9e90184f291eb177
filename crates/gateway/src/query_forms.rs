//! Queries by which responses are stored: routes leave parameters out of their keys.

use edgeway_cache::purge::{Purge, PurgeTarget};

use crate::Gateway;

impl Gateway {
    /// Returns the queries of keys for requests with this one: as sent, and as each route counts it.
    pub fn query_forms(&self, sent: Option<&[u8]>) -> Vec<Option<Vec<u8>>> {
        let mut forms = vec![sent.map(<[u8]>::to_vec)];
        let rules = self
            .routes
            .iter()
            .filter_map(|route| Some(&route.cache.as_ref()?.policy.key));
        for rules in rules.filter(|rules| sent.is_some() && !rules.query.is_all()) {
            let counted = rules.query_of(sent);
            if !forms
                .iter()
                .any(|form| form.as_deref() == counted.as_deref())
            {
                forms.push(counted.map(Into::into));
            }
        }
        forms
    }

    /// Adds to each purge of a URL the other forms in which responses to it are stored.
    pub fn purge_forms(&self, purges: Vec<Purge>) -> Vec<Purge> {
        let mut all = Vec::with_capacity(purges.len());
        for purge in purges {
            let url = match &purge.target {
                PurgeTarget::Url(url) => url.split_once('?'),
                _ => None,
            };
            let Some((path, query)) = url else {
                all.push(purge);
                continue;
            };
            for form in self.query_forms(Some(query.as_bytes())) {
                let query = form.as_deref().map(String::from_utf8_lossy);
                let query = query.map_or_else(String::new, |query| format!("?{query}"));
                let target = PurgeTarget::Url(format!("{path}{query}"));
                all.push(Purge { target, ..purge });
            }
        }
        all
    }
}
