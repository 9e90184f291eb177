//! Streams that pass on to an inner stream.

/// Defines methods of `AsyncRead` and `AsyncWrite` that only pass on to an inner stream: the field
/// after `self.`, or the one that a macro calls them on, such as `on_socket!(self, socket => …)`.
#[macro_export]
macro_rules! inner_stream {
    (self.$field:ident: $($method:ident),+) => {
        $($crate::inner_stream!(@$method [self.$field]);)+
    };
    ($on:ident!: $($method:ident),+) => {
        $($crate::inner_stream!(@$method [$on!]);)+
    };

    (@pass [self.$field:ident] $this:ident.$method:ident($($argument:ident),+)) => {
        ::std::pin::Pin::new(&mut $this.get_mut().$field).$method($($argument),+)
    };
    (@pass [$on:ident!] $this:ident.$method:ident($($argument:ident),+)) => {
        $on!($this.get_mut(), stream => ::std::pin::Pin::new(stream).$method($($argument),+))
    };

    (@is_write_vectored $to:tt) => {
        fn is_write_vectored(&self) -> bool {
            true
        }
    };
    (@poll_read $to:tt) => {
        $crate::inner_stream!(@poll $to poll_read(room: &mut ::tokio::io::ReadBuf<'_>) -> ());
    };
    (@poll_write $to:tt) => {
        $crate::inner_stream!(@poll $to poll_write(data: &[u8]) -> usize);
    };
    (@poll_write_vectored $to:tt) => {
        $crate::inner_stream!(
            @poll $to poll_write_vectored(data: &[::std::io::IoSlice<'_>]) -> usize
        );
    };
    (@poll_flush $to:tt) => { $crate::inner_stream!(@poll $to poll_flush() -> ()); };
    (@poll_shutdown $to:tt) => { $crate::inner_stream!(@poll $to poll_shutdown() -> ()); };
    (@poll $to:tt $method:ident($($argument:ident: $type:ty)?) -> $output:ty) => {
        #[inline]
        fn $method(
            self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            $($argument: $type,)?
        ) -> ::std::task::Poll<::std::io::Result<$output>> {
            $crate::inner_stream!(@pass $to self.$method(cx $(, $argument)?))
        }
    };
}
