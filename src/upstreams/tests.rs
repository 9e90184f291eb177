//! Tests of whole upstreams.
