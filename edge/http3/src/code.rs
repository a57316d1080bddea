//! What ends a stream or a connection.

/// Error codes (RFC 9114 §8.1, RFC 9204 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// Nothing went wrong.
    NoError = 0x100,
    /// The server's own trouble.
    Internal = 0x102,
    /// A stream that must not be opened.
    StreamCreation = 0x103,
    /// A stream that must stay was closed.
    ClosedCriticalStream = 0x104,
    /// A frame where it must not be.
    FrameUnexpected = 0x105,
    /// A frame whose layout or size is not valid.
    Frame = 0x106,
    /// More than anybody needs.
    ExcessiveLoad = 0x107,
    /// An identifier that was never given, or one that grows again.
    Id = 0x108,
    /// Settings that contradict themselves.
    Settings = 0x109,
    /// The control stream does not begin with settings.
    MissingSettings = 0x10a,
    /// The request was not looked at and can be sent again.
    RequestRejected = 0x10b,
    /// The answer is not wanted, or not to be had, any more.
    RequestCancelled = 0x10c,
    /// The request's stream ended too early.
    RequestIncomplete = 0x10d,
    /// A malformed request.
    Message = 0x10e,
    /// A list of fields that is not QPACK.
    Decompression = 0x200,
    /// An instruction for a table that was never announced.
    EncoderStream = 0x201,
    /// An acknowledgement of what was never sent.
    DecoderStream = 0x202,
}

/// Something that a client may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It ends this stream.
    #[error("stream error: {0:?}")]
    Stream(Code),
    /// It ends the connection.
    #[error("connection error: {0:?}")]
    Connection(Code),
}
