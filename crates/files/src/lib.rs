//! Static files: the file of a request below a root, its representation for this client, and its
//! bytes, without growing memory.
//!
//! A path in normal form names at most one file (`path`), which is opened below the root in a way
//! that cannot leave it (`root`) and kept open for a while (`open_files`). `conditions` decides what
//! of it the client gets. Knows nothing of routes and sessions.

mod blocking;
mod body;
mod compile;
mod conditions;
mod media_types;
mod open_files;
mod page;
mod path;
mod patterns;
mod response;
mod root;
mod segment;
mod served;
#[cfg(test)]
mod tests;

use edgeway_base as base;
use edgeway_config as config;
use edgeway_core::chain;

pub use self::{
    body::FileBody,
    media_types::MediaTypes,
    open_files::{BrowserCache, FileLookup, Files},
    page::{PageFile, PagePart},
    response::{FileResponse, Outcome},
    segment::{Segment, SentSegment},
    served::ServedFile,
};
