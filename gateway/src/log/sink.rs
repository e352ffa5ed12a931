//! Where bytes of the log end up: a descriptor, a file, or a local datagram socket. Used by one writer thread, which
//! may wait; whatever fails is told as a number of lost records, and the next block tries again.

use super::text::put;
use memchr::{memchr, memchr_iter, memrchr};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A receiver that takes nothing for so long is given up for this block.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) enum Sink {
    Stream(Stream),
    Datagrams(Datagrams),
}

/// Lines to a descriptor.
pub(super) struct Stream {
    out: File,
    /// To open it anew.
    path: Option<PathBuf>,
    /// The last line was cut by an error: the next one must not continue it.
    torn: bool,
}

/// One datagram per record, to a socket that may come and go.
pub(super) struct Datagrams {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    framing: Framing,
    datagram: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Framing {
    Syslog,
    Journal,
}

/// Colours are for a terminal whose user did not refuse them (<https://no-color.org>).
pub(super) fn colourful() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

impl Sink {
    pub(super) fn stdout() -> io::Result<Sink> {
        Sink::descriptor(io::stdout().as_fd())
    }

    pub(super) fn stderr() -> io::Result<Sink> {
        Sink::descriptor(io::stderr().as_fd())
    }

    /// A duplicate of an open descriptor: the standard library's own buffer would hold back half a block on error.
    pub(super) fn descriptor(fd: BorrowedFd<'_>) -> io::Result<Sink> {
        Ok(Sink::Stream(Stream { out: fd.try_clone_to_owned()?.into(), path: None, torn: false }))
    }

    pub(super) fn file(path: &Path) -> io::Result<Sink> {
        Ok(Sink::Stream(Stream { out: open(path)?, path: Some(path.into()), torn: false }))
    }

    /// The form that `syslog(3)` uses and every daemon expects at this socket: priority, tag, text. Not RFC 5424: at
    /// the local socket rsyslog and journald take that header for text. The daemon adds the time.
    pub(super) fn syslog(socket: impl Into<PathBuf>) -> Sink {
        Sink::datagrams(socket, Framing::Syslog)
    }

    /// The journal's native protocol: `FIELD=value` lines, one datagram per record.
    pub(super) fn journald(socket: impl Into<PathBuf>) -> Sink {
        Sink::datagrams(socket, Framing::Journal)
    }

    fn datagrams(socket: impl Into<PathBuf>, framing: Framing) -> Sink {
        Sink::Datagrams(Datagrams { path: socket.into(), socket: None, framing, datagram: Vec::new() })
    }

    /// Writes whole records; on failure, says how many are lost.
    pub(super) fn write(&mut self, block: &[u8]) -> Result<(), (u64, io::Error)> {
        match self {
            Sink::Stream(s) => s.write(block),
            Sink::Datagrams(d) => d.write(block),
        }
    }

    /// Opens the file anew; keeps the old one if that fails.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match self {
            Sink::Stream(Stream { out, path: Some(path), torn }) => {
                (*out, *torn) = (open(path)?, false);
                Ok(())
            }
            Sink::Stream(_) => Ok(()),
            Sink::Datagrams(d) => {
                d.socket = None;
                Ok(())
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Stream {
    fn write(&mut self, block: &[u8]) -> Result<(), (u64, io::Error)> {
        let lines = |bytes: &[u8]| memchr_iter(b'\n', bytes).count() as u64;
        if self.torn {
            write_all(&self.out, b"\n").map_err(|(_, e)| (lines(block), e))?;
            self.torn = false;
        }
        write_all(&self.out, block).map_err(|(written, e)| {
            self.torn = written > 0 && memrchr(b'\n', &block[..written]) != Some(written - 1);
            (lines(&block[written..]), e)
        })
    }
}

/// Also for descriptors that someone made non-blocking, as terminals shared with other programs are. On failure, how
/// much was written before.
fn write_all(mut out: &File, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let (mut written, mut since) = (0, None);
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(n) => (written, since) = (written + n, None),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err((written, e));
                }
                thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err((written, e)),
        }
    }
    Ok(())
}

impl Datagrams {
    fn write(&mut self, mut block: &[u8]) -> Result<(), (u64, io::Error)> {
        let (mut lost, mut why) = (0, None);
        while let Some(end) = self.framing.end(block) {
            let (record, rest) = block.split_at(end);
            block = rest;
            let Err(e) = self.send(record) else { continue };
            lost += 1;
            let hopeless = e.kind() != ErrorKind::InvalidInput && e.raw_os_error() != Some(libc::EMSGSIZE);
            why = Some(e);
            if hopeless {
                // Nobody listens, or too slowly: the others of this block would only wait too.
                lost += self.framing.count(block);
                break;
            }
        }
        why.map_or(Ok(()), |e| Err((lost, e)))
    }

    fn send(&mut self, record: &[u8]) -> io::Result<()> {
        self.datagram.clear();
        match self.framing {
            // Facility daemon, severity info.
            Framing::Syslog => put(&mut self.datagram, format_args!("<30>portcullis[{}]: ", std::process::id())),
            Framing::Journal => {}
        }
        self.datagram.extend_from_slice(&record[..record.len() - 1]);
        let known = self.socket.is_some();
        match self.try_send() {
            // The daemon was restarted: its new socket has the old name.
            Err(e) if known && e.kind() != ErrorKind::WouldBlock => {
                self.socket = None;
                self.try_send()
            }
            outcome => outcome,
        }
    }

    fn try_send(&mut self) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                self.socket.insert(socket)
            }
        };
        socket.send(&self.datagram).map(drop)
    }
}

impl Framing {
    /// Where the first record ends: with its line, or with an empty line.
    fn end(self, block: &[u8]) -> Option<usize> {
        match self {
            Framing::Syslog => memchr(b'\n', block).map(|at| at + 1),
            Framing::Journal => memchr::memmem::find(block, b"\n\n").map(|at| at + 2),
        }
    }

    fn count(self, block: &[u8]) -> u64 {
        match self {
            Framing::Syslog => memchr_iter(b'\n', block).count() as u64,
            Framing::Journal => memchr::memmem::find_iter(block, b"\n\n").count() as u64,
        }
    }
}
