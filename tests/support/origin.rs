//! An upstream over raw TCP: a script per connection decides every byte, so that it can misbehave on purpose.

use super::message::{Head, Reader};
use super::{PATIENCE, Watched};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
    pub fn target(&self) -> &str {
        self.head.word(1)
    }
}

#[derive(Default)]
struct Log {
    conns: usize,
    seen: Vec<Seen>,
}

pub struct Origin {
    pub addr: SocketAddr,
    log: Watched<Log>,
    stop: Arc<AtomicBool>,
}

/// One connection from the gateway.
pub struct Conn {
    /// Counted from 0.
    pub nth: usize,
    pub io: Reader<TcpStream>,
    log: Watched<Log>,
}

impl Origin {
    /// Runs `script` for each connection, in a thread of its own. An error ends that connection, as its end does.
    pub fn new(script: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static) -> Origin {
        Origin::on(TcpListener::bind("127.0.0.1:0").expect("a port"), script)
    }

    pub fn on(listener: TcpListener, script: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static) -> Origin {
        let addr = listener.local_addr().expect("an address");
        let (log, stop, script) = (Watched::new(Log::default()), Arc::new(AtomicBool::new(false)), Arc::new(script));
        let (own, stopped) = (log.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Relaxed) {
                    return;
                }
                let (script, log) = (script.clone(), own.clone());
                let nth = log.change(|log| (log.conns, log.conns += 1).0);
                let _ = stream.set_nodelay(true);
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = stream.set_write_timeout(Some(PATIENCE));
                let mut conn = Conn { nth, io: Reader::new(stream), log };
                std::thread::spawn(move || script(&mut conn));
            }
        });
        Origin { addr, log, stop }
    }

    /// Answers every request with itself, as JSON: method, target, headers, body.
    pub fn echo() -> Origin {
        Origin::echo_on(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    pub fn echo_on(listener: TcpListener) -> Origin {
        Origin::on(listener, |conn| {
            while let Some(seen) = conn.request()? {
                let headers: Vec<_> = seen.head.headers.iter().map(|(n, v)| [n, v]).collect();
                let body = serde_json::json!({
                    "method": seen.head.word(0), "target": seen.target(), "headers": headers,
                    "body": String::from_utf8_lossy(&seen.body),
                });
                conn.reply(200, "Content-Type: application/json\r\n", body.to_string().as_bytes(), &seen)?;
            }
            Ok(())
        })
    }

    /// Answers one request per connection with these bytes, then closes.
    pub fn answering_once(bytes: impl AsRef<[u8]>) -> Origin {
        let bytes = bytes.as_ref().to_vec();
        Origin::new(move |conn| {
            conn.request()?;
            conn.say(&bytes)
        })
    }

    /// Answers 200 with this text.
    pub fn saying(text: &str) -> Origin {
        let text = text.to_owned();
        Origin::new(move |conn| {
            while let Some(seen) = conn.request()? {
                conn.reply(200, "Content-Type: text/plain\r\n", text.as_bytes(), &seen)?;
            }
            Ok(())
        })
    }

    /// Waits until at least `n` requests have been read, and gives them all.
    #[track_caller]
    pub fn wait(&self, n: usize) -> Vec<Seen> {
        self.log
            .until(|log| (log.seen.len() >= n).then(|| log.seen.clone()))
            .unwrap_or_else(|| panic!("the origin saw {} of {n} requests", self.seen().len()))
    }
    pub fn seen(&self) -> Vec<Seen> {
        self.log.change(|log| log.seen.clone())
    }
    /// The one request that was seen.
    #[track_caller]
    pub fn only(&self) -> Seen {
        let mut seen = self.wait(1);
        assert_eq!(seen.len(), 1, "expected one request: {seen:?}");
        seen.remove(0)
    }
    /// How many connections were made.
    pub fn conns(&self) -> usize {
        self.log.change(|log| log.conns)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

impl Conn {
    /// Reads a whole request and writes it down; `None` when the gateway closed before its first byte.
    pub fn request(&mut self) -> io::Result<Option<Seen>> {
        let Some(head) = self.io.head()? else { return Ok(None) };
        let body = self.io.request_body(&head)?;
        Ok(Some(self.note(head, body)))
    }

    /// Reads a request's head only and writes it down; `None` when the gateway closed before its first byte.
    pub fn head(&mut self) -> io::Result<Option<Seen>> {
        Ok(self.io.head()?.map(|head| self.note(head, vec![])))
    }

    fn note(&self, head: Head, body: Vec<u8>) -> Seen {
        let seen = Seen { head, body };
        self.log.change(|log| log.seen.push(seen.clone()));
        seen
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.from.write_all(bytes.as_ref())
    }

    /// A well-framed answer.
    pub fn reply(&mut self, status: u16, headers: &str, body: &[u8], to: &Seen) -> io::Result<()> {
        let mut bytes =
            format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
        if to.head.word(0) != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.say(bytes)
    }

    /// Ends this connection with a reset instead of a goodbye.
    pub fn reset(&mut self) -> io::Result<()> {
        SockRef::from(&self.io.from).set_linger(Some(Duration::ZERO))?;
        Err(io::Error::other("reset, as scripted"))
    }

    /// Does nothing until the gateway closes; true if it did.
    pub fn stall(&mut self) -> bool {
        loop {
            match self.io.more() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(e) => return e.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// An address where every connection is refused: bound, so that no one else gets it, but never listening.
pub struct Refusing {
    pub addr: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    pub fn new() -> Refusing {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        let addr = socket.local_addr().expect("an address").as_socket().expect("IPv4");
        Refusing { addr, _socket: socket }
    }
}

/// An address where no connection is ever made: its queue is full, so the kernel drops what asks to come in.
pub struct Blackhole {
    pub addr: SocketAddr,
    _listener: Socket,
    _queue: Vec<Socket>,
}

impl Blackhole {
    pub fn new() -> Blackhole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("a listener");
        let addr = listener.local_addr().expect("an address").as_socket().expect("IPv4");
        let fill = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("non-blocking");
            let _ = socket.connect(&addr.into());
            socket
        };
        Blackhole { addr, _queue: (0..4).map(fill).collect(), _listener: listener }
    }
}
