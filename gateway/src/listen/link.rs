//! The byte stream of one accepted connection, plain or TLS, as Pingora sees it. It differs from Pingora's own in three ways:
//! small writes are gathered so that a response's head and body leave in one segment (and one TLS record); Pingora gets exactly
//! the bytes of the request it works on, what follows is kept for the next one; and an idle connection holds no buffer at all.

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{ALPN, SslDigest, SslStream};
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use pingora::tls::ssl::SslRef;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Writes are gathered up to this size, which is also the largest TLS record.
const GATHER: usize = 16 * 1024;
/// An empty output buffer of at most this size waits for the next response; HTTP/2 has no moment to let go of it.
const SMALL: usize = 4 * 1024;
/// Bytes of following requests that are kept while one is being answered; then the client must wait.
const AHEAD: usize = 16 * 1024;

thread_local! {
    /// Where reads land whose length is not known beforehand; one per worker instead of one per connection.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; AHEAD].into());
}

/// A kernel socket, with bytes in front that were read before their reader was known.
#[derive(Debug)]
pub struct Socket {
    raw: Raw,
    ahead: BytesMut,
}

#[derive(Debug)]
enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn tcp(stream: TcpStream) -> Socket {
        Socket { raw: Raw::Tcp(stream), ahead: BytesMut::new() }
    }
    pub fn unix(stream: UnixStream) -> Socket {
        Socket { raw: Raw::Unix(stream), ahead: BytesMut::new() }
    }
    /// Puts bytes back in front.
    pub fn unread(&mut self, bytes: BytesMut) {
        debug_assert!(self.ahead.is_empty());
        self.ahead = bytes;
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match &self.raw {
            Raw::Tcp(s) => s.as_raw_fd(),
            Raw::Unix(s) => s.as_raw_fd(),
        }
    }
}

