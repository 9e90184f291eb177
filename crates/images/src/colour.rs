//! Colour profiles. Images with sRGB, which is what browsers take an image without a profile
//! for, keep their values; other profiles are left to a library that converts colours.

/// Most that primaries may differ from those of sRGB, as parts of white.
const PRIMARIES: f64 = 0.002;

/// Most that a curve may differ.
const CURVE: f64 = 0.002;

/// Primaries of sRGB, adapted to the white point of profiles.
const SRGB: [(&[u8], [f64; 3]); 3] = [
    (b"rXYZ", [0.43607, 0.22249, 0.01392]),
    (b"gXYZ", [0.38515, 0.71687, 0.09708]),
    (b"bXYZ", [0.14307, 0.06061, 0.71410]),
];

/// Returns true for a profile of sRGB: a conversion to sRGB would change nothing.
pub(crate) fn is_srgb(profile: &[u8]) -> bool {
    let profile = Profile(profile);
    profile.is_matrix() == Some(true)
        && SRGB.iter().all(|(name, expected)| {
            let primary = profile.tag(name).and_then(xyz);
            primary.is_some_and(|primary| {
                let mut pairs = primary.iter().zip(expected);
                pairs.all(|(primary, expected)| (primary - expected).abs() <= PRIMARIES)
            })
        })
        && [&b"rTRC"[..], b"gTRC", b"bTRC"].into_iter().all(|name| {
            let curve = profile.tag(name);
            curve.is_some_and(|curve| has_curve_of_srgb(curve) == Some(true))
        })
}

/// Reader of a profile.
struct Profile<'p>(&'p [u8]);

fn long(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Reads a number with 16 bits of fractions.
fn fixed(bytes: &[u8], offset: usize) -> Option<f64> {
    Some(f64::from(long(bytes, offset)?.cast_signed()) / 65536.0)
}

impl<'p> Profile<'p> {
    /// Returns true if colours are converted by a matrix and curves alone, from RGB to XYZ.
    fn is_matrix(&self) -> Option<bool> {
        let is_rgb = self.0.get(16..20)? == b"RGB " && self.0.get(20..24)? == b"XYZ ";
        Some(
            is_rgb
                && [&b"A2B0"[..], b"A2B1", b"A2B2"]
                    .into_iter()
                    .all(|name| self.tag(name).is_none()),
        )
    }

    fn tag(&self, name: &[u8]) -> Option<&'p [u8]> {
        let count = long(self.0, 128)?.min(100) as usize;
        (0..count).find_map(|index| {
            let entry = self.0.get(132 + index * 12..)?.first_chunk::<12>()?;
            let from = long(entry, 4)? as usize;
            let length = long(entry, 8)? as usize;
            (entry.starts_with(name)).then(|| self.0.get(from..from.checked_add(length)?))?
        })
    }
}

fn xyz(tag: &[u8]) -> Option<[f64; 3]> {
    let is_xyz = tag.starts_with(b"XYZ ");
    is_xyz.then(|| Some([fixed(tag, 8)?, fixed(tag, 12)?, fixed(tag, 16)?]))?
}

/// Linear value of a value in sRGB (IEC 61966-2-1).
fn linear(value: f64) -> f64 {
    if value <= 0.04045 {
        value / 12.92
    } else {
        ((value + 0.055) / 1.055).powf(2.4)
    }
}

/// Returns true for the curve of sRGB, as a table or as a function.
fn has_curve_of_srgb(tag: &[u8]) -> Option<bool> {
    let is_near = |sample: f64, value: f64| (sample - linear(value)).abs() <= CURVE;
    if tag.starts_with(b"para") {
        let kind = tag.get(8..10)?;
        // (scale * value + offset) ^ gamma, and slope * value below the limit.
        let number = |index: usize| fixed(tag, 12 + index * 4);
        let (gamma, scale, offset) = (number(0)?, number(1)?, number(2)?);
        let (slope, limit) = (number(3)?, number(4)?);
        let function = |value: f64| {
            if value >= limit {
                (scale * value + offset).powf(gamma)
            } else {
                slope * value
            }
        };
        let mut values = (0..=64u32).map(|step| f64::from(step) / 64.0);
        return Some(kind == [0, 3] && values.all(|value| is_near(function(value), value)));
    }
    if !tag.starts_with(b"curv") {
        return None;
    }
    let count = long(tag, 8)?;
    let table = tag.get(12..)?;
    let (table, _) = table.as_chunks::<2>();
    if count < 64 || table.len() < count as usize {
        return Some(false);
    }
    let mut values = table.iter().take(count as usize).zip(0u32..);
    Some(values.all(|(sample, index)| {
        let sample = f64::from(u16::from_be_bytes(*sample)) / 65535.0;
        is_near(sample, f64::from(index) / f64::from(count - 1))
    }))
}
