//! `edgeway schema`.

use std::process::ExitCode;

use super::out;
use crate::gateway::schema;

pub(super) fn run() -> ExitCode {
    let text = serde_json::to_string_pretty(&schema::document()).expect("plain data");
    out::data(&text);
    ExitCode::SUCCESS
}
