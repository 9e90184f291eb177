//! Being built.

pub mod forwarded;
pub mod page;
