//! `edgeway schema`.

use edgeway_gateway::schema;

use super::{Failure, out};

pub fn run() -> Result<(), Failure> {
    out::json(&schema::document());
    Ok(())
}
