//! The two forms of integers: QUIC's, and QPACK's.

/// QUIC's (RFC 9000 §16): the integer at the beginning, and how many bytes it is. `None`: its rest is missing.
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, length))
}

/// In the shortest form, and how many bytes that is. At most 2^62 - 1, which no length or identifier reaches.
pub(crate) fn write(value: u64) -> ([u8; 8], usize) {
    let (tagged, length) = match value {
        0..0x40 => (value, 1),
        0x40..0x4000 => (value | 0x4000, 2),
        0x4000..0x4000_0000 => (value | 0x8000_0000, 4),
        _ => (value | 0xc000_0000_0000_0000, 8),
    };
    ((tagged << (64 - 8 * length)).to_be_bytes(), length)
}

/// Appends it in the shortest form.
pub(crate) fn push(out: &mut Vec<u8>, value: u64) {
    let (bytes, length) = write(value);
    out.extend_from_slice(bytes.get(..length).unwrap_or_default());
}

/// Takes QPACK's (RFC 7541 §5.1) with a prefix of so many bits, up to 28 bits beside it, from the beginning.
pub(crate) fn take_prefixed(bytes: &mut &[u8], prefix: u8) -> Option<usize> {
    let mask = ((1u16 << prefix) - 1) as u8;
    let (first, mut rest) = bytes.split_first()?;
    let mut value = usize::from(first & mask);
    if first & mask == mask {
        let mut shift = 0;
        loop {
            let (byte, behind) = rest.split_first()?;
            rest = behind;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            match byte & 0x80 {
                0 => break,
                _ if shift > 21 => return None,
                _ => {}
            }
        }
    }
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use hosting_edge_http2::push_integer;

    use super::*;

    #[test]
    fn integers_read_back_and_the_examples_of_the_rfcs_are_read() {
        // RFC 9000 §A.1.
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(read(bytes), Some((value, bytes.len())));
            assert_eq!(read(&bytes[..bytes.len() - 1]), None);
        }
        for value in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            let mut out = Vec::new();
            push(&mut out, value);
            assert_eq!(read(&out), Some((value, out.len())));
        }
        // RFC 7541 §C.1.
        for (bytes, prefix, value) in
            [(&[0b1010][..], 5, 10), (&[0x1f, 0x9a, 0x0a], 5, 1_337), (&[42], 8, 42)]
        {
            let mut rest = bytes;
            assert_eq!((take_prefixed(&mut rest, prefix), rest.len()), (Some(value), 0));
            let mut out = Vec::new();
            push_integer(&mut out, prefix, 0, value);
            assert_eq!(out, bytes);
        }
        assert_eq!(take_prefixed(&mut &[0x1f, 0xff, 0xff, 0xff, 0xff, 0][..], 5), None, "too large");
        assert_eq!(take_prefixed(&mut &[0x1f, 0x80][..], 5), None, "breaks off");
    }
}
