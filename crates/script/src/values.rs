//! Host functions that need no request: URLs, texts, hashes.

use std::sync::Arc;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use bytes::Bytes;
use ring::{
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};
use rquickjs::{
    Array, ArrayBuffer, Ctx, Error, Exception, Object, Result, TypedArray, Value, function::Opt,
    qjs,
};
use url::{Url, quirks};

use super::{
    budget::CpuBudget,
    host::{self, add, latin_bytes, size},
    usv_string::UsvString,
};

/// Decoder of `atob` after the padding is removed (Infra standard, "forgiving-base64 decode").
const FORGIVING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Most strings that a function takes at a time, and their most bytes together.
const MAX_TEXTS: u32 = 64 << 10;
const MAX_TEXTS_LEN: usize = 8 << 20;

/// Adds these functions to `host`. To the engine each call is one step, however much data it
/// processes, so they check `budget` themselves.
pub(super) fn functions<'js>(host: &Object<'js>, budget: &Arc<CpuBudget>) -> Result<()> {
    texts(host, budget)?;
    let b = Arc::clone(budget);
    let digest = move |ctx: Ctx<'js>, hash: String, data: TypedArray<'js, u8>| {
        charge(&ctx, &b, size(&data))?;
        ArrayBuffer::new_copy(ctx, digest_of(&hash, &data).as_ref())
    };
    add(host, "digest", digest)?;
    let b = Arc::clone(budget);
    let hmac = move |ctx: Ctx<'js>,
                     hash: String,
                     secret: TypedArray<'js, u8>,
                     data: TypedArray<'js, u8>| {
        charge(&ctx, &b, size(&secret) + size(&data))?;
        let tag = hmac::sign(&key(&hash, &secret), &copied(&data));
        ArrayBuffer::new_copy(ctx, tag.as_ref())
    };
    add(host, "hmac", hmac)?;
    let b = Arc::clone(budget);
    let verify = move |ctx: Ctx<'js>,
                       hash: String,
                       secret: TypedArray<'js, u8>,
                       signature: TypedArray<'js, u8>,
                       data: TypedArray<'js, u8>| {
        charge(&ctx, &b, size(&secret) + size(&signature) + size(&data))?;
        // In constant time, which does not depend on how much of the signature is right.
        let verified = hmac::verify(&key(&hash, &secret), &copied(&data), &copied(&signature));
        Ok::<_, Error>(verified.is_ok())
    };
    add(host, "hmacVerify", verify)?;
    let b = Arc::clone(budget);
    add(host, "random", move |ctx: Ctx<'js>, length: usize| {
        charge(&ctx, &b, length)?;
        random(ctx, length)
    })
}

fn texts<'js>(host: &Object<'js>, budget: &Arc<CpuBudget>) -> Result<()> {
    let b = Arc::clone(budget);
    let parse = move |ctx: Ctx<'js>, UsvString(text): UsvString, base: Opt<Option<UsvString>>| {
        charge(&ctx, &b, text.len())?;
        Ok::<_, Error>(url_parse(&text, base.0.flatten()))
    };
    add(host, "urlParse", parse)?;
    let b = Arc::clone(budget);
    let set = move |ctx: Ctx<'js>,
                    UsvString(url): UsvString,
                    part: String,
                    UsvString(value): UsvString| {
        charge(&ctx, &b, url.len() + value.len())?;
        Ok::<_, Error>(url_set(&url, &part, &value))
    };
    add(host, "urlSet", set)?;
    let b = Arc::clone(budget);
    let parse = move |ctx: Ctx<'js>, UsvString(text): UsvString| {
        charge(&ctx, &b, text.len())?;
        Ok::<_, Error>(query_parse(&text))
    };
    add(host, "queryParse", parse)?;
    let b = Arc::clone(budget);
    let print = move |ctx: Ctx<'js>, flat: Array<'js>| {
        let flat = texts_of(&ctx, &b, &flat)?;
        Ok::<_, Error>(query_print(&flat))
    };
    add(host, "queryPrint", print)?;
    let b = Arc::clone(budget);
    let encode = move |ctx: Ctx<'js>, UsvString(text): UsvString| {
        charge(&ctx, &b, text.len())?;
        // A copy, which counts as the plugin's memory.
        ArrayBuffer::new_copy(ctx, text.as_bytes())
    };
    add(host, "utf8Encode", encode)?;
    let b = Arc::clone(budget);
    let decode = move |ctx: Ctx<'js>, bytes: TypedArray<'js, u8>, fatal: bool| {
        charge(&ctx, &b, size(&bytes))?;
        Ok::<_, Error>(utf8_decode(&bytes, fatal))
    };
    add(host, "utf8Decode", decode)?;
    let b = Arc::clone(budget);
    let encode = move |ctx: Ctx<'js>, UsvString(text): UsvString| {
        charge(&ctx, &b, text.len())?;
        Ok::<_, Error>(btoa(&text))
    };
    add(host, "btoa", encode)?;
    let b = Arc::clone(budget);
    let decode = move |ctx: Ctx<'js>, UsvString(text): UsvString| {
        charge(&ctx, &b, text.len())?;
        Ok::<_, Error>(atob(&text))
    };
    add(host, "atob", decode)
}

