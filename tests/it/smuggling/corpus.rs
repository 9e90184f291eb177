//! Requests that two programs could read in two ways, or that no gateway should accept. From RFC
//! 9112 and the published write-ups on request smuggling.

/// Request, and the gateway's expected status.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) status: u16,
    pub(super) raw: String,
    /// Set if a strict reading of the bytes is ambiguous or invalid; other requests break a rule of
    /// the gateway.
    pub(super) is_ambiguous: bool,
}

/// Request that appears if the rest of another one is taken for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

const fn case(name: &'static str, status: u16, raw: String, is_ambiguous: bool) -> Case {
    Case {
        name,
        status,
        raw,
        is_ambiguous,
    }
}

/// All cases.
pub(super) fn corpus() -> Vec<Case> {
    let mut all = framing();
    all.extend(chunks());
    all.extend(lines());
    all.extend(names_and_values());
    all.extend(hosts());
    all.extend(rules());
    all
}

/// Header lines that disagree about the end of the body; each is sent with a body that looks like a
/// request to a program that ends the previous one early.
const FRAMING: &[(&str, u16, &str)] = &[
    (
        "CL.TE",
        400,
        "Content-Length: 46\r\nTransfer-Encoding: chunked",
    ),
    (
        "TE.CL",
        400,
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ),
    (
        "TE.CL of zero",
        400,
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ),
    ("CL.CL", 400, "Content-Length: 46\r\nContent-Length: 0"),
    (
        "CL.CL, the longer last",
        400,
        "Content-Length: 0\r\nContent-Length: 46",
    ),
    (
        "one length twice",
        400,
        "Content-Length: 46\r\nContent-Length: 46",
    ),
    ("lengths in a list", 400, "Content-Length: 46, 46"),
    (
        "lengths that differ in a list",
        400,
        "Content-Length: 0, 46",
    ),
    ("a length and a comma", 400, "Content-Length: 46,"),
    ("a length with a plus", 400, "Content-Length: +46"),
    ("a negative length", 400, "Content-Length: -46"),
    ("a length in hex", 400, "Content-Length: 0x2e"),
    ("a length in octal, perhaps", 400, "Content-Length: 046"),
    ("a length with a point", 400, "Content-Length: 46.0"),
    ("a length with an exponent", 400, "Content-Length: 4e1"),
    ("a length with spaces in it", 400, "Content-Length: 4 6"),
    ("a length with a word", 400, "Content-Length: 46 bytes"),
    ("a length with underscores", 400, "Content-Length: 4_6"),
    ("an empty length", 400, "Content-Length:"),
    ("a length in quotes", 400, "Content-Length: \"46\""),
    (
        "a length beyond 64 bits",
        400,
        "Content-Length: 18446744073709551662",
    ),
    (
        "a length beyond 32 bits that wraps",
        400,
        "Content-Length: 4294967342, 46",
    ),
    ("a length and NUL", 400, "Content-Length: 46\0"),
    (
        "a length in other digits",
        400,
        "Content-Length: \u{664}\u{666}",
    ),
    (
        "a space before the length's colon",
        400,
        "Content-Length : 46",
    ),
    (
        "a tab before the length's colon",
        400,
        "Content-Length\t: 46",
    ),
    (
        "a vertical tab before the length's colon",
        400,
        "Content-Length\x0b: 46",
    ),
    ("a length that is folded", 400, "Content-Length:\r\n 46"),
    (
        "a length on a line with a space before it",
        400,
        "X: y\r\n Content-Length: 46",
    ),
    (
        "a length first, with a space before it",
        400,
        " Content-Length: 46",
    ),
    ("a length after a bare CR", 400, "X: y\rContent-Length: 46"),
    ("a length after a bare LF", 400, "X: y\nContent-Length: 46"),
    (
        "TE.TE, an unknown one last",
        400,
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    ),
    (
        "TE.TE, an unknown one first",
        400,
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    ),
    (
        "TE.TE, chunked both times",
        400,
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    (
        "TE.TE, identity last",
        400,
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ),
    (
        "chunked in a list twice",
        400,
        "Transfer-Encoding: chunked, chunked",
    ),
    ("identity", 400, "Transfer-Encoding: identity"),
    (
        "identity before chunked",
        400,
        "Transfer-Encoding: identity, chunked",
    ),
    (
        "chunked before identity",
        400,
        "Transfer-Encoding: chunked, identity",
    ),
    (
        "a coding that we do not know",
        501,
        "Transfer-Encoding: gzip, chunked",
    ),
    ("a coding that does not end", 501, "Transfer-Encoding: gzip"),
    ("xchunked", 400, "Transfer-Encoding: xchunked"),
    ("chunkedx", 400, "Transfer-Encoding: chunkedx"),
    ("chunk", 400, "Transfer-Encoding: chunk"),
    ("an empty coding", 400, "Transfer-Encoding:"),
    ("a comma before chunked", 400, "Transfer-Encoding: ,chunked"),
    ("a comma after chunked", 400, "Transfer-Encoding: chunked,"),
    (
        "a parameter of chunked",
        400,
        "Transfer-Encoding: chunked;q=1",
    ),
    ("chunked in quotes", 400, "Transfer-Encoding: \"chunked\""),
    (
        "chunked in single quotes",
        400,
        "Transfer-Encoding: 'chunked'",
    ),
    (
        "a tab before chunked",
        400,
        "Transfer-Encoding:\tx\tchunked",
    ),
    (
        "a vertical tab before chunked",
        400,
        "Transfer-Encoding:\x0bchunked",
    ),
    (
        "a form feed before chunked",
        400,
        "Transfer-Encoding:\x0cchunked",
    ),
    (
        "a vertical tab after chunked",
        400,
        "Transfer-Encoding: chunked\x0b",
    ),
    ("NUL after chunked", 400, "Transfer-Encoding: chunked\0"),
    ("NUL in chunked", 400, "Transfer-Encoding: chun\0ked"),
    (
        "a hard space before chunked",
        400,
        "Transfer-Encoding: \u{a0}chunked",
    ),
    (
        "a letter that folds to k",
        400,
        "Transfer-Encoding: chun\u{212a}ed",
    ),
    (
        "a space before the coding's colon",
        400,
        "Transfer-Encoding : chunked",
    ),
    (
        "a tab before the coding's colon",
        400,
        "Transfer-Encoding\t: chunked",
    ),
    (
        "a hard space before the coding's colon",
        400,
        "Transfer-Encoding\u{a0}: chunked",
    ),
    (
        "NUL before the coding's colon",
        400,
        "Transfer-Encoding\0: chunked",
    ),
    (
        "a coding whose name is folded",
        400,
        "Transfer-Encoding\r\n : chunked",
    ),
    (
        "a coding whose value is folded",
        400,
        "Transfer-Encoding:\r\n chunked",
    ),
    (
        "a coding folded with a tab",
        400,
        "Transfer-Encoding:\r\n\tchunked",
    ),
    (
        "a coding folded after its value",
        400,
        "Transfer-Encoding: chunked\r\n x",
    ),
    (
        "a coding on a line with a space before it",
        400,
        "X: y\r\n Transfer-Encoding: chunked",
    ),
    (
        "a coding first, with a tab before it",
        400,
        "\tTransfer-Encoding: chunked",
    ),
    (
        "a coding after a bare CR",
        400,
        "X: y\rTransfer-Encoding: chunked",
    ),
    (
        "a coding after a bare LF",
        400,
        "X: y\nTransfer-Encoding: chunked",
    ),
    (
        "a coding after CR CR LF",
        400,
        "X: y\r\r\nTransfer-Encoding: chunked",
    ),
    (
        "a coding that ends in a bare LF",
        400,
        "Transfer-Encoding: chunked\nX: y",
    ),
    (
        "an empty name before a coding",
        400,
        ": x\r\nTransfer-Encoding: chunked",
    ),
    (
        "an expectation with a word before it",
        417,
        "Content-Length: 46\r\nExpect: y 100-continue",
    ),
    (
        "an expectation in a list",
        417,
        "Content-Length: 46\r\nExpect: 100-continue, x",
    ),
    (
        "an expectation twice",
        400,
        "Expect: 100-continue\r\nExpect: 100-continue",
    ),
    (
        "an expectation folded",
        417,
        "Content-Length: 46\r\nExpect:\r\n 100-continue",
    ),
    ("an empty expectation", 417, "Content-Length: 46\r\nExpect:"),
];

fn framing() -> Vec<Case> {
    let framed = FRAMING.iter().map(|(name, status, line)| {
        let raw = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{line}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        case(name, *status, raw, true)
    });
    let old = format!(
        "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
    );
    framed
        .chain([case("a coding in HTTP/1.0", 400, old, true)])
        .collect()
}

/// Chunked bodies whose end programs read differently.
fn chunks() -> Vec<Case> {
    [
        ("a size without digits", "\r\n\r\n"),
        ("an extension without a size", ";x\r\n\r\n"),
        ("a space before the size", " 0\r\n\r\n"),
        ("a space after the size", "0 \r\n\r\n"),
        ("a tab after the size", "0\t\r\n\r\n"),
        ("a size with 0x", "0x0\r\n\r\n"),
        ("a size with a plus", "+0\r\n\r\n"),
        ("a negative size", "-0\r\n\r\n"),
        ("a size with an underscore", "0_0\r\n\r\n"),
        ("a size that ends in LF", "0\n\r\n"),
        ("a size that ends in CR", "0\rX\r\n\r\n"),
        ("a size beyond 64 bits", "10000000000000000\r\n\r\n"),
        ("a size that wraps", "ffffffffffffffff0\r\n\r\n"),
        ("TERM.EXT: LF in an extension", "2;\nxx\r\nab\r\n0\r\n\r\n"),
        ("EXT.TERM: CR in an extension", "2;\rxx\r\nab\r\n0\r\n\r\n"),
        ("NUL in an extension", "2;\0\r\nab\r\n0\r\n\r\n"),
        ("data longer than its size", "2\r\nabc\r\n0\r\n\r\n"),
        ("data that ends in LF", "2\r\nab\n0\r\n\r\n"),
        ("data without an end", "2\r\nab0\r\n\r\n"),
        ("data that ends in two other bytes", "2\r\nabXX0\r\n\r\n"),
        ("an end of LF LF", "0\n\n"),
        ("an end of CRLF LF", "0\r\n\n"),
        ("an end of CRLF CR", "0\r\n\r\r\n"),
        ("a trailer with a space before it", "0\r\n X: y\r\n\r\n"),
        (
            "a trailer with a space before its colon",
            "0\r\nX : y\r\n\r\n",
        ),
        ("a trailer without a colon", "0\r\nX\r\n\r\n"),
        ("a trailer that ends in LF", "0\r\nX: y\n\r\n"),
        ("a trailer with NUL", "0\r\nX: \0\r\n\r\n"),
        (
            "a request for a trailer",
            "0\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
    ]
    .into_iter()
    .map(|(name, body)| {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        case(name, 400, format!("{head}{body}{SMUGGLED}"), true)
    })
    .collect()
}

/// Request lines, and line ends.
const LINES: &[(&str, u16, &str)] = &[
    (
        "LF alone after the request line",
        400,
        "GET / HTTP/1.1\nHost: a.test\r\n\r\n",
    ),
    (
        "LF alone throughout",
        400,
        "GET / HTTP/1.1\nHost: a.test\n\n",
    ),
    (
        "CR alone after the request line",
        400,
        "GET / HTTP/1.1\rHost: a.test\r\n\r\n",
    ),
    ("CR CR LF", 400, "GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n"),
    ("an end of LF", 400, "GET / HTTP/1.1\r\nHost: a.test\r\n\n"),
    (
        "three empty lines first",
        400,
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "an empty line of LF first",
        400,
        "\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "a space first",
        400,
        " GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "two spaces before the target",
        400,
        "GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "two spaces before the version",
        400,
        "GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "a space after the version",
        400,
        "GET / HTTP/1.1 \r\nHost: a.test\r\n\r\n",
    ),
    (
        "tabs for spaces",
        400,
        "GET\t/\tHTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "a tab in the target",
        400,
        "GET /\tx HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "two targets",
        400,
        "GET / /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "two versions",
        400,
        "GET / HTTP/1.1 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    ("no version", 400, "GET /\r\nHost: a.test\r\n\r\n"),
    ("no target", 400, "GET HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("HTTP/0.9", 505, "GET / HTTP/0.9\r\nHost: a.test\r\n\r\n"),
    ("HTTP/1.2", 505, "GET / HTTP/1.2\r\nHost: a.test\r\n\r\n"),
    ("HTTP/2.0", 505, "GET / HTTP/2.0\r\nHost: a.test\r\n\r\n"),
    ("HTTP/1.10", 400, "GET / HTTP/1.10\r\nHost: a.test\r\n\r\n"),
    ("HTTP/1,1", 400, "GET / HTTP/1,1\r\nHost: a.test\r\n\r\n"),
    (
        "a version in small letters",
        400,
        "GET / http/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "another protocol",
        400,
        "GET / HTTPS/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "a method in small letters",
        400,
        "get / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "a method with a slash",
        400,
        "GET/ / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    ("no method", 400, " / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (
        "NUL in the target",
        400,
        "GET /\0 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "a control in the target",
        400,
        "GET /\x01 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    (
        "an uncoded letter in the target",
        400,
        "GET /\u{e9} HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ),
    ("TLS", 400, "\x16\x03\x01\x01\x01\r\n\r\n"),
    ("HTTP/2", 400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
];

fn lines() -> Vec<Case> {
    let cases = LINES.iter();
    cases
        .map(|(name, status, raw)| case(name, *status, (*raw).to_owned(), true))
        .collect()
}

fn names_and_values() -> Vec<Case> {
    [
        ("an empty name", ": y"),
        ("a name of a space", " : y"),
        ("no colon", "X"),
        ("a space after a name", "X : y"),
        ("a space in a name", "X Y: z"),
        ("a fold", "X: y\r\n z"),
        ("a fold that is empty", "X: y\r\n \r\nZ: w"),
        ("a name with a bracket", "X[0]: y"),
        ("a name with a slash", "X/Y: z"),
        ("a name with a quote", "\"X\": y"),
        ("a name with an at", "X@: y"),
        ("a name with NUL", "X\0: y"),
        ("a name with a letter beyond ASCII", "X\u{e9}: y"),
        ("NUL in a value", "X: y\0z"),
        ("a backspace in a value", "X: y\x08z"),
        ("an escape in a value", "X: \x1b[2J"),
        ("DEL in a value", "X: y\x7f"),
        ("a bare CR in a value", "X: y\rz"),
        ("a bare LF in a value", "X: y\nz"),
        (
            "a type twice",
            "Content-Type: text/plain\r\nContent-Type: text/html",
        ),
    ]
    .into_iter()
    .map(|(name, line)| {
        let raw = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{line}\r\n\r\n");
        case(name, 400, raw, true)
    })
    .collect()
}

fn hosts() -> Vec<Case> {
    [
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        ),
        (
            "one host twice",
            "GET / HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n",
        ),
        (
            "two hosts in HTTP/1.0",
            "GET / HTTP/1.0\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        ),
        (
            "hosts in a list",
            "GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n",
        ),
        (
            "a host with a space",
            "GET / HTTP/1.1\r\nHost: a.test b.test\r\n\r\n",
        ),
        (
            "a host with a user",
            "GET / HTTP/1.1\r\nHost: b.test@a.test\r\n\r\n",
        ),
        (
            "a host with a path",
            "GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n",
        ),
        (
            "a host with a query",
            "GET / HTTP/1.1\r\nHost: a.test?x\r\n\r\n",
        ),
        (
            "a host with a fragment",
            "GET / HTTP/1.1\r\nHost: a.test#x\r\n\r\n",
        ),
        (
            "a host with a backslash",
            "GET / HTTP/1.1\r\nHost: a.test\\x\r\n\r\n",
        ),
        (
            "a host with NUL",
            "GET / HTTP/1.1\r\nHost: a.test\0\r\n\r\n",
        ),
        (
            "a host beyond ASCII",
            "GET / HTTP/1.1\r\nHost: \u{e9}.test\r\n\r\n",
        ),
        (
            "a host that is folded",
            "GET / HTTP/1.1\r\nHost: a.test\r\n b.test\r\n\r\n",
        ),
        (
            "a host with a space before it",
            "GET / HTTP/1.1\r\n Host: b.test\r\nHost: a.test\r\n\r\n",
        ),
        (
            "a host with a space before its colon",
            "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
        ),
        (
            "another host in the target",
            "GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        (
            "another port in the target",
            "GET http://a.test:81/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        (
            "a user in the target",
            "GET http://u:p@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        (
            "a target with one slash",
            "GET http:/a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        (
            "a target with three slashes",
            "GET http:///a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        (
            "a target of another scheme",
            "GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        (
            "an authority for a target",
            "GET a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        (
            "a name for a target",
            "GET x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
    ]
    .map(|(name, raw)| case(name, 400, raw.to_owned(), true))
    .into()
}

/// Requests that are unambiguous and still refused.
fn rules() -> Vec<Case> {
    let long = "x".repeat(9 * 1024);
    let longer = "x".repeat(33 * 1024);
    let many = "X: y\r\n".repeat(129);
    let get =
        |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    [
        (
            "TRACE",
            405,
            "TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(),
        ),
        (
            "CONNECT",
            405,
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(),
        ),
        ("`*` for a GET", 400, get("*", "")),
        ("a fragment", 400, get("/#x", "")),
        ("a quote in the target", 400, get("/\"", "")),
        (
            "a WebSocket, where none is taken, and h2c",
            400,
            get("/", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ),
        (
            "two upgrades",
            400,
            get(
                "/",
                "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
            ),
        ),
        (
            "a WebSocket with a body",
            400,
            get(
                "/",
                &format!(
                    "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: {}\r\n",
                    SMUGGLED.len()
                ),
            ) + SMUGGLED,
        ),
        (
            "two passwords",
            400,
            get(
                "/",
                "Authorization: Basic YQ==\r\nAuthorization: Basic Yg==\r\n",
            ),
        ),
        ("a long line", 414, get(&format!("/{long}"), "")),
        ("a long head", 431, get("/", &format!("X: {longer}\r\n"))),
        ("many headers", 431, get("/", &many)),
        ("a dot segment in code", 400, get("/%2e%2e/x", "")),
        ("a dot segment with parameters", 400, get("/x/..;/y", "")),
        ("a backslash", 400, get("/\\x", "")),
    ]
    .map(|(name, status, raw)| case(name, status, raw, false))
    .into()
}
