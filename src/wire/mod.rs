//! Parsers and writers of protocols: pure functions between bytes and values, without sockets, clocks or logging.

pub mod agent;
pub mod alert;
pub mod client_hello;
pub mod dialogue;
pub mod first_bytes;
pub mod handover;
mod http_connect;
pub mod opening;
pub mod postgres;
pub mod proxy_protocol;
mod requested;
pub mod server_name;
mod socks;
pub mod starttls;
mod tunnel;

pub use alert::Alert;
pub use client_hello::{ClientHello, HelloFault, HelloReader, Ja4, Offer, TlsVersion, made_hello};
pub use dialogue::{Dialogue, DialogueFault, DialogueStep, Script};
pub use first_bytes::DetectedProtocol;
pub use opening::{BackendGreeting, Opening};
pub use requested::{RequestedHost, TargetTextFault, TunnelTarget};
pub use server_name::{NameFault, ServerName};
pub use starttls::Starttls;
pub use tunnel::{TunnelFailure, TunnelProtocol, TunnelRequest};

#[cfg(test)]
pub(crate) mod tests {
    /// Returns the eight values that differ from a byte in one bit, for tests that cannot try all values each time.
    pub(crate) fn bit_flips(byte: u8) -> Vec<u8> {
        (0..8).map(|bit| byte ^ (1 << bit)).collect()
    }

    /// Returns all texts that differ from `whole` in one byte, which has one of the `values` for the byte there.
    pub(crate) fn with_changed_byte(
        whole: &[u8],
        values: impl Fn(u8) -> Vec<u8>,
    ) -> impl Iterator<Item = Vec<u8>> {
        let change = move |at: usize, value| {
            let mut changed = whole.to_vec();
            changed[at] = value;
            changed
        };
        (0..whole.len()).flat_map(move |at| values(whole[at]).into_iter().map(move |value| change(at, value)))
    }
}
