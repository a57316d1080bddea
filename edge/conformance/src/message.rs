//! Messages of HTTP/1 as this crate reads them: strictly, with a word for everything that another server might read otherwise.

use crate::text::escape;

/// A message in the bytes of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) first_line: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) framing: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Whether its end was there.
    pub(crate) is_whole: bool,
    /// Bytes of it.
    pub(crate) length: usize,
    /// Bytes of its head; 0: its end is not there.
    pub(crate) head: usize,
    /// What could be read in more than one way.
    pub(crate) faults: Vec<String>,
}

/// What a message's body depends on beside its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Client,
    /// `true`: the request's method was HEAD.
    Node(bool),
}

impl Message {
    /// The message at the beginning of `bytes`.
    pub(crate) fn read(bytes: &[u8], of: Of) -> Self {
        let mut message = Self::default();
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            message.first_line = escape(bytes);
            return message;
        };
        message.head = head + 4;
        let (head, rest) = bytes.split_at(head);
        message.read_head(head);
        message.length = message.head;
        let without_body = match of {
            Of::Client => false,
            Of::Node(is_head) => {
                let status = message.status();
                is_head || status < 200 || status == 204 || status == 304
            }
        };
        let rest = rest.get(4..).unwrap_or_default();
        if without_body {
            message.is_whole = true;
        } else {
            message.read_body(rest, of == Of::Client);
        }
        message
    }

    /// Of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    fn fault(&mut self, fault: &str) {
        if !self.faults.iter().any(|other| other == fault) {
            self.faults.push(fault.to_owned());
        }
    }

    fn read_head(&mut self, head: &[u8]) {
        for (index, byte) in head.iter().enumerate() {
            let is_end = head.get(index..index + 2) == Some(b"\r\n");
            match byte {
                b'\r' if !is_end => self.fault("a bare CR"),
                b'\n' if index == 0 || head.get(index - 1) != Some(&b'\r') => self.fault("a bare LF"),
                b'\t' | b'\r' | b'\n' => {}
                0..=0x1f | 0x7f => self.fault("a control character"),
                _ => {}
            }
        }
        let text: String = head.iter().copied().map(char::from).collect();
        let mut lines = text.split("\r\n");
        self.first_line = lines.next().unwrap_or_default().to_owned();
        for line in lines {
            let Some((name, value)) = line.split_once(": ").or_else(|| line.split_once(':')) else {
                self.fault("a line that is no field");
                continue;
            };
            let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || !name.chars().all(is_token) {
                self.fault("a name that is none");
            }
            let bytes: Vec<u8> = value.chars().map(|c| c as u8).collect();
            self.fields.push((name.to_ascii_lowercase(), escape(&bytes)));
        }
    }

    fn read_body(&mut self, rest: &[u8], is_request: bool) {
        let all = |message: &Self, name: &str| -> Vec<String> {
            message.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.clone()).collect()
        };
        let (lengths, codings) = (all(self, "content-length"), all(self, "transfer-encoding"));
        if lengths.len() + codings.len() > 1 {
            self.fault("two lengths");
        }
        if let Some(coding) = codings.first() {
            if coding != "chunked" {
                self.fault("a coding");
            }
            self.framing = Some("chunked".to_owned());
            return self.read_chunks(rest);
        }
        let Some(text) = lengths.first() else {
            self.is_whole = is_request;
            if !is_request {
                self.framing = Some("until the end".to_owned());
                self.body = rest.to_vec();
                self.length += rest.len();
            }
            return;
        };
        let length: usize = text.parse().unwrap_or_default();
        if *text != length.to_string() {
            self.fault("a length that is written otherwise");
        }
        self.framing = Some(format!("length {text}"));
        self.is_whole = rest.len() >= length;
        self.body = rest.get(..length).unwrap_or(rest).to_vec();
        self.length += self.body.len();
    }

    fn read_chunks(&mut self, mut rest: &[u8]) {
        loop {
            let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return };
            let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
            let (digits, extension) = line.split_at(line.bytes().take_while(u8::is_ascii_hexdigit).count());
            let Ok(size) = usize::from_str_radix(digits, 16) else {
                self.fault("a chunk's size that is none");
                return;
            };
            if !extension.is_empty() {
                self.fault("a chunk's extension");
            }
            if format!("{size:x}") != digits.to_ascii_lowercase() {
                self.fault("a chunk's size that is written otherwise");
            }
            rest = rest.get(end + 2..).unwrap_or_default();
            self.length += end + 2;
            if size == 0 {
                return self.read_trailers(rest);
            }
            self.body.extend_from_slice(rest.get(..size).unwrap_or(rest));
            match rest.get(size..size + 2) {
                Some(b"\r\n") => {}
                Some(_) => return self.fault("a chunk that is longer than its size"),
                None => return,
            }
            rest = rest.get(size + 2..).unwrap_or_default();
            self.length += size + 2;
        }
    }

    fn read_trailers(&mut self, mut rest: &[u8]) {
        while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
            self.length += end + 2;
            if end == 0 {
                self.is_whole = true;
                return;
            }
            self.fault("trailers");
            rest = rest.get(end + 2..).unwrap_or_default();
        }
    }
}
