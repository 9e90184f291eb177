//! Connections to others: Redis, the HTTP client of the gateway itself, log files, unix sockets,
//! background tasks and turns. Knows nothing of gateways, routes or filters.

pub mod fair_queue;
pub mod fetch;
pub mod log_file;
pub mod redis;
pub mod tasks;
pub mod unix_socket;
