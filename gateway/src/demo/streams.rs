//! What does not end at once: server-sent events, a WebSocket echo, and an echo in the manner of gRPC.

use super::serve::{Call, Example, Site};
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use pingora::tls::hash::{MessageDigest, hash};
use std::time::Duration;

pub(super) fn events() -> Site {
    Site::new(Events)
}
pub(super) fn socket() -> Site {
    Site::new(Socket)
}
pub(super) fn grpc() -> Site {
    Site::new(Grpc).h2c()
}

/// `?count=3&every=300ms`: at most a thousand events.
struct Events;

#[async_trait]
impl Example for Events {
    async fn answer(&self, call: &mut Call) -> pingora::Result<()> {
        let count: u32 = call.query("count").and_then(|n| n.parse().ok()).unwrap_or(10).min(1000);
        let every = call.duration("every", Duration::from_secs(1), Duration::from_secs(30));
        call.head(200, &[("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")], None).await?;
        for nth in 1..=count {
            call.piece(format!("id: {nth}\ndata: event {nth} of {count}\n\n")).await?;
            if nth < count {
                tokio::time::sleep(every).await;
            }
        }
        Ok(())
    }
}

/// Every message comes back; `?greet` says hello and closes, for clients that can only listen.
struct Socket;

#[async_trait]
impl Example for Socket {
    async fn answer(&self, call: &mut Call) -> pingora::Result<()> {
        let key = call.session.get_header("sec-websocket-key").and_then(|v| v.to_str().ok()).map(accept);
        let (Some(accept), true) = (key, call.session.is_upgrade_req()) else {
            return call.reply(426, "text/plain", "this is a WebSocket\n").await;
        };
        let upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept.as_str())];
        call.head(101, &upgrade, None).await?;
        if call.query("greet").is_some() {
            call.piece(frame(TEXT, b"hello from the example service\n")).await?;
            return call.piece(frame(CLOSE, &1000_u16.to_be_bytes())).await;
        }
        let mut buf = BytesMut::new();
        while let Some(bytes) = call.session.read_request_body().await? {
            buf.extend_from_slice(&bytes);
            while let Some((opcode, payload)) = message(&mut buf) {
                let answer = match opcode {
                    PING => frame(PONG, &payload),
                    PONG => continue,
                    other => frame(other, &payload),
                };
                call.piece(answer).await?;
                if opcode == CLOSE {
                    return Ok(());
                }
            }
            if buf.len() > MAX_FRAME {
                return call.piece(frame(CLOSE, &1009_u16.to_be_bytes())).await;
            }
        }
        Ok(())
    }
}

// RFC 6455, section 5.2.
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const MAX_FRAME: usize = 1 << 20;

/// The answer to a `Sec-WebSocket-Key` (RFC 6455, section 4.2.2).
fn accept(key: &str) -> String {
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    hash(MessageDigest::sha1(), salted.as_bytes()).map_or_else(|_| String::new(), |digest| base64(&digest))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

/// One unfragmented, unmasked frame, as servers send it.
fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        n @ 0..126 => frame.push(n as u8),
        n @ 126..=0xFFFF => {
            frame.push(126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            frame.push(127);
            frame.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame.into()
}

/// Takes one whole frame off the front, unmasked; `None` if more bytes are needed.
fn message(buf: &mut BytesMut) -> Option<(u8, Vec<u8>)> {
    let (first, second) = (*buf.first()?, *buf.get(1)?);
    let (length, at) = match second & 0x7F {
        126 => (u64::from(u16::from_be_bytes(buf.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(buf.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let masked = second & 0x80 != 0;
    let start = at + if masked { 4 } else { 0 };
    let end = usize::try_from(length).ok().filter(|n| *n <= MAX_FRAME)? + start;
    let mut payload = buf.get(start..end)?.to_vec();
    if masked {
        let mask: [u8; 4] = buf[at..start].try_into().ok()?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    buf.advance(end);
    Some((first & 0x0F, payload))
}

/// Every message comes back as it is; the trailers say that all went well.
struct Grpc;

#[async_trait]
impl Example for Grpc {
    async fn answer(&self, call: &mut Call) -> pingora::Result<()> {
        if !call.session.is_http2() {
            return call.reply(505, "text/plain", "this service speaks HTTP/2\n").await;
        }
        call.head(200, &[("Content-Type", "application/grpc")], None).await?;
        while let Some(bytes) = call.session.read_request_body().await? {
            call.piece(bytes).await?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        call.session.write_response_trailers(trailers).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn base64_of_every_remainder() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn frames_come_apart_wherever_the_bytes_were_cut() {
        // RFC 6455, section 5.7: a masked "Hello", twice.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let twice = [hello, hello].concat();
        for cut in 0..twice.len() {
            let mut buf = BytesMut::from(&twice[..cut]);
            let mut got: Vec<_> = std::iter::from_fn(|| message(&mut buf)).collect();
            buf.extend_from_slice(&twice[cut..]);
            got.extend(std::iter::from_fn(|| message(&mut buf)));
            assert_eq!(got, vec![(TEXT, b"Hello".to_vec()); 2], "cut at {cut}");
        }
    }

    #[test]
    fn lengths_of_every_size() {
        for length in [0, 125, 126, 65535, 65536] {
            let mut buf = BytesMut::from(&frame(TEXT, &vec![7; length])[..]);
            assert_eq!(message(&mut buf), Some((TEXT, vec![7; length])));
        }
    }
}
