//! Namespaces of the kernel for tests that mount a disk or run as process 1.

use std::process::{Command, Stdio};

use super::scope;

/// Returns the arguments with which `unshare` creates such namespaces here, so that `probe` succeeds
/// in them. Root needs no user namespace, and can create none within a changed root; there, the
/// propagation of mounts cannot be changed either.
///
/// Returns `None` on a machine that permits none of these ways, such as a container without
/// privileges; the test then reports that it was left out.
pub(crate) fn unshare(namespaces: &[&'static str], probe: &str) -> Option<Vec<&'static str>> {
    const USER: [&str; 2] = ["--user", "--map-root-user"];
    const UNCHANGED: [&str; 2] = ["--propagation", "unchanged"];
    let both = [USER, UNCHANGED].concat();
    let ways: [&[&'static str]; 4] = [&[], &UNCHANGED, &USER, &both];
    let mut ways = ways.into_iter().map(|way| [namespaces, way].concat());
    let way = ways.find(|way| {
        let status = Command::new("unshare")
            .args(way)
            .args(["sh", "-c", probe])
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    });
    if way.is_none() {
        scope::leave_out(&format!(
            "`unshare {}` is not permitted",
            namespaces.join(" ")
        ));
    }
    way
}
