//! The receipt of a purge as text, for the terminal and the status page: `templates/receipt.txt`.

use askama::Template;
use edgeway_base::out;
use edgeway_cache::purge::{PeerStates, Receipt};

#[derive(Template)]
#[template(path = "receipt.txt")]
struct ReceiptText<'a> {
    receipt: &'a Receipt,
}

/// Formats the receipt: the purges, the gateways that completed them, and those that did not.
pub fn receipt_text(receipt: &Receipt) -> String {
    ReceiptText { receipt }.to_string()
}
