//! Seeds of tests that draw their own cases.

/// Draws the seed of a test, or takes the one that is given to repeat a run, and prints it.
///
/// The environment variable is `EDGEWAY_SEED`.
pub(crate) fn drawn() -> u64 {
    let given = std::env::var("EDGEWAY_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    eprintln!("seed {seed}");
    seed
}
