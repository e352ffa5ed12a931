//! HTTP/2: a client over TLS or plain TCP, and an origin in the manner of gRPC.

use super::PATIENCE;
use super::certs::Tls;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, Request, Response as Head};
use pingora::tls::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use pingora::tls::tokio_ssl::SslStream;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// A whole HTTP/2 response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.get(name)?.to_str().ok()
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("expected JSON ({e}): {self:?}"))
    }
}

/// A client's connection; its work is done while one of its methods runs.
pub struct H2 {
    pub runtime: Runtime,
    pub requests: SendRequest<Bytes>,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl H2 {
    /// With prior knowledge, without TLS.
    #[track_caller]
    pub fn plain(addr: SocketAddr) -> H2 {
        H2::over(async move { Ok(TcpStream::connect(addr).await?) }).expect("an HTTP/2 connection")
    }

    pub fn tls(addr: SocketAddr, tls: &Tls) -> Result<H2, Box<dyn std::error::Error>> {
        let tls = tls.clone();
        H2::over(async move {
            let mut builder = SslConnector::builder(SslMethod::tls())?;
            match &tls.ca {
                Some(ca) => builder.set_ca_file(ca)?,
                None => builder.set_verify(SslVerifyMode::NONE),
            }
            if let Some((cert, key)) = &tls.cert {
                builder.set_certificate_chain_file(cert)?;
                builder.set_private_key_file(key, SslFiletype::PEM)?;
            }
            builder.set_alpn_protos(b"\x02h2")?;
            let ssl = builder.build().configure()?.into_ssl(&tls.sni)?;
            let mut stream = SslStream::new(ssl, TcpStream::connect(addr).await?)?;
            Pin::new(&mut stream).connect().await?;
            Ok(stream)
        })
    }

    fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        stream: impl Future<Output = Result<S, Box<dyn std::error::Error>>>,
    ) -> Result<H2, Box<dyn std::error::Error>> {
        let runtime = runtime();
        let connect = async {
            let (requests, connection) = h2::client::handshake(stream.await?).await?;
            tokio::spawn(connection);
            Ok::<_, Box<dyn std::error::Error>>(requests)
        };
        let requests = runtime.block_on(async { tokio::time::timeout(PATIENCE, connect).await? })?;
        Ok(H2 { requests, runtime })
    }

    /// One request with its body; trailers and all of the answer.
    pub fn ask(&mut self, request: Request<Vec<u8>>) -> Result<Answer, h2::Error> {
        let requests = self.requests.clone();
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                let (parts, body) = request.into_parts();
                let mut requests = requests.ready().await?;
                let (answer, mut send) = requests.send_request(Request::from_parts(parts, ()), body.is_empty())?;
                if !body.is_empty() {
                    send.send_data(body.into(), true)?;
                }
                read(answer.await?).await
            })
            .await
            .expect("an answer in time")
        })
    }

    #[track_caller]
    pub fn get(&mut self, uri: &str) -> Answer {
        let request = Request::get(uri).body(vec![]).expect("a request");
        self.ask(request).unwrap_or_else(|e| panic!("expected an answer: {e}"))
    }
}

/// Reads an answer to its end.
pub async fn read(answer: Head<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}

/// A gRPC-like origin without TLS. By path: `/…/Echo` sends every piece back as it comes, `/…/Fail` answers in trailers
/// only, `/…/Reset` resets the stream after a piece.
pub fn grpc() -> SocketAddr {
    grpc_on(std::net::TcpListener::bind("127.0.0.1:0").expect("a port"))
}

pub fn grpc_on(listener: std::net::TcpListener) -> SocketAddr {
    let addr = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("non-blocking");
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = server::handshake(tcp).await?;
                    while let Some(request) = connection.accept().await {
                        let (request, respond) = request?;
                        tokio::spawn(call(request, respond));
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
    });
    addr
}

async fn call(request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    let head = Head::builder().header("content-type", "application/grpc");
    let trailers = |status: &'static str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(status));
        trailers.insert("x-te", request.headers().get("te").cloned().unwrap_or(http::HeaderValue::from_static("none")));
        trailers
    };
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    if method == "Fail" {
        let head = head.header("grpc-status", "5").header("grpc-message", "not here").body(()).expect("a head");
        respond.send_response(head, true)?;
        return Ok(());
    }
    let after = trailers("0");
    let mut send = respond.send_response(head.body(()).expect("a head"), false)?;
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        send.send_data(chunk, false)?;
        if method == "Reset" {
            // The piece must leave before the reset does.
            tokio::task::yield_now().await;
            send.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
    }
    send.send_trailers(after)
}
