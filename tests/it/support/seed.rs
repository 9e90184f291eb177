//! Seeds of tests that draw their own cases, as those of the crates.

pub(crate) use edgeway_testkit::{cases, drawn, is_hunt};
