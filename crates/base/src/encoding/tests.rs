//! Tests of negotiation, of decoding the output, and of flushing.

use proptest::prelude::*;

use super::{
    testkit::{decoded, is_complete, noise},
    *,
};

fn choice(lines: &[&str], offered: &[Encoding]) -> Option<Encoding> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
    }
    AcceptedEncodings::from_headers(&headers).choose(offered.iter().copied())
}

#[test]
fn the_clients_weight_goes_first_and_our_order_second() {
    use Encoding::{Br, Gzip, Zstd};
    for (lines, expected) in [
        (&["gzip, deflate, br, zstd"][..], Some(Zstd)),
        (&["gzip, deflate, br"], Some(Br)),
        (&["gzip"], Some(Gzip)),
        (&["x-gzip"], Some(Gzip)),
        (&["GZip"], Some(Gzip)),
        (&["gzip;q=0.9, br;q=0.8, zstd;q=0.1"], Some(Gzip)),
        (&["gzip;q=1.0, br;q=1"], Some(Br)),
        (&["gzip;q=0.001"], Some(Gzip)),
        (&["gzip", "br"], Some(Br)),
        (&["br;q=0", "gzip"], Some(Gzip)),
        (&["gzip;q=0, gzip"], Some(Gzip)),
        (&["gzip;q=0"], None),
        (&["deflate"], None),
        (&[""], None),
        (&[], None),
        (&["*"], Some(Zstd)),
        (&["*, zstd;q=0"], Some(Br)),
        (&["gzip, *;q=0"], Some(Gzip)),
        (&["*;q=0"], None),
        (&["identity"], None),
        (&["identity;q=0"], None),
        (&["identity;q=0, gzip;q=0.1"], Some(Gzip)),
        (&["identity, gzip;q=0.5"], None),
        (&["identity;q=0.5, gzip;q=0.5"], Some(Gzip)),
        (&["identity;q=0.5, gzip"], Some(Gzip)),
        (&["gzip;q=high, br;q=0.2"], Some(Br)),
    ] {
        assert_eq!(choice(lines, &Encoding::ALL), expected, "{lines:?}");
    }
    assert_eq!(choice(&["gzip, br, zstd"], &[Gzip, Br]), Some(Gzip));
    assert_eq!(choice(&["zstd"], &[Gzip, Br]), None);
    assert_eq!(choice(&["zstd"], &[]), None);
}

#[test]
fn a_body_survives_the_round_trip_at_every_level() {
    let body = "edgeway ".repeat(4000);
    for encoding in Encoding::ALL {
        for level in encoding.levels() {
            let encoded = encode(encoding, level, body.as_bytes()).unwrap();
            assert!(encoded.len() < body.len() / 20, "{encoding:?} {level}");
            assert_eq!(decoded(encoding, &encoded), body.as_bytes());
            assert!(is_complete(encoding, &encoded), "{encoding:?} {level}");
        }
    }
}

#[test]
fn a_level_out_of_range_is_taken_for_the_nearest() {
    for encoding in Encoding::ALL {
        let nearest = encode(encoding, *encoding.levels().end(), b"body").unwrap();
        assert_eq!(encode(encoding, 255, b"body").unwrap(), nearest);
    }
}

#[test]
fn an_empty_body_is_a_complete_stream() {
    for encoding in Encoding::ALL {
        let encoded = encode(encoding, 5, b"").unwrap();
        assert!(!encoded.is_empty());
        assert!(is_complete(encoding, &encoded), "{encoding:?}");
    }
}

#[test]
fn a_stream_without_its_end_is_recognised_as_truncated() {
    for encoding in Encoding::ALL {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(encoding, 5, None).unwrap();
        encoder.push(b"half of a page", &mut out).unwrap();
        assert_eq!(decoded(encoding, &out), b"half of a page");
        assert!(!is_complete(encoding, &out), "{encoding:?}");
    }
}

#[test]
fn large_chunks_are_flushed_completely() {
    let chunk = noise(1 << 20);
    for encoding in Encoding::ALL {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(encoding, 3, None).unwrap();
        for count in 1..=2 {
            encoder.push(&chunk, &mut out).unwrap();
            let seen = decoded(encoding, &out);
            assert_eq!(seen.len(), count * chunk.len(), "{encoding:?}");
        }
        encoder.finish(&[], &mut out).unwrap();
        assert!(is_complete(encoding, &out), "{encoding:?}");
    }
}

