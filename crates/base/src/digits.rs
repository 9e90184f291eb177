//! Fast number formatting, for log lines and headers that every request writes.

/// Appends a number in decimal.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    // Most numbers are ports and status codes, or smaller.
    match number {
        0..10 => return out.push(b'0' + low_digit(number)),
        10..100 => {
            return out
                .extend_from_slice(&[b'0' + low_digit(number / 10), b'0' + low_digit(number)]);
        }
        100..1000 => return put_three(out, number),
        _ => {}
    }
    // 2^64 has 20 digits.
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + low_digit(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends three digits of a number below 1,000.
pub fn put_three(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&[
        b'0' + low_digit(number / 100),
        b'0' + low_digit(number / 10),
        b'0' + low_digit(number),
    ]);
}

fn low_digit(number: u64) -> u8 {
    (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        for number in [0, 7, 10, 99, 100, 999, 1000, 65_535, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        let mut out = Vec::new();
        put_three(&mut out, 7);
        assert_eq!(out, b"007");
    }
}
