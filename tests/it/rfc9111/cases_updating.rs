//! RFC 9111, 3.2, 4.3 and 4.4: validation, update and invalidation of stored responses.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "4.3.1",
        "a stale response is validated by its tag",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"abcdef\"
        = origin
        > GET
        < 304
        < ETag: \"abcdef\"
        = validated
        = saw If-None-Match: \"abcdef\"
    ",
    ),
    Case::new(
        "4.3.1",
        "a stale response is validated by its weak tag",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: W/\"abcdef\"
        = origin
        > GET
        < 304
        = validated
        = saw If-None-Match: W/\"abcdef\"
    ",
    ),
    Case::new(
        "4.3.1",
        "a stale response is validated by its date",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT
        = origin
        > GET
        < 304
        = validated
        = saw If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT
    ",
    ),
    Case::new(
        "5.2.2.4",
        "no-cache is stored and validated",
        "
        > GET
        < Cache-Control: no-cache
        < ETag: \"a\"
        = origin
        > GET
        < 304
        = validated
        = saw If-None-Match: \"a\"
    ",
    ),
    Case::new(
        "5.2.2.4",
        "no-cache is validated however fresh",
        "
        > GET
        < Cache-Control: max-age=10000, No-CaChE
        < Expires: @10000
        < Date: @0
        < ETag: \"a\"
        = origin
        > GET
        < 304
        = validated
    ",
    ),
    Case::new(
        "5.2.2.4",
        "no-cache without validator is fetched again",
        "
        > GET
        < Cache-Control: max-age=10000, no-cache
        = origin
        > GET
        = origin
        = saw !If-None-Match
    ",
    ),
    Case::new(
        "5.2.2.2",
        "must-revalidate is validated once it is stale",
        "
        > GET
        < Cache-Control: max-age=60, must-revalidate
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        < 304
        = validated
    ",
    ),
    Case::new(
        "4.3.3",
        "a new response replaces what is stored",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        < Is: 1
        = origin
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"b\"
        < Is: 2
        = origin
        = saw If-None-Match: \"a\"
        = Is: 2
        > GET
        = cache
        = Is: 2
    ",
    ),
    Case::new(
        "4.3.4",
        "a 304 makes what is stored fresh again",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        < 304
        < Cache-Control: max-age=3600
        = validated
        > GET
        = cache
        = Cache-Control: max-age=3600
    ",
    ),
    Case::new(
        "4.3.4",
        "a 304 that says nothing of it confirms the lifetime",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        < 304
        = validated
        > GET
        = cache
    ",
    ),
    Case::new(
        "4.2.3",
        "after a 304 the age begins again",
        "
        > GET
        < Cache-Control: max-age=600
        < Age: 1000
        < ETag: \"a\"
        = origin
        > GET
        < 304
        < Age: 300
        = validated
        > GET
        = cache
        = Age: 300..
        > GET
        > Cache-Control: max-age=500
        = cache
    ",
    ),
    Case::new(
        "3.2",
        "fields that a 304 does not have stay",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        < Test: A
        = origin
        > GET
        < 304
        < Cache-Control: max-age=3600
        = validated
        = Test: A
        > GET
        = cache
        = Test: A
    ",
    ),
    Case::new(
        "3.2",
        "fields of a 304 are those that the client gets",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        < Test: A
        = origin
        > GET
        < 304
        < Test: B
        = validated
        = Test: B
    ",
    ),
    Case::new(
        "3.2",
        "fields of a 304 are stored",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        < Test: A
        < X-Test: A
        < Content-Foo: A
        = origin
        > GET
        < 304
        < Cache-Control: max-age=3600
        < Test: B
        < X-Test: B
        < X-Test: C
        < Content-Foo: B
        < New: 1
        = validated
        > GET
        = cache
        = Test: B
        = X-Test: B, C
        = Content-Foo: B
        = New: 1
    ",
    ),
    Case::new(
        "3.2",
        "Content-Type of a 304 is stored",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        < Content-Type: text/plain
        = origin
        > GET
        < 304
        < Cache-Control: max-age=3600
        < Content-Type: text/plain;charset=utf-8
        = validated
        > GET
        = cache
        = Content-Type: text/plain;charset=utf-8
    ",
    ),
    Case::new(
        "3.2",
        "policies of a 304 are stored",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < Last-Modified: @-1000
        < Content-Security-Policy: default-src 'self'
        < X-Frame-Options: deny
        = origin
        > GET
        < 304
        < Cache-Control: max-age=3600
        < Content-Security-Policy: default-src 'none'
        < X-Frame-Options: sameorigin
        = validated
        = Content-Security-Policy: default-src 'none'
        > GET
        = cache
        = Content-Security-Policy: default-src 'none'
        = X-Frame-Options: sameorigin
    ",
    ),
    Case::new(
        "3.2",
        "Content-Encoding of a 304 is not taken",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        < 304
        < Cache-Control: max-age=3600
        < Content-Encoding: x-none
        = validated
        = !Content-Encoding
        > GET
        = cache
        = !Content-Encoding
    ",
    ),
    Case::new(
        "3.2",
        "a cookie of a 304 is not stored",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        < 304
        < Cache-Control: max-age=3600
        < Set-Cookie: a=b
        = validated
        > GET
        = cache
        = !Set-Cookie
    ",
    ),
    Case::new(
        "3.2",
        "a 304 does not take Accept-Encoding out of Vary",
        "
        > GET
        > Accept-Encoding: x-one
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        < Vary: rsc, Accept-Encoding
        = origin
        > GET
        > Accept-Encoding: x-one
        < 304
        < Cache-Control: max-age=3600
        < Vary: rsc
        = validated
        > GET
        > Accept-Encoding: x-one
        = cache
        = Vary: rsc, Accept-Encoding
    ",
    ),
    Case::new(
        "3",
        "no-store in a 304 ends what is stored",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        < 304
        < Cache-Control: no-store
        = validated
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.3.2",
        "the client's condition is answered once the origin has confirmed",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        > If-None-Match: \"a\"
        < 304
        = validated
        = 304
    ",
    ),
    Case::new(
        "4.3.2",
        "a client with an older response gets what is stored",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"b\"
        = origin
        > GET
        > If-None-Match: \"a\"
        < 304
        = validated
        = 200
        = saw If-None-Match: \"b\"
    ",
    ),
    Case::new(
        "4.4",
        "a successful POST drops what is stored",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > POST
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.4",
        "a successful PUT drops what is stored",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > PUT
        < 204
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.4",
        "a successful DELETE drops what is stored",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > DELETE
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.4",
        "a successful method that nobody knows drops what is stored",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > M-SEARCH
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.4",
        "a redirect after a POST drops what is stored",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > POST
        < 303
        < Location: /elsewhere
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.4",
        "a failed POST drops nothing",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > POST
        < 500
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "4.4",
        "a refused DELETE drops nothing",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > DELETE
        < 403
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "4.4",
        "an OPTIONS drops nothing",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > OPTIONS
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "4.4",
        "Location of a POST is dropped too",
        "
        > GET /made
        < Cache-Control: max-age=3600
        = origin
        > POST
        < 201
        < Location: {path}/made
        = origin
        > GET /made
        = origin
    ",
    ),
    Case::new(
        "4.4",
        "Content-Location of a PUT is dropped too",
        "
        > GET /made
        < Cache-Control: max-age=3600
        = origin
        > PUT
        < Content-Location: {path}/made
        = origin
        > GET /made
        = origin
    ",
    ),
    Case::new(
        "4.4",
        "Location of another origin is not dropped",
        "
        > GET /made
        < Cache-Control: max-age=3600
        = origin
        > POST
        < 201
        < Location: http://other.test{path}/made
        = origin
        > GET /made
        = cache
    ",
    ),
    Case::new(
        "4.4",
        "Location of a failed POST is not dropped",
        "
        > GET /made
        < Cache-Control: max-age=3600
        = origin
        > POST
        < 409
        < Location: {path}/made
        = origin
        > GET /made
        = cache
    ",
    ),
    Case::new(
        "4.4",
        "every form of a response is dropped",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 2
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > POST
        = origin
        > GET
        > Foo: 1
        = origin
    ",
    ),
];
