//! WebSockets, as far as a proxy sees them: a handshake, then bytes both ways.

use super::origin::Origin;
use std::net::TcpListener;

/// The client's side of the handshake.
pub const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Accepts the upgrade, then sends back every byte as it comes.
pub fn echo() -> Origin {
    echo_on(TcpListener::bind("127.0.0.1:0").expect("a port"))
}

pub fn echo_on(listener: TcpListener) -> Origin {
    Origin::on(listener, |conn| {
        let Some(seen) = conn.request()? else { return Ok(()) };
        if seen.header("upgrade") != Some("websocket") {
            return conn.reply(426, "", b"expected a websocket", &seen);
        }
        conn.say(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )?;
        loop {
            let ahead = std::mem::take(&mut conn.io.ahead);
            conn.say(ahead)?;
            if !conn.io.more()? {
                return Ok(());
            }
        }
    })
}
