//! Pingora's errors as answers: one place decides the status, the cause in the log, and whose fault it was.

use pingora::{Error, ErrorSource, ErrorType};

/// What went wrong, in one word for the log, and the status that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rescue {
    pub status: u16,
    /// For the log and the metrics: a closed set.
    pub cause: &'static str,
    /// For the client.
    pub detail: &'static str,
}

const fn rescue(status: u16, cause: &'static str, detail: &'static str) -> Rescue {
    Rescue { status, cause, detail }
}

/// The answer to an error. `deadline`: the request's own deadline had passed, whatever the error looks like.
/// A status of 0 means that nobody is left to answer.
pub fn rescue_of(error: &Error, deadline: bool) -> Rescue {
    use ErrorType::*;
    if deadline {
        return rescue(504, "deadline", "the upstream did not answer in time");
    }
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(status)) => rescue(*status, "status", "the request could not be served"),
        (_, ConnectTimedout | TLSHandshakeTimedout) => {
            rescue(504, "connect_timeout", "the upstream could not be reached in time")
        }
        (_, ConnectRefused) => rescue(502, "connect_refused", "the upstream could not be reached"),
        (_, ConnectError | ConnectNoRoute | ConnectProxyFailure | BindError | SocketError) => {
            rescue(502, "connect_failed", "the upstream could not be reached")
        }
        (ErrorSource::Upstream, TLSHandshakeFailure | TLSWantX509Lookup | InvalidCert | HandshakeError) => {
            rescue(502, "upstream_tls", "the upstream could not be trusted")
        }
        (ErrorSource::Upstream, ReadTimedout) => rescue(504, "upstream_timeout", "the upstream did not answer in time"),
        (ErrorSource::Upstream, WriteTimedout) => {
            rescue(504, "upstream_write_timeout", "the upstream did not accept the request in time")
        }
        (ErrorSource::Upstream, InvalidHTTPHeader | H1Error | H2Error | InvalidH2 | H2Downgrade) => {
            rescue(502, "upstream_garbage", "the upstream's answer was not valid")
        }
        (ErrorSource::Upstream, ConnectionClosed | Custom("PrematureBodyEnd")) => {
            rescue(502, "upstream_closed", "the upstream closed the connection")
        }
        (ErrorSource::Upstream, _) => rescue(502, "upstream_reset", "the upstream failed"),
        (ErrorSource::Downstream, InvalidHTTPHeader | H1Error | H2Error | InvalidH2) => {
            rescue(400, "bad_request", "the request was not valid")
        }
        (ErrorSource::Downstream, ReadTimedout) => rescue(408, "client_timeout", "the request took too long to arrive"),
        (ErrorSource::Downstream, ConnectionClosed | WriteError | ReadError | WriteTimedout) => {
            rescue(0, "client_closed", "the client went away")
        }
        (ErrorSource::Downstream, _) => rescue(400, "bad_request", "the request was not valid"),
        _ => rescue(500, "internal", "the gateway failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(source: ErrorSource, kind: ErrorType) -> u16 {
        let mut error = Error::new(kind);
        error.esource = source;
        rescue_of(&error, false).status
    }

    #[test]
    fn a_clients_fault_is_never_a_5xx() {
        use ErrorType::*;
        for kind in [InvalidHTTPHeader, ReadTimedout, ConnectionClosed, ReadError, WriteError, H2Error, UnknownError] {
            assert!(status(ErrorSource::Downstream, kind) < 500);
        }
    }

    #[test]
    fn an_upstreams_fault_is_always_a_5xx() {
        use ErrorType::*;
        for kind in
            [InvalidHTTPHeader, ReadTimedout, ConnectionClosed, ReadError, ConnectRefused, InvalidCert, UnknownError]
        {
            assert!(status(ErrorSource::Upstream, kind) >= 502);
        }
    }
}
