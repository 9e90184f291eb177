//! Small files in `MaxMind`'s format, built from networks and their records.
//! (The format: <https://maxmind.github.io/MaxMind-DB/>, version 2.0.)

use std::net::IpAddr;

use serde_json::{Value, json};

const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// Builds an IPv6 file, with IPv4 below `::/96`. Networks must not overlap.
pub(crate) fn mmdb(kind: &str, networks: &[(&str, Value)]) -> Vec<u8> {
    let mut nodes = vec![[Child::Nothing; 2]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let (address, length) = bits(network);
        let offset = data.len();
        encode(value, &mut data);
        let mut at = 0;
        for depth in 0..length - 1 {
            let side = usize::from(address >> (127 - depth) & 1 == 1);
            at = match nodes[at][side] {
                Child::Node(next) => next,
                Child::Data(_) => panic!("{network} lies in another network"),
                Child::Nothing => {
                    nodes.push([Child::Nothing; 2]);
                    nodes[at][side] = Child::Node(nodes.len() - 1);
                    nodes.len() - 1
                }
            };
        }
        let side = usize::from(address >> (128 - length) & 1 == 1);
        nodes[at][side] = Child::Data(offset);
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for child in nodes.into_iter().flatten() {
        let record = match child {
            Child::Nothing => count,
            Child::Node(node) => node,
            // The data begin after 16 bytes that separate them from the tree.
            Child::Data(offset) => count + 16 + offset,
        };
        let record = u32::try_from(record).expect("it is small");
        file.extend(record.to_be_bytes());
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(MARKER);
    // Each number has the type that the format requires.
    let words = [
        ("database_type", json!(kind)),
        ("description", json!({ "en": "for a test" })),
        ("languages", json!(["en"])),
    ];
    let count = u64::try_from(count).expect("it is small");
    let numbers = [
        ("binary_format_major_version", 5, 2),
        ("binary_format_minor_version", 5, 0),
        ("build_epoch", 9, 1_700_000_000),
        ("ip_version", 5, 6),
        ("node_count", 6, count),
        ("record_size", 5, 32),
    ];
    head(7, words.len() + numbers.len(), &mut file);
    for (key, value) in words {
        encode(&json!(key), &mut file);
        encode(&value, &mut file);
    }
    for (key, kind, number) in numbers {
        encode(&json!(key), &mut file);
        let bytes = number.to_be_bytes();
        let bytes = &bytes[usize::try_from(number.leading_zeros() / 8).expect("it is small")..];
        head(kind, bytes.len(), &mut file);
        file.extend(bytes);
    }
    file
}

#[derive(Clone, Copy)]
enum Child {
    Nothing,
    Node(usize),
    Data(usize),
}

fn bits(network: &str) -> (u128, u32) {
    let (address, length) = network.split_once('/').expect("it has a length");
    let length: u32 = length.parse().expect("it is a number");
    match address.parse().expect("it is an address") {
        IpAddr::V4(address) => (u128::from(u32::from(address)), length + 96),
        IpAddr::V6(address) => (address.to_bits(), length),
    }
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => {
            head(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        Value::Bool(is_so) => head(14, usize::from(*is_so), out),
        Value::Number(number) => {
            if let Some(integer) = number.as_u64() {
                let integer = u32::try_from(integer).expect("it is small");
                head(6, 4, out);
                out.extend(integer.to_be_bytes());
            } else {
                head(3, 8, out);
                out.extend(number.as_f64().expect("it is a number").to_be_bytes());
            }
        }
        Value::Array(items) => {
            head(11, items.len(), out);
            for item in items {
                encode(item, out);
            }
        }
        Value::Object(entries) => {
            head(7, entries.len(), out);
            for (key, value) in entries {
                encode(&Value::String(key.clone()), out);
                encode(value, out);
            }
        }
        Value::Null => panic!("the format has no null"),
    }
}

/// Writes the type and the length; types beyond 7 have a byte of their own.
fn head(kind: u8, length: usize, out: &mut Vec<u8>) {
    let (short, more) = if length < 29 {
        (u8::try_from(length).expect("it is small"), None)
    } else {
        (29, Some(u8::try_from(length - 29).expect("it is small")))
    };
    if kind <= 7 {
        out.push(kind << 5 | short);
    } else {
        out.push(short);
        out.push(kind - 7);
    }
    out.extend(more);
}

/// Returns the record of a city for the loopback address, in the format of GeoLite2-City.
pub(crate) fn loopback_in_munich() -> Vec<u8> {
    let munich = json!({
        "city": { "geoname_id": 2_867_714, "names": { "de": "München", "en": "Munich" } },
        "continent": { "code": "EU", "names": { "en": "Europe" } },
        "country": { "iso_code": "DE", "is_in_european_union": true, "names": { "en": "Germany" } },
        "location": { "accuracy_radius": 10, "latitude": 48.15, "longitude": 11.58, "time_zone": "Europe/Berlin" },
        "subdivisions": [{ "iso_code": "BY", "names": { "en": "Bavaria" } }],
    });
    mmdb("GeoLite2-City", &[("127.0.0.0/8", munich)])
}
