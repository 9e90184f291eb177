//! Serves requests from the cache, and stores responses in it.
//!
//! [`door`] decides on a request: a complete stored response that may be used is sent at once.
//! Everything else goes to the exchange: misses, with one collapsed request for all that wait
//! ([`collapse`]); validation; ranges ([`range`]); stale responses for a failing origin
//! ([`fetched`]). What is stored is decided in [`storage`].

mod background;
mod body_file;
mod changed;
mod collapse;
mod door;
mod fetched;
mod flow;
mod forms;
mod made;
mod origin;
mod purge;
mod range;
mod storage;
mod stored_response;
mod write;

pub(super) use self::{
    background::{BackgroundRequest, follow_up, revalidation},
    changed::mark as mark_changed,
    collapse::{CacheStep, Fetch, begin, replaces_failure},
    door::{ask, fetch},
    fetched::{OriginUse, StoredResponse, not_modified, present},
    made::store_made,
    origin::{condition, forward, on_origin_response, replaced},
    range::Content,
    stored_response::send,
    write::written,
};
