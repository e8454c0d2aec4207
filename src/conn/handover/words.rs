//! The texts by which messages name stages, engines, options and addresses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::live::PeerTimeouts;
use crate::relay::{EngineChoice, FlowStage, NodelayDue, RelayOptions, RelaySettings};
use crate::sys::Address;
use crate::sys::tcp::Keepalive;
use crate::telemetry::Offered;
use crate::wire::Ja4;
use crate::wire::handover::{HandedOffer, HandedOptions, HandedPeerTimeouts, millis};

pub(super) fn stage(stage: FlowStage) -> &'static str {
    match stage {
        FlowStage::Open => "open",
        FlowStage::Ending => "ending",
        FlowStage::Done => "done",
    }
}

pub(super) fn read_stage(word: &str) -> Option<FlowStage> {
    [FlowStage::Open, FlowStage::Ending, FlowStage::Done].into_iter().find(|found| stage(*found) == word)
}

pub(super) fn nodelay(nodelay: NodelayDue) -> &'static str {
    match nodelay {
        NodelayDue::SecondWrite => "second",
        NodelayDue::NextWrite => "next",
        NodelayDue::Never => "never",
    }
}

/// Reads the word. An unknown word sets the option before the next write, which is always right.
pub(super) fn read_nodelay(word: &str) -> NodelayDue {
    let all = [NodelayDue::SecondWrite, NodelayDue::NextWrite, NodelayDue::Never];
    all.into_iter().find(|found| nodelay(*found) == word).unwrap_or(NodelayDue::NextWrite)
}

fn engine(choice: EngineChoice) -> &'static str {
    match choice {
        EngineChoice::Auto => "auto",
        EngineChoice::Splice => "splice",
        EngineChoice::Copy => "copy",
    }
}

fn read_engine(word: &str) -> EngineChoice {
    let all = [EngineChoice::Auto, EngineChoice::Splice, EngineChoice::Copy];
    all.into_iter().find(|found| engine(*found) == word).unwrap_or(EngineChoice::Auto)
}

/// Returns the options of a relay as a message has them.
pub(super) fn options(settings: &RelaySettings) -> HandedOptions {
    let listener = &settings.listener;
    HandedOptions {
        engine: engine(listener.engine).to_owned(),
        idle_ms: millis(listener.idle_timeout),
        half_closed_ms: millis(listener.half_closed_timeout),
        linger_ms: millis(listener.reset_linger),
        client: peer_timeouts(&listener.client),
        backend: peer_timeouts(&settings.backend),
    }
}

/// Returns the settings of a relay with these options.
pub(super) fn read_options(options: &HandedOptions) -> RelaySettings {
    let listener = RelayOptions {
        engine: read_engine(&options.engine),
        idle_timeout: Duration::from_millis(options.idle_ms),
        half_closed_timeout: Duration::from_millis(options.half_closed_ms),
        reset_linger: Duration::from_millis(options.linger_ms),
        client: read_peer_timeouts(&options.client),
    };
    RelaySettings { listener: Arc::new(listener), backend: Arc::new(read_peer_timeouts(&options.backend)) }
}

fn peer_timeouts(timeouts: &PeerTimeouts) -> HandedPeerTimeouts {
    let probes = |probes: Keepalive| (millis(probes.idle), millis(probes.interval), probes.count);
    HandedPeerTimeouts {
        keepalive: timeouts.keepalive.map(probes),
        user_ms: timeouts.user_timeout.map(millis),
        stall_ms: timeouts.stall_timeout.map(millis),
    }
}

fn read_peer_timeouts(handed: &HandedPeerTimeouts) -> PeerTimeouts {
    PeerTimeouts {
        keepalive: handed.keepalive.map(|(idle, interval, count)| Keepalive {
            idle: Duration::from_millis(idle),
            interval: Duration::from_millis(interval),
            count,
        }),
        user_timeout: handed.user_ms.map(Duration::from_millis),
        stall_timeout: handed.stall_ms.map(Duration::from_millis),
    }
}

/// Returns the address of a client. A text that is no address becomes a client of a Unix socket without a path.
pub(super) fn read_client(text: &str) -> Address {
    text.parse().unwrap_or_else(|_| Address::Unix(Path::new("").into()))
}

pub(super) fn offer(offered: &Offered) -> HandedOffer {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    HandedOffer {
        alpn: text(&offered.alpn),
        tls_versions: text(&offered.tls_versions),
        ja4: offered.ja4.to_string(),
        ech: offered.ech,
        segments: offered.segments,
        records: offered.records,
    }
}

pub(super) fn read_offer(offer: HandedOffer) -> Option<Offered> {
    let HandedOffer { alpn, tls_versions, ja4, ech, segments, records } = offer;
    let (alpn, tls_versions) = (alpn.map(Into::into), tls_versions.map(Into::into));
    Some(Offered { alpn, tls_versions, ja4: Ja4::from_text(&ja4)?, ech, segments, records })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_pass_unchanged() {
        let options_of = |engine, user_timeout| {
            let client =
                PeerTimeouts { user_timeout, keepalive: None, stall_timeout: Some(Duration::from_secs(9)) };
            let listener = RelayOptions { engine, client, ..RelayOptions::default() };
            RelaySettings { listener: Arc::new(listener), backend: Arc::default() }
        };
        for settings in [
            options_of(EngineChoice::Copy, None),
            options_of(EngineChoice::Splice, Some(Duration::from_millis(1500))),
            options_of(EngineChoice::Auto, Some(Duration::from_secs(30))),
        ] {
            let read = read_options(&options(&settings));
            assert_eq!((read.listener, read.backend), (settings.listener, settings.backend));
        }
    }

    #[test]
    fn words_pass_unchanged() {
        for word in [FlowStage::Open, FlowStage::Ending, FlowStage::Done] {
            assert_eq!(read_stage(stage(word)), Some(word));
        }
        assert_eq!(read_stage("later"), None);
        for word in [NodelayDue::SecondWrite, NodelayDue::NextWrite, NodelayDue::Never] {
            assert_eq!(read_nodelay(nodelay(word)), word);
        }
    }

    #[test]
    fn every_client_has_an_address() {
        for text in ["192.0.2.1:5", "[2001:db8::1]:6", "unix:/run/a"] {
            assert_eq!(read_client(text).to_string(), text);
        }
        assert_eq!(read_client("unix").to_string(), "unix");
        assert_eq!(read_client("\u{0}").to_string(), "unix");
    }
}
