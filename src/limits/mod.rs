//! How often and how many at once: the rules of limits, what requests are told apart by,
//! and where the counts live. Knows requests, but no filter and no answer.

pub mod gcra;
pub mod key;
pub mod memory;
pub mod shared;
