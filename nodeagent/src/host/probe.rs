//! Questions to our own nginx and php-fpm.

use std::{net::SocketAddr, path::Path, time::Duration};

use hosting_agent_engine::Answer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};

/// How long one question may take.
const ONCE: Duration = Duration::from_secs(1);

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// Most of an answer that is read, in bytes.
const MOST: u64 = 16 * 1024;

/// One HTTP question.
#[derive(Debug)]
pub(super) struct Http<'a> {
    pub(super) address: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) header: (&'a str, &'a str),
}

/// Asks until the answer is as expected or `patience` is over. `late` is what no answer in time means.
pub(super) async fn until<F: Future<Output = Answer>>(
    patience: Duration,
    late: Answer,
    ask: impl Fn() -> F,
) -> Answer {
    let began = Instant::now();
    loop {
        // Who waits for a change asks often rather than long.
        let once = if patience.is_zero() { ONCE } else { patience.clamp(ONCE / 4, ONCE) };
        let answer = timeout(once, ask()).await.unwrap_or_else(|_| late.clone());
        let done = answer == Answer::Expected || began.elapsed() >= patience;
        if done {
            return answer;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn judge(body: Option<&[u8]>, expect: &str) -> Answer {
    match body {
        Some(body) if body.trim_ascii() == expect.as_bytes() => Answer::Expected,
        Some(body) => {
            let text: String =
                String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(100).collect();
            Answer::Other(format!("{text:?}"))
        }
        None => Answer::Other("no answer of ours".to_owned()),
    }
}

/// HTTP/1.0, so that the body ends with the connection.
pub(super) async fn http(ask: &Http<'_>, expect: &str) -> Answer {
    let Ok(mut address) = ask.address.parse::<SocketAddr>() else {
        return Answer::Silent(format!("{:?} is no address", ask.address));
    };
    if address.ip().is_unspecified() {
        // Listening everywhere includes ourselves.
        match &mut address {
            SocketAddr::V4(v4) => v4.set_ip(std::net::Ipv4Addr::LOCALHOST),
            SocketAddr::V6(v6) => v6.set_ip(std::net::Ipv6Addr::LOCALHOST),
        }
    }
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Answer::Silent(format!("{address}: {error}")),
    };
    let (name, value) = ask.header;
    let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n{name}: {value}\r\n\r\n", ask.path, ask.host);
    match exchange(&mut stream, request.as_bytes()).await {
        Ok(answer) => {
            let ok = answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"HTTP/1.0 200 ");
            let body = after_blank_line(&answer).filter(|_| ok);
            if body.is_none() {
                let status = String::from_utf8_lossy(answer.get(..30.min(answer.len())).unwrap_or_default());
                return Answer::Other(status.lines().next().unwrap_or_default().to_owned());
            }
            judge(body, expect)
        }
        Err(error) => Answer::Silent(format!("{address}: {error}")),
    }
}

/// A FastCGI responder request (FastCGI 1.0 §3 and §6.2) with nothing but a script name.
pub(super) async fn fast_cgi(socket: &Path, path: &str, expect: &str) -> Answer {
    let mut stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        // A full queue: somebody listens.
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Answer::Busy,
        Err(error) => return Answer::Silent(error.to_string()),
    };
    let mut params = Vec::new();
    for (name, value) in [("SCRIPT_NAME", path), ("SCRIPT_FILENAME", path), ("REQUEST_METHOD", "GET")] {
        // Both are shorter than 128 bytes, so each length is one byte.
        let (Ok(name_len), Ok(value_len)) = (u8::try_from(name.len()), u8::try_from(value.len())) else {
            return Answer::Silent("the script name is too long".to_owned());
        };
        params.extend([name_len, value_len]);
        params.extend(name.as_bytes());
        params.extend(value.as_bytes());
    }
    let mut request = record(1, &[0, 1, 0, 0, 0, 0, 0, 0]);
    request.extend(record(4, &params));
    request.extend(record(4, &[]));
    request.extend(record(5, &[]));
    match exchange(&mut stream, &request).await {
        Ok(answer) => judge(after_blank_line(&standard_output(&answer)), expect),
        Err(error) => Answer::Silent(error.to_string()),
    }
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = vec![1, kind, 0, 1];
    bytes.extend(length);
    bytes.extend([0, 0]);
    bytes.extend(content);
    bytes
}

/// The content of the stdout records.
fn standard_output(mut answer: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    while let Some((header, rest)) = answer.split_first_chunk::<8>() {
        let [_, kind, _, _, high, low, padding, _] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let content = rest.get(..length).unwrap_or(rest);
        if kind == 6 {
            output.extend(content);
        }
        answer = rest.get(length + usize::from(padding)..).unwrap_or_default();
    }
    output
}

fn after_blank_line(answer: &[u8]) -> Option<&[u8]> {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    answer.get(at + 4..)
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
) -> std::io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_whatever_their_shape() {
        let mut answer = record(6, b"Status: 200\r\n\r\nab");
        answer.extend(record(7, b"noise"));
        answer.extend(record(6, b"c"));
        answer.extend(record(3, &[0; 8]));
        assert_eq!(after_blank_line(&standard_output(&answer)), Some(b"abc".as_slice()));
        assert_eq!(standard_output(&[1, 6, 0, 1, 255, 255, 255, 0, b'x']), b"x");
        assert_eq!(standard_output(&[1, 6]), b"");
    }

    proptest::proptest! {
        #[test]
        fn no_answer_can_do_harm(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = judge(after_blank_line(&standard_output(&bytes)), "x");
        }
    }
}
