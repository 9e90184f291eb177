//! RFC 9213, and `Surrogate-Control`.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "RFC 9213 2",
        "CDN-Cache-Control makes a response fresh",
        "
        > GET
        < CDN-Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "a long CDN-Cache-Control counts above Cache-Control",
        "
        > GET
        < Cache-Control: max-age=1
        < CDN-Cache-Control: max-age=3600
        < Age: 10
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "a short CDN-Cache-Control counts above Cache-Control",
        "
        > GET
        < Cache-Control: max-age=3600
        < CDN-Cache-Control: max-age=1
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "CDN-Cache-Control counts above no-store",
        "
        > GET
        < Cache-Control: no-store
        < CDN-Cache-Control: max-age=3600
        = origin
        > GET
        = cache
        = Cache-Control: no-store
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "CDN-Cache-Control counts above Expires",
        "
        > GET
        < CDN-Cache-Control: max-age=3600
        < Expires: @-10000
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "zero in CDN-Cache-Control counts above Expires",
        "
        > GET
        < CDN-Cache-Control: max-age=0
        < Expires: @10000
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "no-store in CDN-Cache-Control counts",
        "
        > GET
        < Cache-Control: max-age=3600
        < CDN-Cache-Control: no-store
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "private in CDN-Cache-Control counts",
        "
        > GET
        < Cache-Control: max-age=3600
        < CDN-Cache-Control: private
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "no-cache in CDN-Cache-Control counts",
        "
        > GET
        < Cache-Control: max-age=3600
        < CDN-Cache-Control: no-cache
        < ETag: \"a\"
        = origin
        > GET
        < 304
        < ETag: \"a\"
        = validated
        = saw If-None-Match: \"a\"
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "Age counts against CDN-Cache-Control",
        "
        > GET
        < CDN-Cache-Control: max-age=3600
        < Age: 7200
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.1",
        "a CDN-Cache-Control that is no dictionary does not count",
        "
        > GET
        < CDN-Cache-Control: max-age=3600, &&&&&
        < Cache-Control: no-store
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.1",
        "a CDN-Cache-Control of another type does not count",
        "
        > GET
        < CDN-Cache-Control: max-age=\"3600\"
        < Cache-Control: no-store
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.1",
        "a CDN-Cache-Control with a space does not count",
        "
        > GET
        < CDN-Cache-Control: max-age =3600
        < Cache-Control: max-age=1
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.1",
        "unknown members of CDN-Cache-Control do not matter",
        "
        > GET
        < CDN-Cache-Control: foobar, max-age=3600;x=1
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 2.1",
        "a CDN-Cache-Control of 2^31 is read",
        "
        > GET
        < CDN-Cache-Control: max-age=99999999999
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 3.1",
        "CDN-Cache-Control goes on to the client",
        "
        > GET
        < CDN-Cache-Control: max-age=3600
        = origin
        = CDN-Cache-Control: max-age=3600
        > GET
        = cache
        = CDN-Cache-Control: max-age=3600
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "Surrogate-Control makes a response fresh",
        "
        > GET
        < Surrogate-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "Surrogate-Control counts above Cache-Control",
        "
        > GET
        < Surrogate-Control: MaX-aGe=3600, content=\"ESI/1.0\"
        < Cache-Control: max-age=1
        < Age: 10
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "a short Surrogate-Control counts above Cache-Control",
        "
        > GET
        < Surrogate-Control: max-age=1
        < Cache-Control: max-age=3600
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "no-store in Surrogate-Control counts",
        "
        > GET
        < Surrogate-Control: no-store
        < Cache-Control: max-age=3600
        < Expires: @3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "Surrogate-Control counts above Expires",
        "
        > GET
        < Surrogate-Control: max-age=3600
        < Expires: 0
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "zero in Surrogate-Control counts above Expires",
        "
        > GET
        < Surrogate-Control: max-age=0
        < Expires: @10000
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 9213 2.2",
        "CDN-Cache-Control counts above Surrogate-Control",
        "
        > GET
        < Surrogate-Control: max-age=3600
        < CDN-Cache-Control: max-age=1
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
];
