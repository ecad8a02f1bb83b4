//! Rounding an exact number to the nearest `f64`, ties to even: the one place where an exact aggregate becomes a float.

/// The exponent of the least bit of a double.
pub(super) const LEAST_EXPONENT: i32 = -1_074;

const MANTISSA_BITS: u32 = 53;

/// The double nearest to `significand * 2^exponent`, of two the even one, infinity beyond the greatest.
///
/// `more`: the number is larger by less than one unit of the significand, which then has more than 54 bits.
pub(super) fn nearest(significand: u128, more: bool, exponent: i32) -> f64 {
    let bits = 128 - significand.leading_zeros();
    if bits == 0 {
        return 0.0;
    }
    // The exponent of the result's last bit: numbers of less than 53 bits at the low end have a fixed one.
    let last = (exponent + bits.cast_signed() - MANTISSA_BITS.cast_signed()).max(LEAST_EXPONENT);
    let dropped = last - exponent;
    let mantissa = if dropped <= 0 {
        significand << dropped.unsigned_abs()
    } else {
        let (kept, rest) = (significand >> dropped, significand & ((1 << dropped) - 1));
        let half = 1 << (dropped - 1);
        let up = rest > half || (rest == half && (more || kept % 2 == 1));
        kept + u128::from(up)
    };
    let mantissa = u64::try_from(mantissa).expect("53 bits, or one more after a carry, fit into 64");
    // The leading bit of a mantissa adds one to the exponent's field, which is what a number that is not subnormal has.
    let field = u64::from((last - LEAST_EXPONENT).unsigned_abs());
    let infinity = f64::INFINITY.to_bits();
    f64::from_bits(((field.min(2_047) << (MANTISSA_BITS - 1)) + mantissa).min(infinity))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_round_as_the_machine_rounds_them(number in any::<u128>(), fewer in 0u32..128) {
            let number = number >> fewer;
            prop_assert_eq!(nearest(number, false, 0), number as f64);
        }

        #[test]
        fn a_double_is_nearest_to_itself(bits in 0u64..f64::INFINITY.to_bits()) {
            let double = f64::from_bits(bits);
            let field = bits >> 52;
            let mantissa = (bits & ((1 << 52) - 1)) | if field > 0 { 1 << 52 } else { 0 };
            let exponent = i32::try_from(field.max(1)).unwrap() - 1 + LEAST_EXPONENT;
            prop_assert_eq!(nearest(u128::from(mantissa), false, exponent).to_bits(), double.to_bits());
            prop_assert_eq!(nearest(u128::from(mantissa) << 70, false, exponent - 70).to_bits(), double.to_bits());
        }
    }

    #[test]
    fn a_tie_goes_to_the_even_one_unless_there_is_more() {
        let tie = (1u128 << 60) + (1 << 7);
        assert_eq!(nearest(tie, false, 0), (1u64 << 60) as f64);
        assert_eq!(nearest(tie, true, 0), ((1u64 << 60) + (1 << 8)) as f64);
        assert_eq!(nearest(tie - 1, true, 0), (1u64 << 60) as f64);
    }

    #[test]
    fn what_exceeds_the_greatest_double_is_infinite() {
        assert_eq!(nearest(1, false, 1_023), 2f64.powi(1_023));
        assert_eq!(nearest(1, false, 1_024), f64::INFINITY);
        assert_eq!(nearest(u128::MAX, true, 5_000), f64::INFINITY);
        assert_eq!(nearest((1 << 53) - 1, false, 971), f64::MAX);
        assert_eq!(nearest((1 << 54) - 1, false, 970), f64::INFINITY, "half a unit above the greatest is a tie");
    }
}
