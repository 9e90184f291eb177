//! The one integration binary: everything that a user of the gateway sees.

mod balance;
mod express_front;
mod failover;
mod harness;
mod next_front;
mod streaming;
mod support;
