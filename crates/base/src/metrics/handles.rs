//! Structs of metric handles, each declared once: field, type, family, description and labels.

/// Defines a struct of metric handles with `new`, which opens them, `forget`, which drops their
/// series, and their `FAMILIES`.
///
/// The names in parentheses are labels of all families, and arguments of `new` and `forget`. Fields
/// of one family each have a value of one more label. `[IntCounter; label: Enum::word]` is an array
/// with a handle for each variant of an [`enum_table!`](crate::enum_table), which is its index, and
/// `(Histogram in BUCKETS)` a histogram with buckets of its own.
///
/// ```
/// use edgeway_base::metrics::Metrics;
///
/// edgeway_base::metric_handles! {
///     /// Metrics of a door.
///     struct DoorMetrics(house) {
///         width: IntGauge = "door_millimetres", "Width of the door.";
///         opened { what: "opened" },
///         closed { what: "closed" }: IntCounter = "door_moves_total",
///             "Moves of the door: `opened` or `closed`.";
///     }
/// }
/// let metrics = Metrics::default();
/// let door = DoorMetrics::new(&metrics, "lodge");
/// door.opened.inc();
/// door.width.set(900);
/// let text = String::from_utf8(metrics.text()).unwrap();
/// assert!(text.contains("door_moves_total{house=\"lodge\",what=\"opened\"} 1\n"));
/// assert!(text.contains("door_moves_total{house=\"lodge\",what=\"closed\"} 0\n"));
/// DoorMetrics::forget(&metrics, "lodge");
/// assert_eq!(metrics.text(), b"");
/// ```
#[macro_export]
macro_rules! metric_handles {
    (
        $(#[$about:meta])*
        $vis:vis struct $name:ident($($of:ident),*) {
            $($(
                $(#[$about_field:meta])*
                $vis_field:vis $field:ident $({ $label:ident: $value:expr })?
            ),+: $type:tt = $family:expr, $help:expr;)*
        }
    ) => {
        $(#[$about])*
        $vis struct $name {
            $($(
                $(#[$about_field])*
                $vis_field $field: $crate::metric_handles!(@type $type),
            )+)*
        }

        #[allow(dead_code, reason = "few handles end with a name, and few families are listed")]
        impl $name {
            /// Names of the families.
            $vis const FAMILIES: &'static [&'static str] = &[$($family),*];

            /// Opens the handles.
            $vis fn new(metrics: &$crate::metrics::Metrics $(, $of: &str)*) -> Self {
                let labels: &[(&'static str, &str)] = &[$((stringify!($of), $of)),*];
                Self {
                    $($($field: {
                        let labels = [labels, &[$((stringify!($label), $value))?]].concat();
                        $crate::metric_handles!(@open $type, metrics, $family, $help, &labels)
                    },)+)*
                }
            }

            /// Drops the series. The handles still count, but are not exported.
            $vis fn forget(metrics: &$crate::metrics::Metrics $(, $of: &str)*) {
                let labels: &[(&'static str, &str)] = &[$((stringify!($of), $of)),*];
                $($({
                    let labels = [labels, &[$((stringify!($label), $value))?]].concat();
                    $crate::metric_handles!(@forget $type, metrics, $family, &labels);
                })+)*
            }
        }
    };

    (@type [$type:ident $(in $buckets:expr)?; $label:ident: $set:ident::$word:ident]) => {
        [$crate::metrics::$type; $set::ALL.len()]
    };
    (@type ($type:ident in $buckets:expr)) => { $crate::metrics::$type };
    (@type $type:ident) => { $crate::metrics::$type };

    (
        @open [$type:ident $(in $buckets:expr)?; $label:ident: $set:ident::$word:ident],
        $metrics:ident, $family:expr, $help:expr, $labels:expr
    ) => {
        $set::ALL.map(|value| {
            let word = value.$word();
            let labels = [&$labels[..], &[(stringify!($label), &*word)]].concat();
            $crate::metric_handles!(@open ($type $(in $buckets)?), $metrics, $family, $help, &labels)
        })
    };
    (
        @open (Histogram in $buckets:expr),
        $metrics:ident, $family:expr, $help:expr, $labels:expr
    ) => {
        $metrics.histogram_with($family, $help, $labels, $buckets)
    };
    (@open ($type:ident), $($of:tt)*) => { $crate::metric_handles!(@open $type, $($of)*) };
    (@open IntCounter, $metrics:ident, $($of:tt)*) => { $metrics.counter($($of)*) };
    (@open IntGauge, $metrics:ident, $($of:tt)*) => { $metrics.gauge($($of)*) };
    (@open Gauge, $metrics:ident, $($of:tt)*) => { $metrics.float_gauge($($of)*) };
    (@open Histogram, $metrics:ident, $($of:tt)*) => { $metrics.histogram($($of)*) };

    (
        @forget [$type:ident $(in $buckets:expr)?; $label:ident: $set:ident::$word:ident],
        $metrics:ident, $family:expr, $labels:expr
    ) => {
        for value in $set::ALL {
            let word = value.$word();
            let labels = [&$labels[..], &[(stringify!($label), &*word)]].concat();
            $metrics.forget($family, &labels);
        }
    };
    (@forget $type:tt, $metrics:ident, $family:expr, $labels:expr) => {
        $metrics.forget($family, $labels)
    };
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    crate::enum_table! {
        #[derive(Clone, Copy)]
        enum Move => word {
            Opened = "opened",
            Closed = "closed",
        }
    }

    crate::metric_handles! {
        struct DoorMetrics(house) {
            moves: [IntCounter; what: Move::word] = "edgeway_moves_total", "Moves of the door.";
            waits: (Histogram in &[1.0]) = "edgeway_waits_seconds", "Waits at the door.";
            wide { side: "width" },
            high { side: "height" }: Gauge = "edgeway_size_metres", "Size of the door.";
        }
    }

    #[test]
    fn handles_of_a_name_are_opened_with_its_labels_and_forgotten_together() {
        let metrics = Metrics::default();
        let (lodge, _other) = (
            DoorMetrics::new(&metrics, "a"),
            DoorMetrics::new(&metrics, "b"),
        );
        lodge.moves[Move::Closed].inc();
        lodge.waits.observe(2.0);
        lodge.wide.set(0.9);
        lodge.high.set(2.1);
        let text = || String::from_utf8(metrics.text()).unwrap();
        for line in [
            "edgeway_moves_total{house=\"a\",what=\"closed\"} 1\n",
            "edgeway_moves_total{house=\"a\",what=\"opened\"} 0\n",
            "edgeway_waits_seconds_bucket{house=\"a\",le=\"1\"} 0\n",
            "edgeway_waits_seconds_count{house=\"a\"} 1\n",
            "edgeway_size_metres{house=\"a\",side=\"width\"} 0.9\n",
            "edgeway_size_metres{house=\"a\",side=\"height\"} 2.1\n",
        ] {
            assert!(text().contains(line), "{line}: {}", text());
        }
        DoorMetrics::forget(&metrics, "a");
        assert!(!text().contains("house=\"a\""), "{}", text());
        assert!(text().contains("house=\"b\""), "{}", text());
        let families = metrics.families().into_iter().map(|family| family.name);
        let mut declared: Vec<_> = DoorMetrics::FAMILIES.to_vec();
        declared.sort_unstable();
        declared.dedup();
        assert_eq!(families.collect::<Vec<_>>(), declared);
    }
}
