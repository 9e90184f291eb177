//! Connections and listeners with defaults only, for tests inside the crate.

use std::sync::Arc;

use edgeway_base::metrics::Metrics;
use edgeway_gateway::Listener;

use super::{
    Connection, ConnectionFacts,
    admission::AdmissionGuard,
    listener::{ListenerFacts, ListenerId},
};

impl ListenerFacts {
    /// Creates a listener with defaults only.
    pub fn test() -> Arc<Self> {
        let config = Arc::new(Listener::test());
        let id = ListenerId::next();
        Arc::new(Self::new(
            config,
            id,
            0,
            &Metrics::default(),
            Arc::default(),
        ))
    }
}

impl ConnectionFacts {
    pub fn test() -> Self {
        Self {
            peer: None,
            tls: None,
            progress: Arc::default(),
            guard: AdmissionGuard::uncounted(),
        }
    }
}

impl Connection {
    /// Creates a connection to a listener with defaults only.
    pub fn test() -> Arc<Self> {
        Arc::new(Self::new(ListenerFacts::test(), ConnectionFacts::test()))
    }
}
