//! An answer's frames.

use bytes::BytesMut;

use crate::integer::write;
use crate::qpack::{push_field, push_prefix, push_status};
use crate::request::{DATA, HEADERS};

/// Appends the frame with an answer's fields.
pub fn push_answer<'a>(
    out: &mut BytesMut,
    status: u16,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    length: Option<u64>,
) {
    let mut list = Vec::with_capacity(256);
    push_prefix(&mut list);
    push_status(&mut list, status);
    for (name, value) in fields {
        push_field(&mut list, name, value);
    }
    if let Some(length) = length {
        push_field(&mut list, b"content-length", length.to_string().as_bytes());
    }
    push_frame(out, HEADERS, &list);
}

/// Appends a frame with a piece of the body.
pub fn push_data(out: &mut BytesMut, data: &[u8]) {
    push_frame(out, DATA, data);
}

fn push_frame(out: &mut BytesMut, kind: u64, payload: &[u8]) {
    out.reserve(payload.len() + 16);
    for number in [kind, payload.len() as u64] {
        let (bytes, length) = write(number);
        out.extend_from_slice(bytes.get(..length).unwrap_or_default());
    }
    out.extend_from_slice(payload);
}
