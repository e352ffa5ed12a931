//! The little HTTP server under the example services: Pingora's own server sessions on plain tokio listeners.
//!
//! HTTP/2 without TLS is told from HTTP/1.1 by its first bytes, so each service speaks both.

use async_trait::async_trait;
use bytes::Bytes;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4;
use pingora::server::ShutdownWatch;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// More of a request's body than this is not read.
const MAX_BODY: usize = 1 << 20;

/// What an example service does with one request. `Err` cuts the connection.
#[async_trait]
pub(super) trait Example: Send + Sync {
    async fn answer(&self, call: &mut Call) -> pingora::Result<()>;
}

/// An example service, ready to be started.
pub(super) struct Site {
    example: Box<dyn Example>,
    options: HttpServerOptions,
}

impl Site {
    pub(super) fn new(example: impl Example + 'static) -> Site {
        Site { example: Box::new(example), options: HttpServerOptions::default() }
    }
    /// Speaks HTTP/2 only, without TLS.
    pub(super) fn h2c(mut self) -> Site {
        self.options.h2c = true;
        self
    }
}

/// Binds a port and serves it until aborted.
pub(super) async fn start(site: Site) -> io::Result<(SocketAddr, AbortHandle)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addr = listener.local_addr()?;
    let site = Arc::new(site);
    let task = tokio::spawn(async move {
        let (_stop, stopped) = watch::channel(false);
        loop {
            let Ok((tcp, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let _ = tcp.set_nodelay(true);
            let (site, stopped) = (site.clone(), stopped.clone());
            tokio::spawn(async move { ServerApp::process_new(&site, Box::new(L4::from(tcp)), &stopped).await });
        }
    });
    Ok((addr, task.abort_handle()))
}

#[async_trait]
impl HttpServerApp for Site {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        session.set_keepalive(Some(60));
        let mut call = Call { session };
        self.example.answer(&mut call).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&call.session);
        let reusable = call.session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// One request and its answer.
pub(super) struct Call {
    pub(super) session: ServerSession,
}

impl Call {
    pub(super) fn method(&self) -> &str {
        self.session.req_header().method.as_str()
    }
    pub(super) fn path(&self) -> String {
        self.session.req_header().uri.path().to_owned()
    }
    /// A parameter of the query, as it was sent.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let query = self.session.req_header().uri.query()?;
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
    /// A duration in the query, at most `most`.
    pub(super) fn duration(&self, name: &str, default: Duration, most: Duration) -> Duration {
        let asked = self.query(name).and_then(|text| text.parse::<filters::units::Span>().ok());
        asked.map_or(default, |span| span.0).min(most)
    }
    /// The request's body, as far as it is looked at.
    pub(super) async fn body(&mut self) -> pingora::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.session.read_request_body().await? {
            let room = MAX_BODY.saturating_sub(body.len()).min(chunk.len());
            body.extend_from_slice(&chunk[..room]);
        }
        Ok(body)
    }
    /// A whole answer.
    pub(super) async fn reply(&mut self, status: u16, kind: &str, body: impl Into<Bytes>) -> pingora::Result<()> {
        self.reply_with(status, &[("Content-Type", kind)], body.into()).await
    }
    pub(super) async fn reply_with(
        &mut self,
        status: u16,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> pingora::Result<()> {
        self.head(status, headers, Some(body.len())).await?;
        let bodiless = self.method() == "HEAD" || body.is_empty();
        if bodiless { Ok(()) } else { self.session.write_response_body(body, true).await }
    }
    /// An answer's head; without a length the body is chunked and ends when the call does.
    pub(super) async fn head(
        &mut self,
        status: u16,
        headers: &[(&'static str, &str)],
        length: Option<usize>,
    ) -> pingora::Result<()> {
        let mut head = ResponseHeader::build(status, Some(headers.len() + 1))?;
        for (name, value) in headers {
            head.insert_header(*name, *value)?;
        }
        match length {
            Some(length) => head.insert_header("Content-Length", length)?,
            None if status >= 200 && !self.session.is_http2() => head.insert_header("Transfer-Encoding", "chunked")?,
            None => {}
        }
        self.session.write_response_header(Box::new(head)).await
    }
    /// A piece of the body, sent at once.
    pub(super) async fn piece(&mut self, piece: impl Into<Bytes>) -> pingora::Result<()> {
        self.session.write_response_body(piece.into(), false).await
    }
}
