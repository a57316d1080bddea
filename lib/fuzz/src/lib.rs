//! Targets of fuzzing: properties of what reads bytes of strangers, that every input must have.
//!
//! Owns how much a target may take under the test runner, and how an input becomes bytes. Under the test runner a target gets the
//! files of its corpus (`__fuzz__/<name>/corpus` beside the file that it stands in) and random inputs; `cargo bolero` runs the
//! same target for as long as one likes, guided by coverage (CONTRIBUTING.md).

use std::time::Duration;

pub use bolero;

/// Random inputs of a target under the test runner.
pub const ITERATIONS: usize = 10_000;
/// What these may take; on a busy machine there are fewer.
pub const BUDGET: Duration = Duration::from_millis(1_000);
/// Bytes of an input.
pub const LONGEST: usize = 256;

/// The bytes that an input stands for. One that begins with a byte below 0x80 stands for itself, so that a file of a corpus can be read.
/// Any other says what is done to which of the seeds: chance alone never spells anything that a parser looks at twice.
#[must_use]
pub fn expand(input: &[u8], seeds: &[&[u8]], words: &[&[u8]]) -> Vec<u8> {
    let [seed, count, steps @ ..] = input else { return input.to_vec() };
    if *seed < 0x80 {
        return input.to_vec();
    }
    let pick = |list: &[&[u8]], index: u8| match list.len() {
        0 => Vec::new(),
        length => list.get(usize::from(index) % length).map(|word| word.to_vec()).unwrap_or_default(),
    };
    let mut out = pick(seeds, seed - 0x80);
    for step in steps.chunks_exact(3).take(usize::from(count % 8)) {
        let [place, kind, what] = step else { continue };
        let at = usize::from(*place) * (out.len() + 1) / 256;
        let until = |length: usize| at..(at + length).min(out.len());
        match kind % 5 {
            0 => drop(out.splice(at..at, pick(words, *what))),
            1 => drop(out.drain(until(1 + usize::from(what % 4)))),
            2 => drop(out.splice(until(1), [*what])),
            3 => drop(out.splice(at..at, [*what])),
            _ => {
                let again = out.get(until(usize::from(what % 48))).unwrap_or_default().to_vec();
                out.splice(at..at, again);
            }
        }
    }
    out
}

/// A test that is a target of fuzzing: its name, sound inputs, words that mean something, and a function that panics when the bytes have not the property.
#[macro_export]
macro_rules! fuzz {
    ($name:ident, $seeds:expr, $words:expr, $check:expr) => {
        #[test]
        fn $name() {
            let check: fn(&[u8]) = $check;
            $crate::bolero::check!(name = stringify!($name))
                .with_iterations($crate::ITERATIONS)
                .with_test_time($crate::BUDGET)
                .with_max_len($crate::LONGEST)
                .for_each(|input: &[u8]| check(&$crate::expand(input, $seeds, $words)));
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_stand_for_bytes() {
        let of = |input: &[u8]| expand(input, &[b"abcd", b"x"], &[b"-one-", b"-two-"]);
        assert_eq!(of(b"text\xff"), b"text\xff");
        assert_eq!((of(b"\x80\0"), of(b"\x81\0")), (b"abcd".to_vec(), b"x".to_vec()));
        let steps = [
            (0, b"ab-two-cd".to_vec()),
            (1, b"abd".to_vec()),
            (2, b"ab\x01d".to_vec()),
            (3, b"ab\x01cd".to_vec()),
            (4, b"abccd".to_vec()),
        ];
        for (kind, expected) in steps {
            let what = if kind == 1 { 4 } else { 1 };
            assert_eq!(of(&[0x80, 1, 128, kind, what]), expected, "{kind}");
        }
        assert_eq!(expand(b"\x80\x01\0\0\0", &[], &[]), b"");
    }
}
