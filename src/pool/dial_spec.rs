//! The spec of connects to backends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::live::PeerTimeouts;
use crate::sys::socket::KernelBuffers;

/// The settings for connects to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSpec {
    /// Different backends tried for one client. Default 3.
    pub attempts: u32,
    /// The time limit of one attempt. Default 5 s.
    pub connect_timeout: Duration,
    /// The time limit of all attempts together. Default 15 s.
    pub dial_timeout: Duration,
    /// The source address of connections to backends; not of checks and agents.
    pub source: DialSource,
    /// The kernel's buffers for connections to backends; not for checks and agents. Default: the settings of the
    /// system.
    pub buffers: KernelBuffers,
    /// The timeouts of a backend that does not answer or does not read. Shared with the connections to it.
    pub peer_timeouts: Arc<PeerTimeouts>,
}

/// The source address of connections, as backends see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialSource {
    /// The kernel's choice: an address of this host.
    #[default]
    Any,
    /// The client's address, with a port of the kernel's choice. A client is not connected if it has no
    /// address, or if its address and the backend's address are of different families.
    Client,
    /// This address of this host, for backends of its family.
    Address(IpAddr),
}

impl Default for DialSpec {
    fn default() -> Self {
        Self {
            attempts: 3,
            connect_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(15),
            source: DialSource::Any,
            buffers: KernelBuffers::default(),
            peer_timeouts: Arc::default(),
        }
    }
}
