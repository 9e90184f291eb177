//! Reports limits on clients that make no sense.

use edgeway_base::units::ByteSize;
use edgeway_config::model::ListenerConfig;

use super::compile::Compiler;

/// Longest header section that the edge reads.
const MAX_HEAD_LEN: ByteSize = ByteSize(1_000_000);
/// Shortest limit that a usual request fits into.
const MIN_HEAD_LEN: ByteSize = ByteSize(1 << 10);
/// Longest request line, regardless of the configuration: less than the 64 KiB of a URI.
const MAX_LINE_LEN: ByteSize = ByteSize(60 << 10);
/// Bound on header fields: 256 can be read, and the gateway adds some.
const MAX_HEADERS: u32 = 200;

const CODE: &str = "edgeway::listener::limits";

impl Compiler<'_> {
    /// Reports limits that no request could meet, or that have no effect.
    pub(super) fn check_limits(&mut self, listener: &ListenerConfig, is_unix: bool) {
        let place = listener.limits.place;
        let limits = &listener.limits.value;
        for (key, time) in [
            ("header_timeout", limits.header_timeout),
            ("idle_timeout", limits.idle_timeout),
            ("send_timeout", limits.send_timeout),
        ] {
            if time.0.is_zero() {
                self.at(place, CODE).error(
                    format!("`{key}: 0s` would close every connection at once"),
                    "write a time such as `10s`; a long one such as `1h` has the effect of no \
                     limit",
                );
            }
        }
        if limits.body_grace.0.is_zero() && limits.body_rate.0 > 0 {
            self.at(place, CODE).error(
                "`body_grace: 0s` would end every request with a body",
                "write a time such as `10s`, or `body_rate: 0` for no such limit",
            );
        }
        for (key, max) in [
            ("connections", limits.connections),
            ("connections_per_ip", limits.connections_per_ip),
            ("connections_per_network", limits.connections_per_network),
        ] {
            if max == Some(0) {
                self.at(place, CODE).error(
                    format!("`{key}: 0` lets no client connect"),
                    "write a number, or leave the key out",
                );
            }
        }
        self.check_heads(listener);
        self.check_counts(listener, is_unix);
    }

    fn check_heads(&mut self, listener: &ListenerConfig) {
        let place = listener.limits.place;
        let limits = &listener.limits.value;
        let (request_line, headers) = (limits.request_line(), limits.headers());
        if headers.0 > MAX_HEAD_LEN.0 {
            self.at(place, CODE).error(
                format!("`headers: {headers}` is more than {MAX_HEAD_LEN}"),
                format!("write at most {MAX_HEAD_LEN}; browsers need less than 32KiB"),
            );
        }
        if headers.0 < MIN_HEAD_LEN.0 {
            self.at(place, CODE).error(
                format!("`headers: {headers}` is less than {MIN_HEAD_LEN}: most requests would be refused"),
                "write a number of bytes, such as 32KiB",
            );
        }
        if request_line.0 == 0 || headers.0 < request_line.0 {
            self.at(place, CODE).error(
                format!(
                    "`request_line: {request_line}` does not fit in `headers: {headers}`, of which \
                     it is a part"
                ),
                "write a `headers` that is larger than `request_line`, such as 32KiB and 8KiB",
            );
        } else if request_line.0 > MAX_LINE_LEN.0 {
            self.at(place, CODE).error(
                format!("`request_line: {request_line}` is more than {MAX_LINE_LEN}"),
                format!("write at most {MAX_LINE_LEN}"),
            );
        }
        if limits.header_count > MAX_HEADERS {
            self.at(place, CODE).error(
                format!(
                    "`header_count: {}` is more than {MAX_HEADERS}",
                    limits.header_count
                ),
                format!("write at most {MAX_HEADERS}"),
            );
        }
    }

    fn check_counts(&mut self, listener: &ListenerConfig, is_unix: bool) {
        let place = listener.limits.place;
        let limits = &listener.limits.value;
        let counts = [
            ("connections_per_ip", limits.connections_per_ip),
            ("connections_per_network", limits.connections_per_network),
            ("connections", limits.connections),
        ];
        let written: Vec<_> = counts
            .iter()
            .filter_map(|(key, most)| most.map(|most| (key, most)))
            .collect();
        for pair in written.windows(2) {
            let [(inner, few), (outer, many)] = pair else {
                continue;
            };
            if many < few {
                self.at(place, CODE).warn(
                    format!("`{inner}: {few}` has no effect: `{outer}: {many}` is reached first"),
                    format!("raise `{outer}`, or leave `{inner}` out"),
                );
            }
        }
        let by_address = limits.connections_per_ip.is_some();
        let is_counted = by_address || limits.connections_per_network.is_some();
        if is_counted && is_unix && listener.proxy_protocol.is_none() {
            self.at(place, CODE).warn(
                "connections to a unix socket have no address to count them by",
                "leave `connections_per_ip` and `connections_per_network` out, or have the \
                 clients' addresses sent by `proxy_protocol`",
            );
        }
    }
}