/// One call on whichever socket it is.
macro_rules! raw {
    ($socket:expr, $s:ident => $call:expr) => {
        match &mut $socket.raw {
            Raw::Tcp($s) => $call,
            Raw::Unix($s) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(n));
            if self.ahead.is_empty() {
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        raw!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        raw!(self, s => Pin::new(s).poll_write(cx, buf))
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        raw!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        raw!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}

enum Layer {
    Plain(Socket),
    Tls(Box<SslStream<Socket>>),
}

/// See the module.
pub struct Link {
    layer: Layer,
    /// Written, but not sent yet: `out[sent..]`.
    out: Vec<u8>,
    sent: usize,
    /// The output was already waiting when the reader last looked: nothing more will join it.
    stale: bool,
    /// How many bytes the reader may still have.
    quota: u64,
    /// What came after them.
    ahead: BytesMut,
    digest: Arc<SocketDigest>,
}

impl Link {
    pub fn plain(socket: Socket, digest: SocketDigest) -> Link {
        Link::over(Layer::Plain(socket), digest)
    }

    pub fn tls(stream: SslStream<Socket>, digest: SocketDigest) -> Link {
        Link::over(Layer::Tls(Box::new(stream)), digest)
    }

    fn over(layer: Layer, digest: SocketDigest) -> Link {
        let digest = Arc::new(digest);
        Link { layer, out: Vec::new(), sent: 0, stale: false, quota: u64::MAX, ahead: BytesMut::new(), digest }
    }

    /// From now on the reader gets so many bytes and no more; `u64::MAX` lifts the bound.
    pub fn allow(&mut self, bytes: u64) {
        self.quota = bytes;
    }

    /// Keeps bytes for the next request.
    pub fn keep(&mut self, bytes: BytesMut) {
        debug_assert!(self.ahead.is_empty());
        self.ahead = bytes;
    }

    /// Waits for bytes, without holding a buffer meanwhile, and appends them to `into`. 0 is the end of the stream.
    pub async fn fill(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        if !self.ahead.is_empty() {
            let kept = std::mem::take(&mut self.ahead);
            let n = kept.len();
            if into.is_empty() {
                *into = kept
            } else {
                into.extend_from_slice(&kept)
            }
            return Ok(n);
        }
        std::future::poll_fn(|cx| self.poll_scratch(cx, AHEAD, |bytes| into.extend_from_slice(bytes))).await
    }

    /// Reads at most `limit` bytes into the worker's scratch space and shows them.
    fn poll_scratch(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
        show: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let limit = limit.min(scratch.len());
            let mut buf = ReadBuf::new(&mut scratch[..limit]);
            ready!(self.poll_layer(cx, &mut buf))?;
            show(buf.filled());
            Poll::Ready(Ok(buf.filled().len()))
        })
    }

    fn poll_layer(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Layer::Tls(s) => Pin::new(&mut **s).poll_read(cx, buf),
        }
    }

    /// The reader has had its bytes: what comes is kept for later, and only the end of the stream is told.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let room = AHEAD - self.ahead.len().min(AHEAD);
            if room == 0 {
                return Poll::Pending;
            }
            let mut ahead = std::mem::take(&mut self.ahead);
            let read = self.poll_scratch(cx, room, |bytes| ahead.extend_from_slice(bytes));
            self.ahead = ahead;
            match ready!(read)? {
                // a client that asked for more and then closed its half still wants its answers
                0 if !self.ahead.is_empty() => return Poll::Pending,
                0 => return Poll::Ready(Ok(())),
                _ => {}
            }
        }
    }

    /// Sends what was gathered. When the socket takes no more, `Pending` and the waker is set.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let rest = &self.out[self.sent..];
            let n = ready!(match &mut self.layer {
                Layer::Plain(s) => Pin::new(s).poll_write(cx, rest),
                Layer::Tls(s) => Pin::new(&mut **s).poll_write(cx, rest),
            })?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        if self.out.capacity() > SMALL {
            self.out = Vec::new();
        }
        self.out.clear();
        self.sent = 0;
        self.stale = false;
        Poll::Ready(Ok(()))
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.out.capacity() == 0 {
            self.out.reserve(bytes.len().next_power_of_two().clamp(1024, GATHER));
        }
        self.out.extend_from_slice(bytes);
        self.stale = false;
    }

    /// Lets go of the output buffer; for a connection that is about to wait.
    pub fn rest(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Pingora flushes late: a head waits for its body. If one round of polls brought none, what is there goes out now.
        if !this.out.is_empty() {
            if this.stale {
                let _ = this.poll_drain(cx)?;
            } else {
                this.stale = true;
                cx.waker().wake_by_ref();
            }
        }
        match this.quota {
            0 => this.poll_sealed(cx),
            u64::MAX => this.poll_layer(cx, buf),
            quota if buf.remaining() as u64 <= quota => {
                let before = buf.filled().len();
                ready!(this.poll_layer(cx, buf))?;
                this.quota -= (buf.filled().len() - before) as u64;
                Poll::Ready(Ok(()))
            }
            quota => {
                let n = ready!(this.poll_scratch(cx, quota.min(AHEAD as u64) as usize, |bytes| buf.put_slice(bytes)))?;
                this.quota -= n as u64;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        if self.out.len() + total <= GATHER {
            bufs.iter().for_each(|b| self.gather(b));
            return Poll::Ready(Ok(total));
        }
        let this = &mut *self;
        let Layer::Plain(socket) = &mut this.layer else {
            // a TLS record takes no more than this anyway
            ready!(this.poll_drain(cx))?;
            let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
            let Layer::Tls(tls) = &mut this.layer else { unreachable!("layers do not change") };
            return Pin::new(&mut **tls).poll_write(cx, first);
        };
        // what waits and what comes, in one call
        let waiting = this.out.len() - this.sent;
        let mut all = smallvec::SmallVec::<[IoSlice<'_>; 8]>::new();
        all.push(IoSlice::new(&this.out[this.sent..]));
        all.extend(bufs.iter().take(7).map(|b| IoSlice::new(b)));
        let sent = Pin::new(socket).poll_write_vectored(cx, &all);
        drop(all);
        let n = ready!(sent)?;
        if n == 0 {
            return Poll::Ready(Ok(0)); // the caller reports it
        }
        if n >= waiting {
            this.out.clear();
            this.sent = 0;
            if n > waiting {
                return Poll::Ready(Ok(n - waiting));
            }
        } else {
            this.sent += n;
        }
        // the new bytes did not go yet: ask again, which registers the waker
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.layer, Layer::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        match &mut self.layer {
            Layer::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Layer::Tls(s) => Pin::new(&mut **s).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Link {
    async fn shutdown(&mut self) {
        // the peer may be gone already
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Link {
    fn id(&self) -> i32 {
        match &self.layer {
            Layer::Plain(s) => s.as_raw_fd(),
            Layer::Tls(s) => s.get_ref().as_raw_fd(),
        }
    }
}

impl Ssl for Link {
    fn get_ssl(&self) -> Option<&SslRef> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Tls(s) => s.get_ssl(),
        }
    }
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Tls(s) => s.get_ssl_digest(),
        }
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Tls(s) => s.selected_alpn_proto(),
        }
    }
}

impl GetTimingDigest for Link {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Link {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Link {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

impl Peek for Link {}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (Link, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        let digest = SocketDigest::from_raw_fd(a.as_raw_fd());
        (Link::plain(Socket::unix(a), digest), b)
    }

    #[tokio::test]
    async fn small_writes_leave_together() {
        let (mut link, mut peer) = pair();
        link.write_all(b"head").await.unwrap();
        link.write_all(b"body").await.unwrap();
        assert!(peer.try_read(&mut [0; 16]).is_err(), "nothing before the flush");
        link.flush().await.unwrap();
        let mut got = [0; 16];
        assert_eq!(peer.read(&mut got).await.unwrap(), 8);
        link.rest();
        assert_eq!(link.out.capacity(), 0);
    }

    #[tokio::test]
    async fn a_waiting_reader_sends_what_was_gathered() {
        let (mut link, mut peer) = pair();
        link.write_all(b"event").await.unwrap();
        let (mut one, mut two) = ([0; 1], [0; 5]);
        tokio::select! {
            r = link.read(&mut one) => panic!("{r:?}"),
            r = peer.read_exact(&mut two) => { r.unwrap(); }
        }
        assert_eq!(&two, b"event");
    }

    #[tokio::test]
    async fn large_writes_arrive_in_order() {
        let (mut link, mut peer) = pair();
        let big: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let expected = [b"head".as_slice(), &big, b"tail"].concat();
        let send = async {
            link.write_all(b"head").await.unwrap();
            link.write_all(&big).await.unwrap();
            link.write_all(b"tail").await.unwrap();
            link.flush().await.unwrap();
            Shutdown::shutdown(&mut link).await;
        };
        let mut got = vec![];
        let (_, n) = tokio::join!(send, peer.read_to_end(&mut got));
        n.unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn the_reader_gets_its_request_and_no_more() {
        let (mut link, mut peer) = pair();
        peer.write_all(b"bodyGET /next").await.unwrap();
        link.allow(4);
        let mut got = [0; 64];
        assert_eq!(link.read(&mut got).await.unwrap(), 4);
        // sealed: what follows is not shown, but kept
        assert!(futures_pending(link.read(&mut got)).await);
        link.allow(u64::MAX);
        let mut next = BytesMut::new();
        assert_eq!(link.fill(&mut next).await.unwrap(), 9);
        assert_eq!(&next[..], b"GET /next");
    }

    #[tokio::test]
    async fn a_sealed_reader_hears_of_the_end() {
        let (mut link, peer) = pair();
        link.allow(0);
        drop(peer);
        assert_eq!(link.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_sealed_reader_does_not_read_without_bound() {
        let (mut link, mut peer) = pair();
        link.allow(0);
        let flood = tokio::spawn(async move { peer.write_all(&vec![0; 1 << 22]).await });
        let mut one = [0; 1];
        for _ in 0..100 {
            assert!(futures_pending(link.read(&mut one)).await);
            tokio::task::yield_now().await;
        }
        assert!(link.ahead.len() <= AHEAD);
        drop(link);
        assert!(flood.await.unwrap().is_err());
    }

    /// Polls once.
    async fn futures_pending<F: Future>(future: F) -> bool {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }
}
