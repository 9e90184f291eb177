//! Formats of images by `Accept`.

use std::collections::HashMap;

use edgeway_cache::nextjs::{NextRules, RequestShape, may_store, shape};
use edgeway_core::chain::KeyBuilder;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use super::script;
use crate::support::seed;

/// Invariant: if two requests share a stored image, Next.js chooses the same format for both,
/// whatever formats are configured.
#[test]
fn requests_with_one_key_get_one_format_from_the_app() {
    let seed = seed::drawn() & 0xffff_ffff;
    let output = script("accepts.mjs")
        .args([&seed.to_string(), "20000"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut by_key: HashMap<(Vec<u8>, usize), (String, Value)> = HashMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let accept = case["accept"].as_str().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        let query = Some(&b"url=%2Fa.png&w=64&q=75"[..]);
        let rules = NextRules::default();
        let path = b"/_next/image";
        let shape = shape(&Method::GET, path, query, &headers, &rules, None);
        let mut key = KeyBuilder::default();
        shape.key_parts(&mut key);
        for (formats, chosen) in case["chosen"].as_array().unwrap().iter().enumerate() {
            // A request that fails gets no image that could be stored.
            let is_stored = chosen.as_str().is_some_and(|own| is_stored(&shape, own));
            if !is_stored {
                continue;
            }
            let known = by_key.entry((key.as_bytes().to_vec(), formats));
            let (other, theirs) = known.or_insert_with(|| (accept.to_owned(), chosen.clone()));
            assert_eq!(chosen, theirs, "`{accept}` and `{other}`");
        }
    }
    // None of both, each alone, and both in either order, for four lists of formats.
    assert_eq!(by_key.len(), 5 * 4);
}

/// Returns true if an image of the type that was chosen is stored; an empty one is that of the
/// source.
fn is_stored(shape: &RequestShape, chosen: &str) -> bool {
    let mut headers = HeaderMap::new();
    let control = HeaderValue::from_static("public, max-age=60");
    headers.insert(header::CACHE_CONTROL, control);
    let own = if chosen.is_empty() {
        "image/png"
    } else {
        chosen
    };
    let Ok(own) = HeaderValue::from_str(own) else {
        return false;
    };
    headers.insert(header::CONTENT_TYPE, own);
    may_store(shape, StatusCode::OK, &headers).is_ok()
}
