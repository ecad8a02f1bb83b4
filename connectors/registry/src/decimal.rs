//! The digits of a decimal number of any length.

/// Longer numbers are refused: no amount has 600 digits, and the digits take time quadratic in the length.
const MAX_BYTES: usize = 256;

/// Appends the number `unscaled` (two's complement, big-endian) times ten to the power of `-scale`, in digits.
///
/// # Errors
/// The number is longer than 256 bytes.
pub(crate) fn push_decimal(out: &mut Vec<u8>, unscaled: &[u8], scale: i64) -> Result<(), &'static str> {
    let negative = unscaled.first().is_some_and(|byte| byte & 0x80 != 0);
    let padding = if negative { 0xff } else { 0 };
    let significant = &unscaled[unscaled.iter().take_while(|byte| **byte == padding).count()..];
    if significant.len() > MAX_BYTES {
        return Err("a decimal has more than 256 bytes");
    }
    let mut magnitude = significant.to_vec();
    if negative {
        // Minus the number: all bits inverted, plus one; the carry may need one byte more.
        magnitude.insert(0, 0xff);
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u16;
        for byte in &mut magnitude {
            let part = rest << 8 | u16::from(*byte);
            *byte = u8::try_from(part / 10).expect("a remainder below 10 before a byte keeps the quotient in a byte");
            rest = part % 10;
        }
        digits.push(b'0' + u8::try_from(rest).expect("a digit is below 10"));
    }
    let fraction = usize::try_from(scale).unwrap_or(0);
    let zeros = usize::try_from(-scale).unwrap_or(0);
    while digits.len() <= fraction {
        digits.push(b'0');
    }
    if negative {
        out.push(b'-');
    }
    out.extend(digits[fraction..].iter().rev());
    if digits.iter().any(|digit| *digit != b'0') {
        out.extend(std::iter::repeat_n(b'0', zeros));
    }
    if fraction > 0 {
        out.push(b'.');
        out.extend(digits[..fraction].iter().rev());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(unscaled: &[u8], scale: i64) -> String {
        let mut out = Vec::new();
        push_decimal(&mut out, unscaled, scale).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn digits_stand_where_the_scale_puts_them() {
        assert_eq!(text(&[0x30, 0x39], 2), "123.45");
        assert_eq!(text(&[0xcf, 0xc7], 2), "-123.45");
        assert_eq!(text(&[5], 3), "0.005");
        assert_eq!(text(&[0xff], 0), "-1");
        assert_eq!(text(&[0x80], 0), "-128");
        assert_eq!(text(&[0xff, 0x00], 0), "-256");
        assert_eq!(text(&[], 0), "0");
        assert_eq!(text(&[0], 2), "0.00");
        assert_eq!(text(&[7], -3), "7000");
        assert_eq!(text(&[0], -3), "0");
    }

    #[test]
    fn a_number_of_absurd_length_is_refused() {
        assert!(push_decimal(&mut Vec::new(), &[1; 257], 0).is_err());
    }

    proptest! {
        #[test]
        fn every_number_is_written_exactly(number: i128) {
            prop_assert_eq!(text(&number.to_be_bytes(), 0), number.to_string());
        }
    }
}
