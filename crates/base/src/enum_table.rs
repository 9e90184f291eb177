//! Enums whose variants each have a fixed value, written beside them: a word for metrics and logs,
//! or a row of a table.

/// Defines an enum, its variants in `ALL`, and a function that returns the value of a variant: a
/// text, unless another type is given.
///
/// ```
/// edgeway_base::enum_table! {
///     /// Kind of a request.
///     #[derive(Clone, Copy, Debug, PartialEq)]
///     pub enum Kind => word {
///         Plain = "plain",
///         /// Over TLS.
///         Secure = "secure",
///     }
/// }
/// assert_eq!(Kind::Secure.word(), "secure");
/// assert_eq!(Kind::ALL, [Kind::Plain, Kind::Secure]);
/// ```
#[macro_export]
macro_rules! enum_table {
    (
        $(#[$about:meta])*
        $vis:vis enum $name:ident => $value_of:ident { $($variants:tt)* }
    ) => {
        $crate::enum_table! {
            $(#[$about])*
            $vis enum $name => $value_of: &'static str { $($variants)* }
        }
    };
    (
        $(#[$about:meta])*
        $vis:vis enum $name:ident => $value_of:ident: $type:ty {
            $($(#[$about_variant:meta])* $variant:ident = $value:expr),* $(,)?
        }
    ) => {
        $(#[$about])*
        $vis enum $name {
            $($(#[$about_variant])* $variant,)*
        }

        #[allow(dead_code, reason = "some enums are never listed")]
        impl $name {
            /// All variants, in their order.
            $vis const ALL: [Self; [$(stringify!($variant)),*].len()] = [$(Self::$variant),*];

            /// Returns the fixed value of a variant.
            $vis const fn $value_of(self) -> $type {
                match self {
                    $(Self::$variant => $value,)*
                }
            }
        }

        impl<T> ::std::ops::Index<$name> for [T] {
            type Output = T;

            fn index(&self, variant: $name) -> &T {
                &self[variant as usize]
            }
        }
    };
}
