//! The one integration binary: everything that a user of the gateway sees.

mod harness;
mod support;
