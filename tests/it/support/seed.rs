//! Seeds of tests that draw their own cases.

/// Seed of a run that sets no other one, so that a failure is about the change that is tested.
const USUAL: u64 = 48;

/// Returns the seed of a test, and prints it.
///
/// The environment variable `EDGEWAY_SEED` sets another one, to repeat a run; `random` draws it.
pub(crate) fn drawn() -> u64 {
    let given = std::env::var("EDGEWAY_SEED").ok();
    let seed = match given.as_deref() {
        None => USUAL,
        Some("random") => fastrand::u64(..),
        Some(seed) => seed.parse().expect("a number, or `random`"),
    };
    eprintln!("seed {seed}");
    seed
}
