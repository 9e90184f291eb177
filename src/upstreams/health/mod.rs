//! Active health: when to check a backend, how, and what follows from it.

mod probe;
mod state;

pub(super) use self::{
    probe::{ProbeReport, Prober},
    state::{Change, Health, Rules},
};
