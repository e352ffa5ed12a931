//! Listening sockets: bound, taken over from systemd or a predecessor, and given up. One socket serves all workers.

use super::conf::{Addr, Bind, FileMode};
use filters::filter::BuildError;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Connections that wait to be accepted; `net.core.somaxconn` bounds it too.
pub const BACKLOG: i32 = 4096;

/// A socket that listens.
#[derive(Debug)]
pub struct Listening {
    pub socket: Socket,
    /// The file of a Unix socket that we made, to be removed in the end.
    file: Option<SocketFile>,
    /// It was handed over, and may have to be given back.
    pub inherited: bool,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: by now the path may be somebody else's.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_some_and(|now| now == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listening {
    /// The address as it is: the port is the kernel's if 0 was asked for.
    pub fn address(&self) -> Option<Bind> {
        bind_of(&self.socket.local_addr().ok()?)
    }

    /// The file stays when this socket goes: a successor listens on it.
    pub fn leave_file(&mut self) {
        if let Some(file) = self.file.take() {
            std::mem::forget(file);
        }
    }
}

/// Binds an address, or takes the inherited socket that has it.
pub fn open(addr: &Addr, inherited: &mut Vec<Socket>) -> Result<Listening, BuildError> {
    if let Some(nth) = inherited.iter().position(|s| same(s, &addr.at)) {
        let socket = inherited.swap_remove(nth);
        return tune(&socket, &addr.at)
            .map(|()| Listening { socket, file: None, inherited: true })
            .map_err(|e| BuildError::new(format!("inherited socket for {}: {e}", addr.at)));
    }
    match &addr.at {
        Bind::Tcp(at) => {
            tcp(*at).map(|socket| Listening { socket, file: None, inherited: false }).map_err(|e| cannot(&addr.at, &e))
        }
        Bind::Unix(path) => unix(path, addr.mode).map_err(|e| cannot(&addr.at, &e)),
    }
}

fn tcp(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    tune(&socket, &Bind::Tcp(at))?;
    Ok(socket)
}

fn unix(path: &Path, mode: Option<FileMode>) -> io::Result<Listening> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = identity(path).map(|identity| SocketFile { path: path.to_owned(), identity });
    if let Some(mode) = mode {
        // before listen(): nobody gets in under other permissions
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.0))?;
    }
    socket.listen(BACKLOG)?;
    Ok(Listening { socket, file, inherited: false })
}

/// Removes a socket that nobody listens on any more; anything else that is in the way stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if !meta.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Accepted sockets inherit TCP_NODELAY, which saves a call each.
fn tune(socket: &Socket, at: &Bind) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if matches!(at, Bind::Tcp(_)) {
        socket.set_tcp_nodelay(true)?;
    }
    socket.listen(BACKLOG)
}

fn bind_of(addr: &SockAddr) -> Option<Bind> {
    addr.as_socket().map(Bind::Tcp).or_else(|| addr.as_pathname().map(|p| Bind::Unix(p.into())))
}

/// Does this inherited socket have the address? systemd's `ListenStream=80` is `[::]:80` for both families.
fn same(socket: &Socket, at: &Bind) -> bool {
    match (socket.local_addr().ok().as_ref().and_then(bind_of), at) {
        (Some(Bind::Tcp(has)), Bind::Tcp(want)) => {
            let both = has.is_ipv6() && has.ip().is_unspecified() && !socket.only_v6().unwrap_or(true);
            has == *want || both && want.is_ipv4() && want.ip().is_unspecified() && want.port() == has.port()
        }
        (Some(has), want) => has == *want,
        (None, _) => false,
    }
}

/// What is wrong, and what helps.
fn cannot(at: &Bind, e: &io::Error) -> BuildError {
    let low = matches!(at, Bind::Tcp(addr) if addr.port() < 1024);
    let (why, hint) = match (e.kind(), e.raw_os_error()) {
        (io::ErrorKind::AddrInUse, _) => {
            ("is in use", "stop what listens there (`ss -lntpx` shows it), or choose another address")
        }
        (io::ErrorKind::AddrNotAvailable, _) => ("is no address of this machine", "`ip address` lists those it has"),
        (io::ErrorKind::PermissionDenied, _) if low => (
            "needs a privilege: ports below 1024",
            "give CAP_NET_BIND_SERVICE, let systemd bind it, or choose a port from 1024",
        ),
        (_, Some(libc::EAFNOSUPPORT)) => ("cannot be bound: this machine has no IPv6", "use an IPv4 address"),
        (io::ErrorKind::NotFound, _) => ("cannot be bound: its directory does not exist", "create it first"),
        _ => return BuildError::new(format!("{at} cannot be bound: {e}")),
    };
    BuildError::new(format!("{at} {why}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        Addr { at: text.parse().unwrap(), mode: None }
    }

    #[test]
    fn taken_ports_are_named() {
        let first = open(&addr("127.0.0.1:0"), &mut vec![]).unwrap();
        let at = first.address().unwrap().to_string();
        let fault = open(&addr(&at), &mut vec![]).unwrap_err();
        assert!(fault.why.contains(&at) && fault.why.contains("is in use"), "{}", fault.why);
        assert!(fault.hint.is_some());
        let fault = open(&addr("192.0.2.1:80"), &mut vec![]).unwrap_err();
        assert!(fault.why.contains("192.0.2.1:80"), "{}", fault.why);
    }

    #[test]
    fn inherited_sockets_are_taken_by_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let mut inherited = vec![Socket::from(listener)];
        let taken = open(&addr(&at), &mut inherited).unwrap();
        assert!(inherited.is_empty());
        assert_eq!(taken.address().unwrap().to_string(), at);
        assert!(taken.socket.nonblocking().unwrap());
    }

    #[test]
    fn stale_unix_sockets_are_replaced_and_others_respected() {
        let dir = std::env::temp_dir().join(format!("portcullis-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s");
        let text = format!("unix:{}", path.display());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file behind
        let mut private = addr(&text);
        private.mode = Some(FileMode(0o600));
        let ours = open(&private, &mut vec![]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(open(&addr(&text), &mut vec![]).unwrap_err().why.contains("in use"));
        drop(ours);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(open(&addr(&text), &mut vec![]).unwrap_err().why.contains("no socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
