//! Bytes by class, as a mask of 64 bits: what a value is made of, known after one pass over it.
//!
//! Letters and digits have no bit; every other printable ASCII character has its own; so do tab, line feed, carriage return
//! and NUL; other control bytes share one, and so do all bytes from 0x80.

use crate::transform::ByteSet;

pub type Mask = u64;

const UPPER: u32 = 39;
const LETTERS: Mask = 1 << UPPER;
const TABLE: [Mask; 256] = table();

const fn table() -> [Mask; 256] {
    let mut table = [0; 256];
    let mut next = 0;
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        table[b] = match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => 0,
            0x20..=0x7e => {
                next += 1;
                1 << (next - 1)
            }
            b'\t' => 1 << 34,
            b'\n' => 1 << 35,
            b'\r' => 1 << 36,
            0 => 1 << 37,
            0x80.. => 1 << 38,
            _ => 1 << 33,
        };
        b += 1;
    }
    table
}

/// The class of a byte; 0 for letters and digits.
pub const fn of(b: u8) -> Mask {
    TABLE[b as usize]
}

/// The classes in a value, and whether it has capital letters (a bit of its own, above the others).
pub fn of_value(value: &[u8]) -> Mask {
    let mut mask = 0;
    let mut upper = false;
    for &b in value {
        mask |= TABLE[usize::from(b)];
        upper |= b.is_ascii_uppercase();
    }
    mask | (u64::from(upper) << UPPER)
}

/// The classes of a set; capital letters count by their bit, other letters and digits do not count.
pub fn of_set(set: &ByteSet) -> Mask {
    (0..=255u8)
        .filter(|b| set.contains(*b))
        .fold(0, |m, b| m | of(b) | if b.is_ascii_uppercase() { LETTERS } else { 0 })
}

/// Without the bit for capital letters.
pub const fn special(mask: Mask) -> Mask {
    mask & !LETTERS
}

/// Letters, digits and the bytes of the classes in a mask.
pub fn alphabet(mask: Mask) -> ByteSet {
    let mut set = ByteSet::EMPTY;
    for b in 0..=255u8 {
        if of(b) == 0 || of(b) & mask != 0 {
            set.insert(b);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_character_has_its_own_bit() {
        let mut seen = 0;
        for b in 0x20..=0x7eu8 {
            if !b.is_ascii_alphanumeric() {
                assert_eq!(of(b).count_ones(), 1);
                assert_eq!(seen & of(b), 0);
                seen |= of(b);
            }
        }
        assert_eq!(seen & (of(0) | of(1) | of(b'\t') | of(0x80) | LETTERS), 0);
        assert_eq!(of_value(b"aB"), LETTERS);
    }
}
