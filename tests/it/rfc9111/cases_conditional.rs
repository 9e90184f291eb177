//! RFC 9111, 4.3.2, and RFC 9110, 13 and 14: conditional requests of clients, and ranges.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "4.3.2",
        "the tag that is stored is a 304",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"abcdef\"
        = origin
        > GET
        > If-None-Match: \"abcdef\"
        = cache
        = 304
        = ETag: \"abcdef\"
        = !Content-Length
    ",
    ),
    Case::new(
        "4.3.2",
        "another tag is a 200",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"abcdef\"
        = origin
        > GET
        > If-None-Match: \"abc\"
        = cache
        = 200
    ",
    ),
    Case::new(
        "4.3.2",
        "one of many tags is enough",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"abcdef\"
        = origin
        > GET
        > If-None-Match: \"1234\", \"abcdef\", \"5678\"
        = cache
        = 304
        > GET
        > If-None-Match: \"1234\", \"5678\", \"abcdef\"
        = cache
        = 304
    ",
    ),
    Case::new(
        "4.3.2",
        "tags on many lines are one list",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"abcdef\"
        = origin
        > GET
        > If-None-Match: \"1234\"
        > If-None-Match: \"abcdef\"
        = cache
        = 304
    ",
    ),
    Case::new(
        "RFC 9110 8.8.3.2",
        "weak and strong tags are the same to a GET",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: W/\"abcdef\"
        = origin
        > GET
        > If-None-Match: \"abcdef\"
        = cache
        = 304
        > GET
        > If-None-Match: W/\"abcdef\"
        = cache
        = 304
    ",
    ),
    Case::new(
        "RFC 9110 13.1.2",
        "any tag is a 304",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"abcdef\"
        = origin
        > GET
        > If-None-Match: *
        = cache
        = 304
    ",
    ),
    Case::new(
        "RFC 9110 8.8.3",
        "a tag without quotes is compared all the same",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: abcdef
        = origin
        > GET
        > If-None-Match: abcdef
        = cache
        = 304
        > GET
        > If-None-Match: \"abcdef\"
        = cache
        = 304
    ",
    ),
    Case::new(
        "RFC 9110 13.1.3",
        "a tag counts above a date",
        "
        > GET
        < Cache-Control: max-age=3600
        < ETag: \"abcdef\"
        < Last-Modified: @-5000
        = origin
        > GET
        > If-None-Match: \"other\"
        > If-Modified-Since: @0
        = cache
        = 200
        > GET
        > If-None-Match: \"abcdef\"
        > If-Modified-Since: @-9000
        = cache
        = 304
    ",
    ),
    Case::new(
        "4.3.2",
        "the date that is stored is a 304",
        "
        > GET
        < Cache-Control: max-age=3600
        < Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT
        = origin
        > GET
        > If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT
        = cache
        = 304
    ",
    ),
    Case::new(
        "4.3.2",
        "a later date is a 304",
        "
        > GET
        < Cache-Control: max-age=3600
        < Last-Modified: @-3000
        = origin
        > GET
        > If-Modified-Since: @-2000
        = cache
        = 304
    ",
    ),
    Case::new(
        "4.3.2",
        "an earlier date is a 200",
        "
        > GET
        < Cache-Control: max-age=3600
        < Last-Modified: @-3000
        = origin
        > GET
        > If-Modified-Since: @-4000
        = cache
        = 200
    ",
    ),
    Case::new(
        "4.3.2",
        "without Last-Modified it is as new as its Date",
        "
        > GET
        < Cache-Control: max-age=36000
        < Date: @-3000
        = origin
        > GET
        > If-Modified-Since: @-2000
        = cache
        = 304
        > GET
        > If-Modified-Since: @-4000
        = cache
        = 200
    ",
    ),
    Case::new(
        "RFC 9110 5.6.7",
        "a date in the form of RFC 850 is read",
        "
        > GET
        < Cache-Control: max-age=3600
        < Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT
        = origin
        > GET
        > If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT
        = cache
        = 304
    ",
    ),
    Case::new(
        "RFC 9110 13.1.3",
        "a date that is none is not looked at",
        "
        > GET
        < Cache-Control: max-age=3600
        < Last-Modified: @-3000
        = origin
        > GET
        > If-Modified-Since: yesterday
        = cache
        = 200
    ",
    ),
    Case::new(
        "RFC 9110 13.2.1",
        "conditions do not count for a 404",
        "
        > GET
        < 404
        < Cache-Control: max-age=3600
        < ETag: \"a\"
        = origin
        > GET
        > If-None-Match: \"a\"
        = cache
        = 404
    ",
    ),
    Case::new(
        "RFC 9110 14.2",
        "a part of what is stored is sent",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Range: bytes=0-1
        = cache
        = 206
        = Content-Length: 2
    ",
    ),
    Case::new(
        "RFC 9110 14.2",
        "the end of what is stored is sent",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        > Range: bytes=-1
        = cache
        = 206
        = Content-Length: 1
    ",
    ),
];
