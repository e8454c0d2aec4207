//! The client that a report is about.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use crate::sys::Address;
use crate::wire::{ServerName, TunnelTarget, made_hello};

/// The client that a report is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainRequest {
    /// The client's address; `None` for a client of a Unix socket. Port 0 is a port that is not known.
    pub source: Option<SocketAddr>,
    /// The address that the client connects to, if it is known.
    pub destination: Option<SocketAddr>,
    /// The hello of the client. Listeners that read no hello ignore it.
    pub hello: ExplainedHello,
    /// The host and the port that the client requests by SOCKS or CONNECT. Other listeners ignore it.
    pub requested: Option<TunnelTarget>,
}

/// The hello of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExplainedHello {
    /// A hello with this server name and these protocols. The rest of the hello is made up.
    Made {
        /// The server name.
        server_name: Option<ServerName>,
        /// The protocols in ALPN, the preferred one first.
        alpn: Vec<String>,
    },
    /// The bytes that a client sent: one or more TLS records.
    Captured(Vec<u8>),
}

/// The address of a client, as an operator writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplainedSource(pub Option<SocketAddr>);

/// The fault of a text that is no address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a source is an address such as 203.0.113.7, an address with a port such as 203.0.113.7:4711 or [2001:db8::1]:4711, \
     or `unix` for a client of a Unix socket"
)]
pub struct SourceTextFault;

impl FromStr for ExplainedSource {
    type Err = SourceTextFault;

    fn from_str(text: &str) -> Result<Self, SourceTextFault> {
        if text == "unix" {
            return Ok(Self(None));
        }
        let alone = |text: &str| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
        let source = text.parse().or_else(|_| alone(text)).map_err(|_| SourceTextFault)?;
        Ok(Self(Some(source)))
    }
}

impl ExplainRequest {
    /// Returns the address of the client.
    pub(super) fn client(&self) -> Address {
        self.source.map_or_else(|| Address::Unix(Path::new("").into()), Address::Tcp)
    }
}

impl ExplainedHello {
    /// Returns the bytes that the client sends.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Captured(bytes) => bytes.clone(),
            Self::Made { server_name, alpn } => {
                let alpn: Vec<_> = alpn.iter().map(String::as_bytes).collect();
                made_hello(server_name.as_ref(), &alpn)
            }
        }
    }

    /// Returns true if only the server name and the protocols are known.
    pub(super) fn is_made(&self) -> bool {
        matches!(self, Self::Made { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let source =
            expected.map(|source| ExplainedSource((source != "unix").then(|| source.parse().unwrap())));
        assert_eq!(text.parse().ok(), source, "{text}");
    }

    #[test]
    fn sources_are_addresses_with_or_without_a_port() {
        check("203.0.113.7", Some("203.0.113.7:0"));
        check("203.0.113.7:4711", Some("203.0.113.7:4711"));
        check("2001:db8::1", Some("[2001:db8::1]:0"));
        check("[2001:db8::1]:4711", Some("[2001:db8::1]:4711"));
        check("unix", Some("unix"));
        for text in ["", "203.0.113", "10.0.0.0/8", "host", "unix:/a", "10.0.0.1:70000", "10.0.0.1:"] {
            check(text, None);
        }
    }
}
