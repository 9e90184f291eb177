//! `edgeway schema`.

use edgeway_gateway::schema;

use super::{Failure, out};

pub fn run() -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&schema::document()).expect("plain data");
    out::data(&text);
    Ok(())
}
