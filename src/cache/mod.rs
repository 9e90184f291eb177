//! The cache: what may be kept of an answer and for how long ([`policy`]), where it is kept
//! ([`store`]), and how it is taken out again ([`purge`]). How requests come here is the
//! business of `proxy`.

pub mod key;
pub mod nextjs;
pub mod policy;
pub mod purge;
pub mod store;
