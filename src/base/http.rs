//! HTTP grammar that several slices need: lists, q-values, media types.
