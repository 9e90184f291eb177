//! Intended differences from the build before, which a hunt compares with this one.

use std::collections::BTreeMap;

use super::{Way, draw::Drawn, message::Message, side::Outcome};

/// Exchange whose outcomes are compared.
pub(super) struct Compared<'a> {
    pub(super) way: Way,
    /// True if the origin speaks HTTP/2.
    pub(super) is_http2: bool,
    pub(super) case: &'a Drawn,
}

impl Compared<'_> {
    /// Returns true if the request has this text, such as a header.
    fn asks(&self, text: &str) -> bool {
        let request = self.case.pieces.concat();
        let request = String::from_utf8_lossy(&request[..request.len().min(2000)]).into_owned();
        request.contains(text)
    }

    /// Returns true if Pingora's proxy took the request before: the relay had no HTTP/2 backends, no
    /// filters that read bodies and, over HTTP/1, no several options of `Connection`.
    fn was_pingoras(&self) -> bool {
        let options = ["x-gone\r\n", "upgrade, HTTP2", "close\r\nConnection:"];
        let has_options = self.way != Way::Http2 && options.iter().any(|it| self.asks(it));
        self.is_http2 || has_options || self.asks(" /read/") || self.asks("\r\nRange:")
    }
}

/// Difference that is intended.
struct Row {
    reason: &'static str,
    /// Makes two outcomes equal in this, ours and the one before, where they differ in it.
    level: fn(&Compared<'_>, &mut Outcome, &mut Outcome),
}

/// Calls `level` with each message to the client and the one before.
fn each(
    ours: &mut Outcome,
    before: &mut Outcome,
    mut level: impl FnMut(&mut Message, &mut Message),
) {
    for (own, before) in ours.to_client.iter_mut().zip(&mut before.to_client) {
        level(own, before);
    }
}

/// Takes the headers of this name from our message.
fn take(own: &Message, before: &mut Message, name: &str) {
    before.remove(name);
    let taken = own.headers.iter().filter(|(given, _)| given == name);
    before.headers.extend(taken.cloned());
    before.headers.sort_by(|a, b| a.0.cmp(&b.0));
}

const ROWS: &[Row] = &[
    Row {
        reason: "interim responses arrive over HTTP/2",
        level: |compared, ours, before| {
            if compared.way == Way::Http2 || compared.is_http2 {
                let last = before.to_client.clone();
                ours.to_client
                    .retain(|it| !it.is_interim() || last.contains(it));
            }
        },
    },
    Row {
        reason: "the origin's `Date` is kept where Pingora replaced it",
        level: |compared, ours, before| {
            each(ours, before, |own, before| {
                let is_kept = own.value("date").is_some_and(|it| it.contains(" 2015 "));
                if is_kept && (compared.way == Way::Http2 || compared.was_pingoras()) {
                    take(own, before, "date");
                }
            });
        },
    },
    Row {
        reason: "a connection stays open that Pingora closed: after a failure, a body that was read \
                 first, or options that it does not know",
        level: |compared, ours, before| {
            each(ours, before, |own, before| {
                let is_kept = own.has("connection", "keep-alive");
                if is_kept && before.has("connection", "close") && compared.was_pingoras() {
                    take(own, before, "connection");
                }
            });
        },
    },
    Row {
        reason: "a response without content has its length, or none, where it was chunked",
        level: |_, ours, before| {
            each(ours, before, |own, before| {
                if own.content.is_empty() && before.content.is_empty() {
                    for name in ["transfer-encoding", "content-length", "vary"] {
                        take(own, before, name);
                    }
                }
            });
        },
    },
    Row {
        reason: "an empty body that was read first keeps its framing",
        level: |compared, ours, before| {
            for (own, before) in ours.to_origin.iter().zip(&mut before.to_origin) {
                let is_empty = own.content.is_empty() && before.content.is_empty();
                if is_empty && compared.asks(" /read/") {
                    take(own, before, "transfer-encoding");
                }
            }
        },
    },
    Row {
        reason: "a backend gets no `Expect` with a body that was read first",
        level: |compared, ours, before| {
            for (own, before) in ours.to_origin.iter().zip(&mut before.to_origin) {
                if compared.asks(" /read/") {
                    take(own, before, "expect");
                }
            }
        },
    },
    Row {
        reason: "trailers of HTTP/2 arrive with a response that is compressed or could be stored, \
                 and none with a 304",
        level: |compared, ours, before| {
            each(ours, before, |own, before| {
                let is_cached = own.value("x-cache-status").is_some();
                if compared.is_http2 && (is_cached || own.is_compressed()) {
                    take(own, before, "trailer x-sum");
                }
            });
        },
    },
    Row {
        reason: "a 304 from the cache has no `Content-Language`",
        level: |_, ours, before| {
            each(ours, before, |own, before| {
                let is_cached = own.value("x-cache-status").is_some();
                if own.status() == "304" && is_cached {
                    take(own, before, "content-language");
                }
            });
        },
    },
    Row {
        reason: "all headers of a 304 are taken, also if the response may no longer be stored",
        level: |compared, ours, before| {
            each(ours, before, |own, before| {
                let status = own.value("cache-status").unwrap_or_default();
                let is_same = own.content == before.content && own.start == before.start;
                let is_refused = status.contains("fwd-status=304; detail=");
                if compared.was_pingoras() && is_refused && is_same {
                    before.headers.clone_from(&own.headers);
                }
            });
        },
    },
];

/// Makes outcomes of this build and the one before equal in what is intended, and returns the
/// reasons.
pub(super) fn level(
    compared: &Compared<'_>,
    ours: &mut Outcome,
    before: &mut Outcome,
) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    for row in ROWS {
        if ours == before {
            break;
        }
        let was = (ours.clone(), before.clone());
        (row.level)(compared, ours, before);
        if (&was.0, &was.1) != (&*ours, &*before) {
            reasons.push(row.reason);
        }
    }
    reasons
}

/// Prints how often each row was needed.
#[expect(
    clippy::print_stdout,
    reason = "a row that nothing needs any more can go"
)]
pub(super) fn print(needed: &BTreeMap<&'static str, usize>) {
    for (reason, times) in needed {
        println!("{times} times: {reason}");
    }
}
