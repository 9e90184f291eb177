//! Exits that requests took on the fast path, by the gateway's own log.

use super::gateway::Gateway;

/// Environment of a gateway that logs them.
pub(crate) const LOGGED: (&str, &str) = ("EDGEWAY_LOG", "info,edgeway_proxy::fast_path=debug");

/// Message of such a line.
const MESSAGE: &str = "request on the fast path ";

/// Returns the exits of the requests for `target` so far: `stored` without a session, `session`, or
/// `proxy`. A line is written before the response, without the query.
pub(crate) fn exits(gateway: &Gateway, target: &str) -> Vec<String> {
    let log = gateway.stderr();
    let target = target.split('?').next();
    let lines = log.lines().filter_map(|line| line.split_once(MESSAGE));
    lines
        .filter_map(|(_, fields)| {
            let path = fields
                .split(' ')
                .find_map(|field| field.strip_prefix("path="));
            let exit = fields
                .split(' ')
                .find_map(|field| field.strip_prefix("exit="));
            let (path, exit) = path.zip(exit).expect("both are in the line");
            (Some(path) == target).then(|| exit.to_owned())
        })
        .collect()
}
