//! The configuration as written: YAML with the place of every value, and several problems reported
//! at once. No Pingora, no async, no defaults that depend on the machine.

pub mod changes;
pub mod diagnostic;
pub mod model;
pub mod presets;
pub mod scalar;
pub mod source;
pub mod tree;

use edgeway_base as base;
