//! An HTTP/1 client that sends exactly the bytes it is given, over TCP, a Unix socket or TLS.

use super::PATIENCE;
use super::certs::Tls;
use super::message::{Reader, Response};
use pingora::tls::ssl::{SslConnector, SslFiletype, SslMethod, SslSession, SslVerifyMode};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub trait Io: Read + Write + Send {}
impl<T: Read + Write + Send> Io for T {}

pub struct Client {
    pub io: Reader<Box<dyn Io>>,
    /// For what only the socket can do.
    tcp: Option<TcpStream>,
}

/// A TCP connection that does not wait for ever.
pub fn tcp(addr: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&addr, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

impl Client {
    #[track_caller]
    pub fn tcp(addr: SocketAddr) -> Client {
        let stream = tcp(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}"));
        let second = stream.try_clone().expect("a second handle");
        Client { io: Reader::new(Box::new(stream)), tcp: Some(second) }
    }

    pub fn unix(path: &Path) -> io::Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { io: Reader::new(Box::new(stream)), tcp: None })
    }

    /// A TLS handshake; what it agreed on is left in `tls`.
    pub fn tls(addr: SocketAddr, tls: &mut Tls) -> io::Result<Client> {
        let stream = tcp(addr)?;
        let second = stream.try_clone()?;
        let mut setup = connector(tls)?.configure().map_err(io::Error::other)?;
        if tls.sni.is_empty() {
            setup = setup.use_server_name_indication(false).verify_hostname(false);
        }
        let mut ssl = setup.into_ssl(&tls.sni).map_err(io::Error::other)?;
        if let Some(session) = &tls.session {
            // SAFETY: the session was made by a connector of the same kind, and outlives the handshake.
            unsafe { ssl.set_session(session) }.map_err(io::Error::other)?;
        }
        let mut stream = ssl.setup_connect(stream).handshake().map_err(|e| io::Error::other(e.to_string()))?;
        stream.flush()?;
        tls.alpn = stream.ssl().selected_alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
        tls.version = stream.ssl().version_str().to_owned();
        tls.resumed = stream.ssl().session_reused();
        tls.peer = stream.ssl().peer_certificate().and_then(|c| c.to_der().ok());
        Ok(Client { io: Reader::new(Box::new(stream)), tcp: Some(second) })
    }

    /// Sends bytes as they are. An error is not reported: the answer, or its absence, tells.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        let _ = self.io.from.write_all(bytes.as_ref()).and_then(|()| self.io.from.flush());
        self
    }

    /// The response to a request with this method.
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        self.io.response(method)
    }

    /// Sends a request and reads its response.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.try_ask(request).unwrap_or_else(|e| panic!("expected a response: {e}"))
    }

    pub fn try_ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<Response> {
        let request = request.as_ref();
        let method = request.split(|b| *b == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method).into_owned();
        self.send(request).response(&method)
    }

    /// A GET on this connection, with more header lines if wanted (each ends with CRLF).
    #[track_caller]
    pub fn get(&mut self, host: &str, target: &str, headers: &str) -> Response {
        self.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"))
    }

    /// Everything until the gateway closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.io.rest()
    }

    /// The gateway has closed, or closes now, without another byte.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        match self.rest() {
            Ok(rest) => assert!(rest.is_empty(), "more bytes: {:?}", String::from_utf8_lossy(&rest)),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset, "{e}"),
        }
    }

    /// Sends no more.
    pub fn finish(&mut self) -> &mut Client {
        let _ = self.tcp.as_ref().map(|tcp| tcp.shutdown(Shutdown::Write));
        self
    }

    /// Ends with a reset instead of a goodbye.
    pub fn reset(self) {
        if let Some(tcp) = &self.tcp {
            let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

fn connector(tls: &mut Tls) -> io::Result<SslConnector> {
    let other = |e: pingora::tls::error::ErrorStack| io::Error::other(e);
    let mut builder = SslConnector::builder(SslMethod::tls()).map_err(other)?;
    match &tls.ca {
        Some(ca) => builder.set_ca_file(ca).map_err(other)?,
        None => builder.set_verify(SslVerifyMode::NONE),
    }
    if let Some((cert, key)) = &tls.cert {
        builder.set_certificate_chain_file(cert).map_err(other)?;
        builder.set_private_key_file(key, SslFiletype::PEM).map_err(other)?;
    }
    if !tls.offer.is_empty() {
        let wire: Vec<u8> = tls.offer.iter().flat_map(|p| [&[p.len() as u8], p.as_bytes()].concat()).collect();
        builder.set_alpn_protos(&wire).map_err(other)?;
    }
    builder.set_min_proto_version(tls.min).map_err(other)?;
    builder.set_max_proto_version(tls.max).map_err(other)?;
    builder.set_session_cache_mode(pingora::tls::ssl::SslSessionCacheMode::CLIENT);
    let sessions = tls.sessions.clone();
    builder.set_new_session_callback(move |_, session: SslSession| {
        sessions.lock().expect("no panic while held").push(session);
    });
    Ok(builder.build())
}

/// One GET on a connection of its own.
#[track_caller]
pub fn get(addr: SocketAddr, target: &str) -> Response {
    get_with(addr, target, "")
}

/// One GET with more header lines, each ended by CRLF.
#[track_caller]
pub fn get_with(addr: SocketAddr, target: &str, headers: &str) -> Response {
    Client::tcp(addr).get("a.test", target, headers)
}
