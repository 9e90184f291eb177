//! How requests are answered from the cache, and how answers get into it.
//!
//! Two doors, one policy. The first one ([`door`]) is in `request_filter`: what is stored
//! whole and may be used is answered at once. All else goes through Pingora's cache phases
//! ([`phases`]): misses, with one request to the origin for all that wait; validation; stale
//! answers of a failing origin; ranges. Both ask `cache::policy` and `cache::store`.

mod answer;
mod background;
mod door;
mod fill;
mod flow;
mod forms;
mod phases;
mod purge;
mod stream;
mod write;

use std::{sync::Arc, time::SystemTime};

use http::HeaderMap;

pub(super) use self::{
    answer::send_direct,
    background::take,
    door::{ask, fetch, serve},
    fill::{has_read_all, received_body},
    phases::{
        answered, complete, enable, forward, hit, key, not_modified, serves_stale, storable, target,
    },
    stream::{ClientStream, decouple},
    write::written,
};
use crate::cache::{
    key::Key,
    nextjs::RequestShape,
    policy::{Variance, Wants},
    route::Personal,
    store::{Entry, Mark},
};

/// A request that goes on to the origin, as far as the cache is concerned.
pub(super) struct Flow {
    pub(super) key: Key,
    wants: Wants,
    personal: Personal,
    /// What the request is to Next.js, where its rules hold.
    shape: Option<RequestShape>,
    /// The client's, by which its response is judged.
    headers: Arc<HeaderMap>,
    /// Those that the origin would get, if they were needed: variants are told apart by them.
    sent: Option<Arc<HeaderMap>>,
    /// When the request came: an answer that is younger is as good as its own.
    came: SystemTime,
    /// When the origin was asked last.
    asked: SystemTime,
    /// Before the origin was asked: purges since then are about its answer too.
    mark: Mark,
    /// What was found and may not be used as it is.
    found: Option<Arc<Entry>>,
    /// Which variant it asks for, as far as the key's answers tell them apart.
    variance: Option<Variance>,
    /// What a 304 said.
    confirmed: Option<HeaderMap>,
    /// Fields of the answer that are not kept, for the client who asked.
    for_the_first: HeaderMap,
    /// Nobody waits for its answer.
    is_pass: bool,
    /// It was begun by us, and nobody waits for the answer.
    pub(super) is_background: bool,
}
