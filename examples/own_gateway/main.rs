//! Edgeway with one more filter compiled in: the whole program, with `sunset` at routes.
//!
//! `docs/adding-a-filter.md` walks through it. `cargo run --example own_gateway -- run -c
//! examples/own_gateway/edgeway.yaml`

mod sunset;

use std::process::ExitCode;

use edgeway::{cli, filters::own::Own};

use sunset::Sunset;

fn main() -> ExitCode {
    // Whoever is late is told so before anything is counted or asked of a backend.
    cli::main_with([Own::before::<Sunset>("in_flight")])
}
