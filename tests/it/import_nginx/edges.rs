//! Edges of a path: spellings on both sides of the line that a location draws.

/// Files below each folder that a shape serves.
pub(super) const FILES: [&str; 12] = [
    "index.html",
    "app.js",
    "style.css",
    "img/a.jpg",
    "img/b c.png",
    "img/logo.svg",
    "docs/index.html",
    "docs/guide.html",
    "favicon.ico",
    "robots.txt",
    "big.bin",
    ".well-known/acme/token",
];

/// Returns the edges of a path, each with its kind: all plain ones, and some of the spellings that
/// mean the same path.
pub(super) fn edges(path: &str, random: &mut fastrand::Rng) -> Vec<(String, &'static str)> {
    let below = format!("{}/", path.trim_end_matches('/'));
    let short = path.trim_end_matches('/');
    let mut all = vec![
        (path.to_owned(), "path"),
        (format!("{path}?a=1&b=%20x"), "query"),
        (format!("{path}?"), "query"),
        (format!("{path}?q=a?b=c/../d//e"), "query"),
        (format!("{path}x"), "path"),
        (format!("{path}xyz/more"), "path"),
        (below.clone(), "path"),
        (format!("{below}x"), "path"),
        (format!("{below}x/y/"), "path"),
        (format!("{below}x.html"), "path"),
        (format!("{below}img/a.jpg"), "path"),
        (format!("{below}a%20b"), "encoded"),
        (format!("{below}caf%C3%A9"), "encoded"),
        (format!("{below}a;b=c,d+e"), "path"),
        (format!("{below}a%3Fb%23c"), "encoded"),
        (format!("{below}a%2Fb"), "encoded slash"),
    ];
    let mut dots = vec![
        format!("{below}./x"),
        format!("{below}y/../x"),
        format!("/x/..{path}"),
    ];
    let slashes = [format!("{below}a//b"), format!("/{path}")];
    if !short.is_empty() {
        let cut: String = short.chars().take(short.chars().count() - 1).collect();
        all.push((short.to_owned(), "path"));
        if cut.len() > 1 {
            all.push((cut, "path"));
        }
        all.push((path.to_uppercase(), "case"));
        if let Some(at) = path.find(|letter: char| letter.is_ascii_alphabetic()) {
            let (before, rest) = path.split_at(at);
            let letter = rest.as_bytes()[0];
            let spelled = format!("{before}%{letter:02x}{}", &rest[1..]);
            all.push((spelled, "encoded letter"));
        }
        dots.push(format!("{below}../x"));
    }
    all.push((dots.swap_remove(random.usize(..dots.len())), "dot segments"));
    let slash = &slashes[random.usize(..slashes.len())];
    all.push((slash.clone(), "double slash"));
    all
}

/// Returns targets that no browser sends.
pub(super) fn strange(path: &str, host: &str) -> Vec<String> {
    let below = format!("{}/", path.trim_end_matches('/'));
    vec![
        format!("{below}a|b[c]\"'"),
        format!("{below}caf\u{e9}"),
        format!("{below}%2e%2e/x"),
        format!("{below}a%zz"),
        format!("{below}a%00b"),
        format!("{below}x#part"),
        format!("{below}a%5cb"),
        format!("http://{host}{path}"),
        format!("http://{host}:80{path}"),
        "http://other.example/x".to_owned(),
        "nowhere".to_owned(),
        "*".to_owned(),
    ]
}
