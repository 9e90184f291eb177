//! Misspelt places that keys and tokens are read from: they are no secrets.

/// Returns true if a value is a misspelt place that a key or token is read from.
pub(super) fn is_near_place(value: &str) -> bool {
    const WHOLE: &str = "client.ip client.network client_ip remote_addr api_key client";
    const PARTS: [&str; 7] = [
        "client", "header", "headers", "cookie", "cookies", "query", "jwt",
    ];
    let mut parts = value.splitn(2, ['.', ':']);
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next());
    let is_name = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphabetic() || b"-_.".contains(&byte))
    };
    let near = |own: &str| strsim::damerau_levenshtein(own, value) <= 2;
    rest.is_some_and(|rest| PARTS.contains(&first) && is_name(rest)) || WHOLE.split(' ').any(near)
}
