//! HTTP/1.1 by hand, over plain TCP: the generator shares its machine with what it measures, so it must cost little.
//!
//! A request is put together from bytes that were prepared before the run; an answer is read into one buffer and only its
//! status, its length and two headers are looked at. One request a connection at a time, as browsers do it. No TLS: a
//! shop behind TLS is measured with the k6 scripts.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Answers of the API have a few kilobytes at most.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const BUFFER_BYTES: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;

/// One kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// What was answered.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub status: u16,
    pub is_replay: bool,
    /// The server closes the connection after this.
    pub closes: bool,
    pub body: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    status: u16,
    is_replay: bool,
    closes: bool,
    body: Body,
}

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Plain(Range<usize>),
    /// In pieces from here on; they are put together once they are complete.
    Chunked(usize),
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::of(stream))
    }

    pub fn of(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES], filled: 0 }
    }

    /// Closes without the minute that the kernel would keep the port for: thousands of fresh connections a second would
    /// use up all ports otherwise. The answer has been read, so nothing is lost.
    pub fn close(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Sends one request and reads its answer to the end. After an error the connection is of no more use.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.filled = 0;
        self.stream.write_all(request).await?;
        let parsed = loop {
            if self.filled == self.buffer.len() {
                if self.filled >= ANSWER_BYTES_MAX {
                    return Err(bad("the answer is too long"));
                }
                self.buffer.resize(2 * self.filled, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the end of the answer"));
            }
            self.filled += read;
            if let Some(parsed) = parse(&self.buffer[..self.filled])? {
                break parsed;
            }
        };
        let body = match parsed.body {
            Body::Plain(range) => range,
            Body::Chunked(from) => {
                let whole = unchunk(&self.buffer[from..self.filled])?.ok_or_else(|| bad("pieces are missing"))?;
                self.buffer[from..from + whole.len()].copy_from_slice(&whole);
                from..from + whole.len()
            }
        };
        let Parsed { status, is_replay, closes, .. } = parsed;
        Ok(Answer { status, is_replay, closes, body: &self.buffer[body] })
    }
}

/// `None` while the answer is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<Parsed>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).map_err(|error| bad(&error.to_string()))? else {
        return Ok(None);
    };
    let status = response.code.ok_or_else(|| bad("an answer without a status"))?;
    let (mut length, mut is_replay, mut closes, mut is_chunked) = (None, false, false, false);
    for header in &*response.headers {
        // By length first: most headers are none of these.
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let text = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
                length = Some(text.ok_or_else(|| bad("a length that is no number"))?);
            }
            19 if header.name.eq_ignore_ascii_case("idempotent-replayed") => is_replay = header.value == b"true",
            10 if header.name.eq_ignore_ascii_case("connection") => {
                closes = header.value.eq_ignore_ascii_case(b"close");
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                is_chunked = header.value.eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
    }
    let parsed = |body| Some(Parsed { status, is_replay, closes, body });
    if is_chunked {
        return Ok(unchunk(&bytes[head..])?.and_then(|_| parsed(Body::Chunked(head))));
    }
    let length = match length {
        Some(length) if length > ANSWER_BYTES_MAX => return Err(bad("the answer is too long")),
        Some(length) => length,
        None if status == 204 || status == 304 => 0,
        None => return Err(bad("an answer without a length")),
    };
    Ok((bytes.len() >= head + length).then(|| parsed(Body::Plain(head..head + length))).flatten())
}

/// Puts a body of pieces together. `None` while the last one is missing.
fn unchunk(mut bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut whole = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("a piece without a length"))?;
        let size = usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| bad("a piece without a length"))?;
        if size > ANSWER_BYTES_MAX {
            return Err(bad("the answer is too long"));
        }
        bytes = &bytes[end + 2..];
        if bytes.len() < size + 2 {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(whole));
        }
        whole.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nIdempotent-Replayed: true\r\n\
                           content-length: 7\r\n\r\n{\"a\":1}";

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_not_before() {
        for length in 0..PLAIN.len() {
            assert_eq!(parse(&PLAIN[..length]).unwrap(), None, "after {length} bytes");
        }
        let parsed = parse(PLAIN).unwrap().unwrap();
        assert_eq!((parsed.status, parsed.is_replay, parsed.closes), (201, true, false));
        assert_eq!(parsed.body, Body::Plain(PLAIN.len() - 7..PLAIN.len()));
    }

    #[test]
    fn pieces_are_put_together() {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n4\r\nWiki\r\n5;x=y\r\npedia\r\n0\r\n\r\n";
        for length in 0..answer.len() {
            assert_eq!(parse(&answer[..length]).unwrap(), None, "after {length} bytes");
        }
        let parsed = parse(answer).unwrap().unwrap();
        assert!(parsed.closes);
        let Body::Chunked(from) = parsed.body else { panic!("{parsed:?}") };
        assert_eq!(unchunk(&answer[from..]).unwrap().unwrap(), b"Wikipedia");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bytes in [
            &b"NONSENSE\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxx\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let none = parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((none.status, none.body), (204, Body::Plain(27..27)));
    }
}
