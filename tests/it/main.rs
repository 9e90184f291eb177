//! The one integration binary: everything that a user of the gateway sees.

mod acme;
mod balance;
mod browser;
mod cli;
mod client_limits;
mod config;
mod edge;
mod explain;
mod express_front;
mod failover;
mod grpc;
mod harness;
mod hosts;
mod http2;
mod metrics_page;
mod next_front;
mod observed;
mod proxy_protocol;
mod schema;
mod smuggling;
mod streaming;
mod support;
mod tidy;
mod tls;
mod upstream_h2;
mod upstream_tls;
