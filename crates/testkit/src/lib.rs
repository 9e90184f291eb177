//! Seeds and numbers of cases of tests that draw their own.
#![expect(
    clippy::print_stderr,
    reason = "a test that fails shows what it printed"
)]

/// Seed of a run that sets no other one, so that a failure is about the change that is tested.
const USUAL: u64 = 48;

/// Returns the seed of a test, and prints it.
///
/// The environment variable `EDGEWAY_SEED` sets another one, to repeat a run; `random` draws it, as a
/// hunt does.
///
/// # Panics
/// If `EDGEWAY_SEED` is neither a number nor `random`.
#[must_use]
pub fn drawn() -> u64 {
    let given = std::env::var("EDGEWAY_SEED").ok();
    let seed = match given.as_deref() {
        None if !is_hunt() => USUAL,
        None | Some("random") => fastrand::u64(..),
        Some(seed) => seed.parse().expect("a number, or `random`"),
    };
    eprintln!("seed {seed}");
    seed
}

/// Returns the number of cases that a test draws: a few in `make test`, all of them in a hunt.
#[must_use]
pub fn cases<N>(few: N, all: N) -> N {
    if is_hunt() { all } else { few }
}

/// Returns true in `make hunt`, which draws for as long as it takes.
#[must_use]
pub fn is_hunt() -> bool {
    std::env::var_os("EDGEWAY_HUNT").is_some()
}
