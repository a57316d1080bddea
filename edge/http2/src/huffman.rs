//! HPACK's Huffman code (RFC 7541 §5.2, Appendix B). The code is canonical: the lengths of its words say everything.

/// Bits of the word of each byte; last, those of EOS.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const SYMBOLS: usize = 257;
const EOS: u16 = 256;
const LONGEST: usize = 30;

/// The words by length, and those of up to eight bits by what begins with them.
struct Code {
    /// Symbol and length for the next eight bits; length 0: the word is longer.
    short: [(u8, u8); 256],
    /// Symbols in the order of their words.
    ordered: [u16; SYMBOLS],
    /// For each length: how many symbols have shorter words.
    before: [u16; LONGEST + 1],
    /// For each length: its first word, and the first word behind its last one, moved to the left of 32 bits.
    first: [u64; LONGEST + 1],
    end: [u64; LONGEST + 1],
}

static CODE: Code = code();

#[allow(clippy::indexing_slicing, reason = "constant: an index out of range does not compile")]
const fn code() -> Code {
    let mut code = Code {
        short: [(0, 0); 256],
        ordered: [0; SYMBOLS],
        before: [0; LONGEST + 1],
        first: [0; LONGEST + 1],
        end: [0; LONGEST + 1],
    };
    let (mut length, mut word, mut count) = (1, 0u64, 0);
    while length <= LONGEST {
        word <<= 1;
        code.before[length] = count as u16;
        code.first[length] = word << (32 - length);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                code.ordered[count] = symbol as u16;
                if length <= 8 {
                    let mut rest = 0;
                    while rest < 1 << (8 - length) {
                        code.short[((word as usize) << (8 - length)) + rest] = (symbol as u8, length as u8);
                        rest += 1;
                    }
                }
                word += 1;
                count += 1;
            }
            symbol += 1;
        }
        code.end[length] = word << (32 - length);
        length += 1;
    }
    code
}

/// The string is not Huffman coded as RFC 7541 §5.2 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotHuffman;

/// Appends what `coded` stands for. At most 8/5 of its length.
///
/// # Errors
/// It is not coded like this.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), NotHuffman> {
    out.reserve(coded.len() + coded.len() / 2);
    let mut coded = coded.iter();
    let (mut held, mut bits) = (0u64, 0u32);
    loop {
        while bits <= 32 {
            let Some(byte) = coded.next() else { break };
            held = held << 8 | u64::from(*byte);
            bits += 8;
        }
        if bits == 0 {
            return Ok(());
        }
        // The next 32 bits, filled up with the ones that begin EOS.
        let next = match bits.checked_sub(32) {
            Some(more) => (held >> more) as u32,
            None => ((held << (32 - bits)) as u32) | (u32::MAX >> bits),
        };
        let (symbol, length) = match CODE.short.get((next >> 24) as usize) {
            Some((symbol, length @ 1..)) => (u16::from(*symbol), u32::from(*length)),
            _ => long(next).ok_or(NotHuffman)?,
        };
        if symbol == EOS {
            // Less than a byte of its beginning fills up the last byte; EOS itself is an error.
            return if bits < 8 { Ok(()) } else { Err(NotHuffman) };
        }
        bits = bits.checked_sub(length).ok_or(NotHuffman)?;
        held &= (1u64 << bits) - 1;
        out.push(symbol as u8);
    }
}

/// The word of more than eight bits at the beginning of these.
fn long(next: u32) -> Option<(u16, u32)> {
    let next = u64::from(next);
    for length in 9..=LONGEST {
        let (end, first) = (*CODE.end.get(length)?, *CODE.first.get(length)?);
        if next < end {
            let index = usize::from(*CODE.before.get(length)?) + ((next - first) >> (32 - length)) as usize;
            return Some((*CODE.ordered.get(index)?, length as u32));
        }
    }
    None
}

#[cfg(test)]
pub(crate) fn encode(plain: &[u8]) -> Vec<u8> {
    let (mut out, mut held, mut bits) = (Vec::new(), 0u64, 0u32);
    for byte in plain {
        let length = usize::from(LENGTHS[usize::from(*byte)]);
        let index = CODE.ordered.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
        let word = (CODE.first[length] >> (32 - length)) + (index as u64 - u64::from(CODE.before[length]));
        held = held << length | word;
        bits += length as u32;
        while bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    if bits > 0 {
        out.push((held << (8 - bits)) as u8 | (0xff >> bits));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, NotHuffman> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&www).unwrap(), b"www.example.com");
        assert_eq!(encode(b"www.example.com"), www);
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
            0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(decoded(&date).unwrap(), b"Mon, 21 Oct 2013 20:13:21 GMT");
    }

    #[test]
    fn a_string_ends_with_less_than_a_byte_of_ones() {
        assert_eq!(decoded(b""), Ok(Vec::new()));
        // '0' is 00000.
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        for bad in [&[0b0000_0000][..], &[0b0000_0110], &[0b0000_0111, 0xff], &[0xff], &[0xff; 4], &[0xff; 5]]
        {
            assert_eq!(decoded(bad), Err(NotHuffman), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encode(&plain)).unwrap(), plain);
        }

        #[test]
        fn no_bytes_bring_the_decoder_down(coded in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(plain) = decoded(&coded) {
                prop_assert_eq!(encode(&plain), coded);
            }
        }
    }
}
