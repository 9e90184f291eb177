//! RFC 9111, 4.2.4, and RFC 5861: stale responses.

use super::{
    Case,
    Route::{Bridged, Isr},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "4.2.4",
        "a stale response is not used",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 5861 3",
        "a stale response is used inside its window",
        "
        > GET
        < Cache-Control: max-age=60, stale-while-revalidate=600
        < Age: 100
        < Is: 1
        = origin
        > GET
        < Cache-Control: max-age=60
        < Is: 2
        = background
        = Is: 1
        = Age: 100..
        > GET
        = cache
        = Is: 2
    ",
    ),
    Case::new(
        "RFC 5861 3",
        "a stale response is not used beyond its window",
        "
        > GET
        < Cache-Control: max-age=60, stale-while-revalidate=30
        < Age: 100
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.2",
        "must-revalidate closes the window",
        "
        > GET
        < Cache-Control: max-age=60, stale-while-revalidate=600, must-revalidate
        < Age: 100
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.10",
        "s-maxage closes the window",
        "
        > GET
        < Cache-Control: s-maxage=60, stale-while-revalidate=600
        < Age: 100
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "RFC 5861 3",
        "s-maxage leaves the window open where the route says so",
        "
        > GET
        < Cache-Control: s-maxage=60, stale-while-revalidate=600
        < Age: 100
        < Is: 1
        = origin
        > GET
        < Cache-Control: s-maxage=60, stale-while-revalidate=600
        = background
        = Is: 1
    ",
    )
    .on(Isr),
    Case::new(
        "5.2.1.1",
        "a client that says max-age wants nothing stale",
        "
        > GET
        < Cache-Control: max-age=60, stale-while-revalidate=600
        < Age: 100
        = origin
        > GET
        > Cache-Control: max-age=1000
        = origin
    ",
    ),
    Case::new(
        "RFC 5861 4",
        "a stale response bridges a 503",
        "
        > GET
        < Cache-Control: max-age=60, stale-if-error=600
        < Age: 100
        < Is: 1
        = origin
        > GET
        < 503
        = bridged
        = 200
        = Is: 1
        = Age: 100..
    ",
    ),
    Case::new(
        "RFC 5861 4",
        "a stale response bridges a 500",
        "
        > GET
        < Cache-Control: max-age=60, stale-if-error=600
        < Age: 100
        = origin
        > GET
        < 500
        = bridged
        = 200
    ",
    ),
    Case::new(
        "RFC 5861 4",
        "a stale response bridges no 404",
        "
        > GET
        < Cache-Control: max-age=60, stale-if-error=600
        < Age: 100
        = origin
        > GET
        < 404
        = origin
        = 404
    ",
    ),
    Case::new(
        "RFC 5861 4",
        "beyond its window it bridges nothing",
        "
        > GET
        < Cache-Control: max-age=60, stale-if-error=30
        < Age: 100
        = origin
        > GET
        < 503
        = origin
        = 503
    ",
    ),
    Case::new(
        "4.2.4",
        "without permission it bridges nothing",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        = origin
        > GET
        < 503
        = origin
        = 503
    ",
    ),
    Case::new(
        "4.2.4",
        "the route's permission is one",
        "
        > GET
        < Cache-Control: max-age=60
        < Age: 100
        = origin
        > GET
        < 503
        = bridged
        = 200
    ",
    )
    .on(Bridged),
    Case::new(
        "5.2.2.2",
        "must-revalidate overrules the route's permission",
        "
        > GET
        < Cache-Control: max-age=60, must-revalidate
        < Age: 100
        = origin
        > GET
        < 503
        = origin
        = 503
    ",
    )
    .on(Bridged),
    Case::new(
        "5.2.2.8",
        "proxy-revalidate overrules the route's permission",
        "
        > GET
        < Cache-Control: max-age=60, proxy-revalidate
        < Age: 100
        = origin
        > GET
        < 503
        = origin
        = 503
    ",
    )
    .on(Bridged),
    Case::new(
        "5.2.2.10",
        "s-maxage overrules the route's permission",
        "
        > GET
        < Cache-Control: s-maxage=60
        < Age: 100
        = origin
        > GET
        < 503
        = origin
        = 503
    ",
    )
    .on(Bridged),
    Case::new(
        "5.2.2.4",
        "no-cache overrules the route's permission",
        "
        > GET
        < Cache-Control: no-cache, max-age=60
        < ETag: \"a\"
        = origin
        > GET
        < 503
        = origin
        = 503
    ",
    )
    .on(Bridged),
];
