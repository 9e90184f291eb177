//! RFC 9111, 4.2.1, 5.2.2 and 5.3: the freshness lifetime of a response.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "5.2.2.1",
        "max-age in quotes is read",
        "
        > GET
        < Cache-Control: max-age=\"3600\"
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.2.1",
        "max-age is read in any case",
        "
        > GET
        < Cache-Control: MaX-aGe=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.2.1",
        "max-age with leading zeros is read",
        "
        > GET
        < Cache-Control: max-age=003600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "1.2.2",
        "max-age of 2^31 is read",
        "
        > GET
        < Cache-Control: max-age=2147483648
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "1.2.2",
        "a max-age that no machine can count is read",
        "
        > GET
        < Cache-Control: max-age=99999999999999999999999
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.3",
        "unknown directives do not matter",
        "
        > GET
        < Cache-Control: foobar, max-age=3600, x=\"y\"
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.2.1",
        "max-age of zero is stale",
        "
        > GET
        < Cache-Control: max-age=0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.1",
        "max-age of zero counts above Expires",
        "
        > GET
        < Cache-Control: max-age=0
        < Expires: @10000
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age in single quotes is stale",
        "
        > GET
        < Cache-Control: max-age='3600'
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age with letters before it is stale",
        "
        > GET
        < Cache-Control: max-age=a3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age with letters behind it is stale",
        "
        > GET
        < Cache-Control: max-age=3600a
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age below zero is stale",
        "
        > GET
        < Cache-Control: max-age=-3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age with a fraction is stale",
        "
        > GET
        < Cache-Control: max-age=3600.5
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age without a number is stale",
        "
        > GET
        < Cache-Control: max-age
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age with a space before its sign is stale",
        "
        > GET
        < Cache-Control: max-age =3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "max-age with a space behind its sign is stale",
        "
        > GET
        < Cache-Control: max-age= 3600
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "of two ages on a line the first counts",
        "
        > GET
        < Cache-Control: max-age=3600, max-age=1
        < Age: 10
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "4.2.1",
        "of two ages on two lines the first counts",
        "
        > GET
        < Cache-Control: max-age=1
        < Cache-Control: max-age=3600
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2",
        "an age in quotes before the real one is none",
        "
        > GET
        < Cache-Control: ext=\"max-age=3600\", max-age=1
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2",
        "an age in quotes behind the real one is none",
        "
        > GET
        < Cache-Control: max-age=1, ext=\"max-age=3600\"
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.10",
        "s-maxage makes a response fresh",
        "
        > GET
        < Cache-Control: s-maxage=3600
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.2.10",
        "a short s-maxage counts above a long max-age",
        "
        > GET
        < Cache-Control: max-age=3600, s-maxage=1
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.2.2.10",
        "a long s-maxage counts above a short max-age",
        "
        > GET
        < Cache-Control: s-maxage=3600, max-age=1
        < Age: 10
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.2.2.10",
        "s-maxage on a line of its own counts",
        "
        > GET
        < Cache-Control: max-age=3600
        < Cache-Control: s-maxage=1
        < Age: 10
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "an s-maxage that cannot be read is stale",
        "
        > GET
        < Cache-Control: max-age=3600, s-maxage=soon
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.3",
        "Expires makes a response fresh",
        "
        > GET
        < Expires: @3600
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.3",
        "an Expires that has passed is stale",
        "
        > GET
        < Expires: @-3600
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.3",
        "an Expires of now is stale",
        "
        > GET
        < Expires: @0
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2.1",
        "Expires is counted from Date",
        "
        > GET
        < Expires: @300
        < Date: @400
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.3",
        "an Expires of 0 is stale",
        "
        > GET
        < Expires: 0
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.3",
        "an Expires in another zone is stale",
        "
        > GET
        < Expires: Thu, 18 Aug 2050 02:01:18 PST
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.3",
        "an Expires with two digits of a year is stale",
        "
        > GET
        < Expires: Thu, 18 Aug 50 02:01:18 GMT
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.3",
        "an Expires without its comma is stale",
        "
        > GET
        < Expires: Thu 18 Aug 2050 02:01:18 GMT
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "5.3",
        "an Expires with dots in its time is stale",
        "
        > GET
        < Expires: Thu, 18 Aug 2050 02.01.18 GMT
        < Date: @0
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.2",
        "an Expires is read in any case",
        "
        > GET
        < Expires: THU, 18 AUG 2050 02:01:18 gmt
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.3",
        "an Expires in the form of RFC 850 is read",
        "
        > GET
        < Expires: Thursday, 18-Aug-50 02:01:18 GMT
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.3",
        "an Expires in the form of asctime is read",
        "
        > GET
        < Expires: Thu Aug 18 02:01:18 2050
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "4.2.1",
        "Expires counts beside a Date that is none",
        "
        > GET
        < Expires: @3600
        < Date: foo
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.3",
        "max-age counts above an Expires that has passed",
        "
        > GET
        < Cache-Control: max-age=3600
        < Expires: @-10000
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.3",
        "max-age counts above an Expires that is none",
        "
        > GET
        < Cache-Control: max-age=3600
        < Expires: 0
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
    Case::new(
        "5.3",
        "s-maxage counts above Expires",
        "
        > GET
        < Cache-Control: s-maxage=3600
        < Expires: @-10000
        < Date: @0
        = origin
        > GET
        = cache
    ",
    ),
];
