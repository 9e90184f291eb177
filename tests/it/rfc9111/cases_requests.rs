//! RFC 9111, 5.2.1 and 5.4: directives of clients.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "5.2.1.1",
        "max-age of zero asks the origin",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Cache-Control: max-age=0
        = origin
    ",
    ),
    Case::new(
        "5.2.1.1",
        "a response older than the client's max-age is not used",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: 1800
        = origin
        > GET
        > Cache-Control: max-age=600
        = origin
    ",
    ),
    Case::new(
        "5.2.1.1",
        "a response younger than the client's max-age is used",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: 600
        = origin
        > GET
        > Cache-Control: max-age=1800
        = cache
    ",
    ),
    Case::new(
        "5.2.1.1",
        "a long max-age of the client makes nothing fresh",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        = origin
        > GET
        > Cache-Control: max-age=1800
        = origin
    ",
    ),
    Case::new(
        "5.2.1.2",
        "max-stale takes a stale response",
        "
        > GET
        < Cache-Control: max-age=1500
        < Age: 2000
        = origin
        > GET
        > Cache-Control: max-stale=1000
        = cache
        = Age: 2000..
    ",
    ),
    Case::new(
        "5.2.1.2",
        "max-stale without a number takes any",
        "
        > GET
        < Cache-Control: max-age=1500
        < Age: 90000
        = origin
        > GET
        > Cache-Control: max-stale
        = cache
    ",
    ),
    Case::new(
        "5.2.1.2",
        "max-stale takes none that is staler",
        "
        > GET
        < Cache-Control: max-age=1500
        < Age: 2000
        = origin
        > GET
        > Cache-Control: max-stale=400
        = origin
    ",
    ),
    Case::new(
        "5.2.2.2",
        "max-stale does not overrule must-revalidate",
        "
        > GET
        < Cache-Control: max-age=1500, must-revalidate
        < Age: 2000
        = origin
        > GET
        > Cache-Control: max-stale=1000
        = origin
    ",
    ),
    Case::new(
        "5.2.2.8",
        "max-stale does not overrule proxy-revalidate",
        "
        > GET
        < Cache-Control: max-age=1500, proxy-revalidate
        < Age: 2000
        = origin
        > GET
        > Cache-Control: max-stale=1000
        = origin
    ",
    ),
    Case::new(
        "5.2.2.10",
        "max-stale does not overrule s-maxage",
        "
        > GET
        < Cache-Control: s-maxage=1500
        < Age: 2000
        = origin
        > GET
        > Cache-Control: max-stale=1000
        = origin
    ",
    ),
    Case::new(
        "5.2.2.4",
        "max-stale does not overrule no-cache",
        "
        > GET
        < Cache-Control: max-age=1500, no-cache
        < ETag: \"a\"
        = origin
        > GET
        > Cache-Control: max-stale
        < 304
        = validated
    ",
    ),
    Case::new(
        "5.2.1.3",
        "a response is used that is fresh for long enough",
        "
        > GET
        < Cache-Control: max-age=1500
        = origin
        > GET
        > Cache-Control: min-fresh=1000
        = cache
    ",
    ),
    Case::new(
        "5.2.1.3",
        "a response is not used that is not fresh for long enough",
        "
        > GET
        < Cache-Control: max-age=1500
        = origin
        > GET
        > Cache-Control: min-fresh=2000
        = origin
    ",
    ),
    Case::new(
        "5.2.1.3",
        "its age counts for min-fresh",
        "
        > GET
        < Cache-Control: max-age=1500
        < Age: 1000
        = origin
        > GET
        > Cache-Control: min-fresh=1000
        = origin
    ",
    ),
    Case::new(
        "5.2.1.4",
        "no-cache asks the origin",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Cache-Control: no-cache
        = origin
    ",
    ),
    Case::new(
        "5.2.1.4",
        "no-cache validates by the tag",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"abc\"
        = origin
        > GET
        > Cache-Control: no-cache
        < 304
        = validated
        = saw If-None-Match: \"abc\"
    ",
    ),
    Case::new(
        "5.2.1.4",
        "no-cache validates by the date",
        "
        > GET
        < Cache-Control: max-age=3600
        < Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT
        = origin
        > GET
        > Cache-Control: no-cache
        < 304
        = validated
        = saw If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT
    ",
    ),
    Case::new(
        "5.2.1.4",
        "what no-cache brings is stored for others",
        "
        > GET
        < Cache-Control: max-age=3600
        < Foo: 1
        = origin
        > GET
        > Cache-Control: no-cache
        < Cache-Control: max-age=3600
        < Foo: 2
        = origin
        > GET
        = cache
        = Foo: 2
    ",
    ),
    Case::new(
        "5.2.1.5",
        "the response to no-store is not stored",
        "
        > GET
        > Cache-Control: no-store
        < Cache-Control: max-age=3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.1.5",
        "no-store may have what is stored already",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Cache-Control: no-store
        = cache
    ",
    ),
    Case::new(
        "5.2.1.7",
        "only-if-cached without a response is a 504",
        "
        > GET
        > Cache-Control: only-if-cached
        = nobody
        = 504
    ",
    ),
    Case::new(
        "5.2.1.7",
        "only-if-cached with a stale response is a 504 too",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        < ETag: \"a\"
        = origin
        > GET
        > Cache-Control: only-if-cached
        = nobody
    ",
    ),
    Case::new(
        "5.2.1.7",
        "only-if-cached has a fresh response",
        "
        > GET
        < Cache-Control: max-age=60
        = origin
        > GET
        > Cache-Control: only-if-cached
        = cache
    ",
    ),
    Case::new(
        "5.4",
        "Pragma: no-cache asks the origin",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Pragma: no-cache
        = origin
    ",
    ),
    Case::new(
        "5.4",
        "Pragma does not count beside Cache-Control",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Pragma: no-cache
        > Cache-Control: max-age=1800
        = cache
    ",
    ),
    Case::new(
        "5.4",
        "other pragmas do not matter",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Pragma: foo
        = cache
    ",
    ),
    Case::new(
        "5.4",
        "Pragma in a response does not count beside Cache-Control",
        "
        > GET
        < Cache-Control: max-age=3600
        < Pragma: no-cache
        = origin
        > GET
        = cache
    ",
    ),
];
