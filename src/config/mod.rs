//! The configuration as written: YAML with the place of every word, and problems told
//! several at once. No Pingora, no async, no defaults that need the machine.

pub mod changes;
pub mod diagnostic;
pub mod model;
pub mod source;
pub mod tree;
