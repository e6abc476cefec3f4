//! HTTP/2 frame by frame (RFC 9113), with headers in HPACK's plainest form (RFC 7541).

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Length in 24 bits, kind, flags, stream, payload.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /ips.json` for the authority `edge`: three entries of the static table, two literals.
pub fn get() -> Vec<u8> {
    [&[0x82, 0x86, 0x04, 9][..], b"/ips.json", &[0x01, 4], b"edge"].concat()
}

/// A header that is stored nowhere.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length =
        |text: &[u8]| u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text");
    [&[0, length(name)][..], name, &[length(value)], value].concat()
}
