//! The contract of filters, the live state that outlives a configuration, and the limits on clients:
//! what every feature of the gateway is made with.

pub mod chain;
pub mod limits;
pub mod open_headers;
pub mod registry;
pub mod zones;

use edgeway_base as base;
use edgeway_config as config;
