//! The receipt of a purge as text, for the terminal and the status page.

use std::fmt::Write as _;

use edgeway_base::out::{counted, printable};
use edgeway_cache::purge::{AppliedGateway, Instance, PeerStates, Receipt};

/// Formats the receipt: the purges, the gateways that completed them, and those that did not.
pub fn receipt_text(receipt: &Receipt) -> String {
    let mut text = String::new();
    let mut line = |word: &str, rest: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{word:<9} {}", printable(&rest));
    };
    for purge in &receipt.purges {
        line("purged", purge.to_string());
    }
    for instance in &receipt.instances {
        let word = if instance.is_done() {
            "notified"
        } else {
            "failed"
        };
        line(word, instance_text(instance));
    }
    for AppliedGateway { gateway, objects } in &receipt.applied {
        let objects = match objects {
            Some(count) => counted(*count, "object"),
            None => "number of objects not known".to_owned(),
        };
        let place = if *gateway == receipt.gateway {
            "asked, "
        } else {
            ""
        };
        line("applied", format!("{gateway} ({place}{objects})"));
    }
    for gateway in &receipt.lapsed {
        line(
            "lapsed",
            format!("{gateway} (cut off: it applies this purge as soon as it is linked again)"),
        );
    }
    for gateway in &receipt.pending {
        line("pending", format!("{gateway} (not confirmed yet)"));
    }
    line("others", others(receipt));
    text
}

fn instance_text(instance: &Instance) -> String {
    let address = &instance.address;
    match (&instance.status, &instance.error) {
        (_, Some(error)) => format!("{address}: {error}"),
        (Some(status), None) => format!("{address}: {status}"),
        (None, None) => address.clone(),
    }
}

fn others(receipt: &Receipt) -> String {
    let took = receipt.took_ms;
    match receipt.others {
        PeerStates::Alone => "none: no `redis` is configured".to_owned(),
        PeerStates::Reached => format!("all of them are done, after {took:.0} ms"),
        PeerStates::Linked => format!(
            "all that are linked are done, after {took:.0} ms; those cut off may still serve older \
             responses"
        ),
        PeerStates::Waiting => format!("not all of them are done after {took:.0} ms: try again"),
        PeerStates::Unreached => {
            "not reached: Redis is lost or rejects it; sent once it takes it".to_owned()
        }
    }
}
