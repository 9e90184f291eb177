//! Edgeway with an additional filter compiled in: the whole program, with `sunset` at routes.
//!
//! `docs/adding-a-filter.md` walks through it. `cargo run --example own_gateway -- run -c
//! examples/own_gateway/edgeway.yaml`

mod sunset;

use std::process::ExitCode;

use edgeway::CustomFilter;

use sunset::Sunset;

fn main() -> ExitCode {
    // Requests after the sunset are refused before they are counted or reach a backend.
    edgeway::main_with([CustomFilter::before::<Sunset>("in_flight")])
}
