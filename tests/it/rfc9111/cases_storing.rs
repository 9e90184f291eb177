//! RFC 9111, 3: storing responses.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "3",
        "a response with max-age is stored",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a response that says nothing is not stored",
        "
        > GET
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "3",
        "a validator alone does not make a response stored",
        "
        > GET
        < ETag: \"a\"
        = origin
        > GET
        = origin
        = saw !If-None-Match
    ",
    ),
    Case::new(
        "3",
        "another query is another target",
        "
        > GET ?a=1
        < Cache-Control: max-age=3600
        = origin
        > GET ?a=2
        = origin
    ",
    ),
    Case::new(
        "3",
        "the same query is the same target",
        "
        > GET ?a=1&b
        < Cache-Control: max-age=3600
        = origin
        > GET ?a=1&b
        = cache
    ",
    ),
    Case::new(
        "3",
        "the order of a query matters",
        "
        > GET ?a&b
        < Cache-Control: max-age=3600
        = origin
        > GET ?b&a
        = origin
    ",
    ),
    Case::new(
        "3",
        "the response to a POST is not for a GET",
        "
        > POST
        < Cache-Control: max-age=3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "3",
        "what is stored for GET is not for POST",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > POST
        < 500
        = origin
    ",
    ),
    Case::new(
        "3",
        "a response to GET serves HEAD",
        "
        > GET
        < Cache-Control: max-age=3600
        < Foo: 1
        = origin
        > HEAD
        = cache
        = Foo: 1
    ",
    ),
    Case::new(
        "5.2.2.5",
        "no-store is not stored",
        "
        > GET
        < Cache-Control: no-store
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.5",
        "no-store counts in any case",
        "
        > GET
        < Cache-Control: No-StOrE, max-age=3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.5",
        "no-store counts beside max-age and Expires",
        "
        > GET
        < Cache-Control: max-age=10000, no-store
        < Expires: @10000
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.5",
        "no-store counts on a line of its own",
        "
        > GET
        < Cache-Control: max-age=10000
        < Cache-Control: no-store
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.5",
        "no-store in quotes is none",
        "
        > GET
        < Cache-Control: max-age=10000, ext=\"no-store\"
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.2.7",
        "private is not stored",
        "
        > GET
        < Cache-Control: private, max-age=3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.7",
        "private counts beside public",
        "
        > GET
        < Cache-Control: public, PRIVATE, max-age=3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.7",
        "private with fields is read as private",
        "
        > GET
        < Cache-Control: private=\"foo\", max-age=3600
        < Foo: 1
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.3",
        "must-understand lets a known status be stored beside no-store",
        "
        > GET
        < Cache-Control: must-understand, no-store, max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.2.3",
        "must-understand keeps an unknown status out",
        "
        > GET
        < 299
        < Cache-Control: must-understand, max-age=3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "7.3",
        "a response with a cookie is not shared",
        "
        > GET
        < Cache-Control: public, max-age=3600
        < Set-Cookie: a=b
        = origin
        = Set-Cookie: a=b
        > GET
        = origin
        = !Set-Cookie
    ",
    ),
    Case::new(
        "3",
        "a cookie of the client does not matter",
        "
        > GET
        > Cookie: a=b
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Cookie: a=c
        = cache
    ",
    ),
    Case::new(
        "3.5",
        "a response to Authorization is not shared",
        "
        > GET
        > Authorization: Basic eDp5
        < Cache-Control: max-age=3600
        = origin
        = saw Authorization: Basic eDp5
        > GET
        = origin
    ",
    ),
    Case::new(
        "3.5",
        "Expires does not share a response to Authorization",
        "
        > GET
        > Authorization: Basic eDp5
        < Expires: @3600
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "3.5",
        "public shares a response to Authorization",
        "
        > GET
        > Authorization: Basic eDp5
        < Cache-Control: max-age=3600, public
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3.5",
        "must-revalidate shares a response to Authorization",
        "
        > GET
        > Authorization: Basic eDp5
        < Cache-Control: max-age=3600, must-revalidate
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3.5",
        "s-maxage shares a response to Authorization",
        "
        > GET
        > Authorization: Basic eDp5
        < Cache-Control: s-maxage=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3.5",
        "a response that is stored is for clients with Authorization too",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Authorization: Basic eDp5
        = cache
    ",
    ),
    Case::new(
        "3.1",
        "fields of the connection are not stored",
        "
        > GET
        < Cache-Control: max-age=3600
        < Proxy-Authenticate: x
        < Proxy-Authentication-Info: x
        < Foo: 1
        = origin
        > GET
        = cache
        = Foo: 1
        = !Proxy-Authenticate
        = !Proxy-Authentication-Info
    ",
    ),
    Case::new(
        "3.1",
        "fields that Connection names are not stored",
        "
        > GET
        < Cache-Control: max-age=3600
        < Connection: a, b
        < A: 1
        < B: 2
        < C: 3
        = origin
        > GET
        = cache
        = !A
        = !B
        = C: 3
    ",
    ),
    Case::new(
        "5.2.2.4",
        "a field that no-cache names is not stored",
        "
        > GET
        < Cache-Control: no-cache=\"a\"
        < Cache-Control: max-age=3600
        < A: 1
        < B: 2
        = origin
        = A: 1
        > GET
        = cache
        = !A
        = B: 2
    ",
    ),
    Case::new(
        "5.2.2.4",
        "all fields that no-cache names are not stored",
        "
        > GET
        < Cache-Control: no-cache=\"a, b\", max-age=3600
        < A: 1
        < B: 2
        < C: 3
        = origin
        = A: 1
        = B: 2
        > GET
        = cache
        = !A
        = !B
        = C: 3
    ",
    ),
    Case::new(
        "3",
        "other fields are stored as they are",
        "
        > GET
        < Cache-Control: max-age=3600
        < X-Test: a
        < X-Test: b
        < WWW-Authenticate: Basic
        < Content-Type: text/plain;charset=utf-8
        < Strict-Transport-Security: max-age=1
        = origin
        > GET
        = cache
        = X-Test: a, b
        = WWW-Authenticate: Basic
        = Content-Type: text/plain;charset=utf-8
        = Strict-Transport-Security: max-age=1
    ",
    ),
    Case::new(
        "3",
        "a fresh attachment is stored",
        "
        > GET
        < Cache-Control: max-age=3600
        < Content-Disposition: attachment; filename=a.txt
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a stream of events is not stored",
        "
        > GET
        < Cache-Control: max-age=3600
        < Content-Type: text/event-stream
        = origin
        > GET
        = origin
    ",
    ),
];
