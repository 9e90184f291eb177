//! How often and how many at once: the rules of limits, what requests are told apart by,
//! and where the counts live. Knows requests, but no filter and no answer.

pub mod address;
pub mod bans;
pub mod clearance;
pub mod config;
pub mod flood;
pub mod gcra;
pub mod key;
pub mod lease;
pub mod limit;
pub mod memory;
pub mod shared;
mod strikes;

pub use self::{
    address::Address,
    bans::{Ban, Bans, By},
    strikes::Rule,
};
