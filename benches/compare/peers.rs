//! Who can take part.

use clap::ValueEnum;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// This project.
    Pointsman,
    /// HAProxy with `option splice-auto`.
    Haproxy,
    /// The same with pipes of 1 MiB.
    #[value(name = "haproxy-1m")]
    Haproxy1m,
    /// nginx with its stream module and `ssl_preread`.
    Nginx,
    Sniproxy,
    Envoy,
    /// The least that tokio offers: one thread and `copy_bidirectional`, part of this program.
    TokioCopy,
    /// No proxy: the client in its place.
    Direct,
}

impl Peer {
    /// As the tables and the command line call it.
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

    /// Whether it can use so many workers.
    pub(crate) fn can_use(self, workers: usize) -> bool {
        workers == 1 || !matches!(self, Self::Sniproxy | Self::TokioCopy)
    }
}
