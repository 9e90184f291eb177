//! The scope of a run: `make test`, or `make test-all`, which leaves out no test.

/// Returns true in a run of all tests.
pub(crate) fn is_all() -> bool {
    std::env::var_os("EDGEWAY_TEST_ALL").is_some()
}

/// Reports that a test is left out; in a run of all tests, it fails instead.
pub(crate) fn leave_out(why: &str) {
    assert!(!is_all(), "cannot be left out of all tests: {why}");
    eprintln!("left out: {why}");
}