/// Returns the strings of an array. A plugin may put the same one in it a million times, which
/// costs the plugin nothing, and the gateway a copy of each.
pub(super) fn texts_of(
    ctx: &Ctx<'_>,
    budget: &CpuBudget,
    array: &Array<'_>,
) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let mut left = MAX_TEXTS_LEN;
    // The engine's own function for the length is limited to 2³¹, and panics beyond.
    let length: f64 = array.as_object().get("length")?;
    for at in 0..=MAX_TEXTS {
        if f64::from(at) >= length {
            break;
        }
        let UsvString(text) = array.get(at as usize)?;
        charge(ctx, budget, text.len())?;
        if text.len() > left || at == MAX_TEXTS {
            let why =
                format!("a list can have at most {MAX_TEXTS} strings and {MAX_TEXTS_LEN} bytes");
            return Err(Exception::throw_range(ctx, &why));
        }
        left -= text.len();
        texts.push(text);
    }
    Ok(texts)
}

pub(super) fn charge(ctx: &Ctx<'_>, budget: &CpuBudget, bytes: usize) -> Result<()> {
    if budget.charge(bytes) {
        return Ok(());
    }
    let _thrown = Exception::throw_message(ctx, "this hook used too much CPU time");
    let stop = ctx.catch();
    stop_for_good(ctx, &stop);
    Err(ctx.throw(stop))
}

/// Makes a stop uncatchable. A plugin that caught it would go on, and copy its texts once more
/// before the next check.
#[allow(unsafe_code, reason = "the engine has no other way to make its stop")]
fn stop_for_good(ctx: &Ctx<'_>, stop: &Value<'_>) {
    // SAFETY: both belong to the engine that runs.
    unsafe { qjs::JS_SetUncatchableError(ctx.as_raw().as_ptr(), stop.as_raw()) }
}

fn url_parse(text: &str, base: Option<UsvString>) -> Option<Vec<String>> {
    let base = match base {
        Some(UsvString(base)) => Some(Url::parse(&base).ok()?),
        None => None,
    };
    let url = Url::options().base_url(base.as_ref()).parse(text).ok()?;
    Some(parts(&url))
}

/// Returns the parts in the order of the list in `web/url.js`.
fn parts(url: &Url) -> Vec<String> {
    let parts = [
        quirks::href(url),
        quirks::protocol(url),
        quirks::username(url),
        quirks::password(url),
        quirks::host(url),
        quirks::hostname(url),
        quirks::port(url),
        quirks::pathname(url),
        quirks::search(url),
        quirks::hash(url),
        &quirks::origin(url),
    ];
    parts.map(str::to_owned).to_vec()
}

/// Sets a part as the standard's setters do: an invalid value leaves the part as it was.
fn url_set(url: &str, part: &str, value: &str) -> Option<Vec<String>> {
    let mut url = Url::parse(url).ok()?;
    // The setters return whether they changed something, which is not needed.
    match part {
        "href" => quirks::set_href(&mut url, value).ok()?,
        "protocol" => drop(quirks::set_protocol(&mut url, value)),
        "username" => drop(quirks::set_username(&mut url, value)),
        "password" => drop(quirks::set_password(&mut url, value)),
        "host" => drop(quirks::set_host(&mut url, value)),
        "hostname" => drop(quirks::set_hostname(&mut url, value)),
        "port" => drop(quirks::set_port(&mut url, value)),
        "pathname" => quirks::set_pathname(&mut url, value),
        "search" => quirks::set_search(&mut url, value),
        _ => quirks::set_hash(&mut url, value),
    }
    Some(parts(&url))
}

fn query_parse(text: &str) -> Vec<String> {
    let pairs = form_urlencoded::parse(text.as_bytes());
    pairs
        .flat_map(|(name, value)| [name.into_owned(), value.into_owned()])
        .collect()
}

fn query_print(flat: &[String]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for pair in flat.chunks_exact(2) {
        text.append_pair(&pair[0], &pair[1]);
    }
    text.finish()
}

fn utf8_decode(bytes: &TypedArray<'_, u8>, fatal: bool) -> Option<String> {
    let bytes = copied(bytes);
    if fatal {
        return std::str::from_utf8(&bytes).ok().map(str::to_owned);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn btoa(text: &str) -> Option<String> {
    Some(STANDARD.encode(latin_bytes(text)?))
}

fn atob(text: &str) -> Option<String> {
    let encoded: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let mut encoded = encoded.as_str();
    if encoded.len().is_multiple_of(4) {
        encoded = encoded.strip_suffix('=').unwrap_or(encoded);
        encoded = encoded.strip_suffix('=').unwrap_or(encoded);
    }
    let bytes = FORGIVING.decode(encoded).ok()?;
    Some(bytes.into_iter().map(char::from).collect())
}

fn digest_of(hash: &str, data: &TypedArray<'_, u8>) -> digest::Digest {
    let algorithm = match hash {
        "SHA-1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        "SHA-384" => &digest::SHA384,
        "SHA-512" => &digest::SHA512,
        _ => &digest::SHA256,
    };
    digest::digest(algorithm, &copied(data))
}

fn copied(bytes: &TypedArray<'_, u8>) -> Bytes {
    host::copied(Some(bytes), None).unwrap_or_default()
}

fn key(hash: &str, key: &TypedArray<'_, u8>) -> hmac::Key {
    let algorithm = match hash {
        "SHA-1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        "SHA-384" => hmac::HMAC_SHA384,
        "SHA-512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    hmac::Key::new(algorithm, &copied(key))
}

fn random(ctx: Ctx<'_>, length: usize) -> Result<ArrayBuffer<'_>> {
    let mut bytes = vec![0; length.min(65_536)];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Exception::throw_message(&ctx, "the system gives no random numbers"))?;
    ArrayBuffer::new_copy(ctx, bytes)
}
