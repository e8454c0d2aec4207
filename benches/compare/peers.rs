//! The proxies that can be measured.

use clap::ValueEnum;

/// A proxy that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// This project.
    Pointsman,
    /// HAProxy with `option splice-auto`.
    Haproxy,
    /// HAProxy with `option splice-auto` and pipes of 1 MiB.
    #[value(name = "haproxy-1m")]
    Haproxy1m,
    /// nginx with its stream module and `ssl_preread`.
    Nginx,
    Sniproxy,
    Envoy,
    /// The simplest proxy with tokio: one thread and `copy_bidirectional`, part of this program.
    TokioCopy,
    /// No proxy: the client connects to the backend.
    Direct,
}

impl Peer {
    /// Returns the name in the tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pointsman => "pointsman",
            Self::Haproxy => "haproxy",
            Self::Haproxy1m => "haproxy-1m",
            Self::Nginx => "nginx",
            Self::Sniproxy => "sniproxy",
            Self::Envoy => "envoy",
            Self::TokioCopy => "tokio-copy",
            Self::Direct => "direct",
        }
    }

    /// Returns `true` if the proxy can use this many workers.
    pub(crate) fn can_use(self, workers: usize) -> bool {
        workers == 1 || !matches!(self, Self::Sniproxy | Self::TokioCopy)
    }
}
