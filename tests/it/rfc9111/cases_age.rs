//! RFC 9111, 4.2.3 and 5.1: the age of a response.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "4.2.3",
        "an Age above max-age is stale",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: 7200
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.3",
        "an Age above Expires less Date is stale",
        "
        > GET
        < Date: @0
        < Expires: @20
        < Age: 25
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.3",
        "an Age above Expires less a Date ahead is stale",
        "
        > GET
        < Date: @100
        < Expires: @200
        < Age: 150
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.3",
        "a Date long ago makes a response old",
        "
        > GET
        < Date: @-7200
        < Cache-Control: max-age=3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.3",
        "a Date ahead makes a response no younger",
        "
        > GET
        < Date: @7200
        < Cache-Control: max-age=3600
        < Age: 30
        = origin
        > GET
        = cache
        = Age: 30..
    ",
    ),
    Case::new(
        "5.1",
        "a response from the cache has an Age",
        "
        > GET
        < Cache-Control: max-age=3600
        = origin
        > GET
        = cache
        = Age: 0..
    ",
    ),
    Case::new(
        "5.1",
        "Age goes on from that of the origin",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: 30
        = origin
        > GET
        = cache
        = Age: 30..
    ",
    ),
    Case::new(
        "5.1",
        "Age counts from Date too",
        "
        > GET
        < Cache-Control: max-age=3600
        < Date: @-60
        = origin
        > GET
        = cache
        = Age: 60..
    ",
    ),
    Case::new(
        "5.1",
        "an Age that is no number does not count",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: abc
        = origin
        > GET
        = cache
        = Age: 0..
    ",
    ),
    Case::new(
        "5.1",
        "an Age below zero does not count",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: -7200
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.1",
        "an Age with a fraction does not count",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: 7200.0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.1",
        "of a list of ages the first counts",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: 7200, 0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.1",
        "of two lines of Age the first counts",
        "
        > GET
        < Cache-Control: max-age=3600
        < Age: 0
        < Age: 7200
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "4.2.1",
        "must-revalidate lets a fresh response be used",
        "
        > GET
        < Cache-Control: max-age=3600, must-revalidate
        < ETag: \"a\"
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "RFC 9110 6.6.1",
        "Date is not changed",
        "
        > GET
        < Cache-Control: max-age=3600
        < Date: Sun, 06 Nov 2044 08:49:37 GMT
        = origin
        > GET
        = cache
        = Date: Sun, 06 Nov 2044 08:49:37 GMT
    ",
    ),
];
