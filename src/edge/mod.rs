//! Where connections enter: listeners and accept loops of our own in front of Pingora.
//!
//! TLS, PROXY protocol and client limits will sit between [`listener`]'s accept and the
//! IO of [`conn`].

mod conn;
pub mod listener;
pub mod worker;