/// Returns bodies as apps send them.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = fastrand::Rng::with_seed(3);
    let (mut json, mut html) = (Vec::new(), String::from("<!doctype html><ul>"));
    for id in 0..300 {
        let (name, price) = (random.u32(..5000), random.u32(..10_000));
        let tag: String = (0..8).map(|_| random.lowercase()).collect();
        let stock = random.bool();
        json.push(serde_json::json!({
            "id": id, "name": name, "price": price, "tag": tag, "stock": stock,
        }));
        html += "<li class=\"card\"><a href=\"/p/";
        html += &tag;
        html += "\">Product</a> <b>";
        html += &price.to_string();
        html += "</b></li>\n";
    }
    let json = serde_json::Value::from(json).to_string();
    // Not a file of the code: a few changed lines of it would decide about a percent.
    let text = include_str!("../../../../LICENSE-APACHE");
    vec![
        ("json", json.into_bytes()),
        ("html", html.into_bytes()),
        ("text", text.as_bytes().to_vec()),
        ("short", text.as_bytes()[..1200].to_vec()),
        ("noise", noise(20_000)),
    ]
}

#[test]
fn a_whole_body_is_no_larger_than_a_stream() {
    for (name, body) in samples() {
        for level in Encoding::Gzip.levels() {
            let whole = encode(Encoding::Gzip, level, &body).unwrap();
            let mut stream = Vec::new();
            let mut encoder = Encoder::new(Encoding::Gzip, level, None).unwrap();
            let (one, two) = body.split_at(1);
            // Nothing is flushed in between, which would make it larger.
            encoder.push_quietly(one, &mut stream);
            encoder.finish(two, &mut stream).unwrap();
            println!(
                "{name} {level}: {} of {}, stream {}",
                whole.len(),
                body.len(),
                stream.len()
            );
            assert_eq!(decoded(Encoding::Gzip, &stream), body);
            let bound = stream.len() + stream.len() / 100 + 8;
            assert!(whole.len() <= bound, "{name} {level}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// States that others have used, and left anywhere in a body, leave no trace.
    #[test]
    fn a_used_state_encodes_as_a_new_one(
        bodies in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 1..9000), 1_usize..5, any::<bool>()), 2..6),
        encoding in proptest::sample::select(&Encoding::ALL[..]),
        level in 1u8..7,
    ) {
        let encoded = |body: &[u8], pieces: usize, is_left: bool| {
            let mut encoder = Encoder::new(encoding, level, None).unwrap();
            let mut out = Vec::new();
            for piece in body.chunks(body.len().div_ceil(pieces)) {
                encoder.push(piece, &mut out).unwrap();
            }
            if !is_left {
                encoder.finish(&[], &mut out).unwrap();
            }
            out
        };
        for (body, pieces, is_left) in &bodies {
            let here = encoded(body, *pieces, *is_left);
            // A thread of its own has used none.
            let fresh = std::thread::scope(|scope| {
                scope.spawn(|| encoded(body, *pieces, *is_left)).join().unwrap()
            });
            prop_assert!(here == fresh);
            prop_assert_eq!(&decoded(encoding, &here), body);
            prop_assert_eq!(is_complete(encoding, &here), !is_left);
            let whole = encode(encoding, level, body).unwrap();
            prop_assert_eq!(&decoded(encoding, &whole), body);
            prop_assert!(is_complete(encoding, &whole));
        }
    }

    #[test]
    fn whatever_went_in_is_out_after_each_chunk(
        chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..3000), 1..6),
        encoding in proptest::sample::select(&Encoding::ALL[..]),
        level in 1u8..7,
        knows_length in any::<bool>(),
    ) {
        let input = chunks.concat();
        let length = knows_length.then_some(input.len() as u64);
        let mut encoder = Encoder::new(encoding, level, length).unwrap();
        let (mut out, mut sent) = (Vec::new(), 0);
        for chunk in &chunks {
            encoder.push(chunk, &mut out).unwrap();
            sent += chunk.len();
            prop_assert_eq!(&decoded(encoding, &out)[..], &input[..sent]);
        }
        encoder.finish(&[], &mut out).unwrap();
        prop_assert!(is_complete(encoding, &out));
    }

    #[test]
    fn a_choice_is_one_that_was_offered_and_wanted(line in "[a-z*;=q0-9., -]{0,60}") {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(&line).unwrap());
        let accepted = AcceptedEncodings::from_headers(&headers);
        if let Some(encoding) = accepted.choose([Encoding::Br, Encoding::Gzip]) {
            prop_assert!(encoding != Encoding::Zstd);
            prop_assert!(accepted.weight(encoding).is_wanted());
        }
    }
}
