//! `Debug` of types of which only the name, or a field or two, is worth printing.

/// Implements `Debug` for a type by its name and the fields that are listed.
#[macro_export]
macro_rules! opaque_debug {
    ($type:ident $(, $field:ident)*) => {
        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.debug_struct(stringify!($type))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    };
}
