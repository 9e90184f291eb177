//! Filters whose types the gateway, the proxy and the process read, such as the cache of a route. The
//! other filters, and the list of all, are in `crates/filters`.

#[macro_use(filter_kind)]
extern crate edgeway_core;

pub mod access_log;
pub mod cache;
pub mod compression;
pub mod error_pages;
pub mod headers;
pub mod plugins;
