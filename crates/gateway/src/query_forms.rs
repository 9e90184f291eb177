//! Queries by which responses are stored: routes leave parameters out of their keys, and images made
//! here have their source in it.

use std::{collections::BTreeSet, sync::Arc};

use edgeway_cache::{
    nextjs::images_of,
    purge::{Purge, PurgeTarget},
};

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
            let images = self.images_of(&purge.target).into_iter();
            all.extend(images.map(|target| Purge { target, ..purge }));
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

    /// Returns the targets of purges for the images that are made here of what `target` is about.
    fn images_of(&self, target: &PurgeTarget) -> Vec<PurgeTarget> {
        let mut paths = BTreeSet::new();
        self.each_build(|upstream, build| {
            let mut apps = self.app_images.iter();
            if apps.any(|(own, _)| Arc::ptr_eq(own, upstream)) {
                paths.extend(build.image_path().map(str::to_owned));
            }
        });
        let targets = paths.iter().flat_map(|path| images_of(target, path));
        targets.collect()
    }
}
