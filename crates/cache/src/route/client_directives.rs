//! Limit on how often one address may force its requests past stored responses to the origin.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    base::net::subscriber,
    limits::{gcra::Quota, key::Hasher, memory::BucketTable},
};

/// The limit of one route.
pub struct ClientDirectives {
    quota: Quota,
    counts: Arc<BucketTable>,
    /// Hasher with the route's name: each route has a bucket for each address.
    hasher: Hasher,
}

impl ClientDirectives {
    pub fn new(quota: Quota, counts: Arc<BucketTable>, route: &str) -> Self {
        let mut hasher = counts.hashing().begin();
        hasher.part(b'r', route.as_bytes());
        Self {
            quota,
            counts,
            hasher,
        }
    }

    /// Counts a `Cache-Control` directive of `client`; returns false once it has sent too many.
    pub fn hears(&self, client: IpAddr, now: Instant) -> bool {
        let mut hasher = self.hasher.clone();
        match subscriber(client) {
            IpAddr::V4(address) => hasher.part(b'i', &address.octets()),
            IpAddr::V6(address) => hasher.part(b'i', &address.octets()),
        }
        let decision = self
            .counts
            .take(hasher.finish(), &self.quota, 1, Duration::ZERO, now);
        decision.passes()
    }
}

edgeway_base::opaque_debug!(ClientDirectives, quota);
