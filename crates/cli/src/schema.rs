//! `edgeway schema`.

use std::process::ExitCode;

use edgeway_gateway::schema;

use super::out;

pub fn run() -> ExitCode {
    let text = serde_json::to_string_pretty(&schema::document()).expect("plain data");
    out::data(&text);
    ExitCode::SUCCESS
}
