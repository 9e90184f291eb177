//! RFC 9111, 3 and 4.2.2: statuses, and responses without explicit freshness.

use super::{
    Case,
    Route::{Heuristic, Ttl},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "3",
        "a 203 with max-age is stored",
        "
        > GET
        < 203
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 204 with max-age is stored",
        "
        > GET
        < 204
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 299 with max-age is stored",
        "
        > GET
        < 299
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 301 with max-age is stored",
        "
        > GET
        < 301
        < Location: /x
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
        = Location: /x
    ",
    ),
    Case::new(
        "3",
        "a 302 with max-age is stored",
        "
        > GET
        < 302
        < Location: /x
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 307 with max-age is stored",
        "
        > GET
        < 307
        < Location: /x
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 404 with max-age is stored",
        "
        > GET
        < 404
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 410 with max-age is stored",
        "
        > GET
        < 410
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 503 with max-age is stored",
        "
        > GET
        < 503
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 599 with max-age is stored",
        "
        > GET
        < 599
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "3",
        "a 302 without max-age is not stored",
        "
        > GET
        < 302
        < Location: /x
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.2",
        "a 200 is fresh for a share of its time without change",
        "
        > GET
        < Last-Modified: @-86400
        < Date: @0
        = origin
        > GET
        = cache
    ",
    )
    .on(Heuristic),
    Case::new(
        "4.2.2",
        "a 404 is too",
        "
        > GET
        < 404
        < Last-Modified: @-86400
        < Date: @0
        = origin
        > GET
        = cache
    ",
    )
    .on(Heuristic),
    Case::new(
        "4.2.2",
        "a 201 is not",
        "
        > GET
        < 201
        < Last-Modified: @-86400
        < Date: @0
        = origin
        > GET
        = origin
    ",
    )
    .on(Heuristic),
    Case::new(
        "4.2.2",
        "a 403 is not",
        "
        > GET
        < 403
        < Last-Modified: @-86400
        < Date: @0
        = origin
        > GET
        = origin
    ",
    )
    .on(Heuristic),
    Case::new(
        "4.2.2",
        "a 503 is not",
        "
        > GET
        < 503
        < Last-Modified: @-86400
        < Date: @0
        = origin
        > GET
        = origin
    ",
    )
    .on(Heuristic),
    Case::new(
        "4.2.2",
        "any status is with public",
        "
        > GET
        < 599
        < Last-Modified: @-86400
        < Date: @0
        < Cache-Control: public
        = origin
        > GET
        = cache
    ",
    )
    .on(Heuristic),
    Case::new(
        "4.2.2",
        "without asking for it no guess is made",
        "
        > GET
        < Last-Modified: @-86400
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.2",
        "the route's time counts where the origin is silent",
        "
        > GET
        = origin
        > GET
        = cache
    ",
    )
    .on(Ttl),
    Case::new(
        "4.2.2",
        "the route's time does not overrule no-store",
        "
        > GET
        < Cache-Control: no-store
        = origin
        > GET
        = origin
    ",
    )
    .on(Ttl),
    Case::new(
        "4.2.2",
        "the route's time does not overrule private",
        "
        > GET
        < Cache-Control: private
        = origin
        > GET
        = origin
    ",
    )
    .on(Ttl),
    Case::new(
        "4.2.2",
        "the route's time does not overrule max-age",
        "
        > GET
        < Cache-Control: max-age=0
        = origin
        > GET
        = origin
    ",
    )
    .on(Ttl),
    Case::new(
        "4.2.2",
        "the route's time is not for a 403",
        "
        > GET
        < 403
        = origin
        > GET
        = origin
    ",
    )
    .on(Ttl),
];
