//! Background work of the live configuration: probes, DNS, deadlines,
//! certificates.

use std::sync::Arc;

use super::live::Live;
use crate::{base::tasks::Tasks, upstreams};

/// Starts what the live gateway needs beside requests. Dropping the handle ends it.
pub fn start(live: &Arc<Live>) -> Tasks {
    let tasks = Tasks::default();
    tasks.spawn("deadlines", live.connections.clone().supervise());
    for listener in &live.gateway().listeners {
        if let Some(tls) = &listener.tls {
            let name = format!("certificates of {}", listener.name);
            tasks.spawn(name, Arc::clone(tls).supervise());
        }
    }
    if let Some(acme) = &live.gateway().acme {
        tasks.spawn("acme", Arc::clone(acme).supervise());
    }
    for upstream in live.gateway().upstreams.values() {
        let name = format!("upstream {}", upstream.name);
        tasks.spawn(name, upstreams::supervise(upstream.clone()));
    }
    tasks
}
