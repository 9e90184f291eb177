//! RFC 9111, 4.1: selection among several stored responses.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "4.1",
        "a response is for requests with the same field",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 1
        = cache
    ",
    ),
    Case::new(
        "4.1",
        "a response is not for requests with another field",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 2
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "a response is not for requests without the field",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "a response to a request without the field is not for others",
        "
        > GET
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 1
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "a response for one does not drive out that for another",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo
        < Is: 1
        = origin
        > GET
        > Foo: 2
        < Cache-Control: max-age=3600
        < Vary: Foo
        < Is: 2
        = origin
        > GET
        > Foo: 1
        = cache
        = Is: 1
        > GET
        > Foo: 2
        = cache
        = Is: 2
    ",
    ),
    Case::new(
        "4.1",
        "fields that Vary does not name do not matter",
        "
        > GET
        > Foo: 1
        > Other: 2
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 1
        > Other: 3
        = cache
    ",
    ),
    Case::new(
        "4.1",
        "two fields must both be the same",
        "
        > GET
        > Foo: 1
        > Bar: abc
        < Cache-Control: max-age=3600
        < Vary: Foo, Bar
        = origin
        > GET
        > Foo: 1
        > Bar: abc
        = cache
        > GET
        > Foo: 2
        > Bar: abc
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "one of two fields is not enough",
        "
        > GET
        > Foo: 1
        > Bar: abc
        < Cache-Control: max-age=3600
        < Vary: Foo
        < Vary: Bar
        = origin
        > GET
        > Foo: 1
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "a field that both lack is the same",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo, Bar, Baz
        = origin
        > GET
        > Foo: 1
        = cache
    ",
    ),
    Case::new(
        "4.1",
        "the order of fields in a request does not matter",
        "
        > GET
        > Foo: 1
        > Bar: abc
        < Cache-Control: max-age=3600
        < Vary: Bar, Foo
        = origin
        > GET
        > Bar: abc
        > Foo: 1
        = cache
    ",
    ),
    Case::new(
        "4.1",
        "names in Vary are read in any case",
        "
        > GET
        > foo: 1
        < Cache-Control: max-age=3600
        < Vary: FOO
        = origin
        > GET
        > Foo: 1
        = cache
        > GET
        > Foo: 2
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "values are compared with their case",
        "
        > GET
        > Foo: a
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: A
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "white space in a list does not matter",
        "
        > GET
        > Foo: 1,2
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 1,  2
        = cache
    ",
    ),
    Case::new(
        "4.1",
        "lines of a list do not matter",
        "
        > GET
        > Foo: 1, 2
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 1
        > Foo: 2
        = cache
    ",
    ),
    Case::new(
        "4.1",
        "the order of a list matters",
        "
        > GET
        > Foo: 1, 2
        < Cache-Control: max-age=3600
        < Vary: Foo
        = origin
        > GET
        > Foo: 2, 1
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "names of languages have no case",
        "
        > GET
        > Accept-Language: en, de
        < Cache-Control: max-age=3600
        < Vary: Accept-Language
        = origin
        > GET
        > Accept-Language: EN, De
        = cache
    ",
    ),
    Case::new(
        "4.1",
        "the order of languages may matter",
        "
        > GET
        > Accept-Language: en, de
        < Cache-Control: max-age=3600
        < Vary: Accept-Language
        = origin
        > GET
        > Accept-Language: de, en
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "Vary with a star is never used",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: *
        = origin
        > GET
        > Foo: 1
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "Vary with two stars is never used",
        "
        > GET
        < Cache-Control: max-age=3600
        < Vary: *, *
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "Vary with a star behind a field is never used",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo, *
        = origin
        > GET
        > Foo: 1
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "Vary with a star before a field is never used",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: *, Foo
        = origin
        > GET
        > Foo: 1
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "Vary with a star on a second line is never used",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo
        < Vary: *
        = origin
        > GET
        > Foo: 1
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "Vary with a star behind nothing is never used",
        "
        > GET
        < Cache-Control: max-age=3600
        < Vary: , *
        = origin
        > GET
        = origin
    ",
    ),
    Case::new(
        "4.1",
        "Vary with nothing is no Vary",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: ,
        = origin
        > GET
        > Foo: 2
        = cache
    ",
    ),
    Case::new(
        "4.3.1",
        "the tag of a response for others is not asked for",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=3600
        < Vary: Foo
        < ETag: \"a\"
        = origin
        > GET
        > Foo: 2
        = origin
        = saw !If-None-Match
        = saw Foo: 2
    ",
    ),
    Case::new(
        "4.3.1",
        "a question to the origin carries what Vary names",
        "
        > GET
        > Foo: 1
        < Cache-Control: max-age=60
        < Age: 100
        < Vary: Foo
        < ETag: \"a\"
        = origin
        > GET
        > Foo: 1
        < 304
        = validated
        = saw If-None-Match: \"a\"
        = saw Foo: 1
    ",
    ),
];
