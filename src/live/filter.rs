//! The connections that a list or an order to close is about.

use std::time::Duration;

use super::glob::NameGlob;
use super::stage::OpenStage;
use super::view::ConnectionView;
use crate::route::IpPrefix;

/// The name of a backend in a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFilter {
    /// Its pool; `None` for the backends of this name in all pools.
    pub pool: Option<Box<str>>,
    /// Its name.
    pub name: Box<str>,
}

/// A filter of connections. A connection passes if it passes each part that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// The name of the pool.
    pub pool: Option<Box<str>>,
    /// The backend of the last attempt.
    pub backend: Option<BackendFilter>,
    /// The name of the listener.
    pub listener: Option<Box<str>>,
    /// The network of the client.
    pub source: Option<IpPrefix>,
    /// A pattern for the server name. A connection without a name does not pass.
    pub sni: Option<NameGlob>,
    /// The stage.
    pub stage: Option<OpenStage>,
    /// The least age.
    pub older: Option<Duration>,
    /// The least time for which no byte has moved.
    pub idle: Option<Duration>,
}

impl ConnectionFilter {
    /// Returns true if no part is set: every connection passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if the connection passes.
    pub fn matches(&self, view: &ConnectionView<'_>) -> bool {
        let Self { pool, backend, listener, source, sni, stage, older, idle } = self;
        let is = |wanted: &Option<Box<str>>, name: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| name == Some(wanted))
        };
        let card = view.card;
        // The cheap comparisons come first.
        stage.is_none_or(|stage| view.stage == stage)
            && older.is_none_or(|older| view.figures.age >= older)
            && idle.is_none_or(|idle| view.figures.idle >= idle)
            && is(listener, Some(view.listener))
            && is(pool, card.pool.as_deref())
            && backend.as_ref().is_none_or(|backend| {
                card.backend.as_deref() == Some(&*backend.name) && is(&backend.pool, card.pool.as_deref())
            })
            && source.is_none_or(|source| view.client.is_some_and(|client| source.contains(client.ip())))
            && sni.as_ref().is_none_or(|sni| card.sni.as_deref().is_some_and(|name| sni.matches(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::live::card::ConnectionCard;
    use crate::live::view::ConnectionFigures;

    /// Checks whether a filter passes a connection of the pool `p` and the backend `b`, and one that is being read.
    fn check(filter: ConnectionFilter, expected: [bool; 2]) {
        let listener: Arc<str> = "l".into();
        let card = ConnectionCard {
            sni: Some("a.example".into()),
            route: None,
            pool: Some("p".into()),
            backend: Some("b".into()),
            authority: None,
        };
        let seconds = Duration::from_secs;
        let figures = ConnectionFigures { age: seconds(60), idle: seconds(10), ..Default::default() };
        let client = Some("192.0.2.7:80".parse().unwrap());
        let (listener, stage) = (&listener, OpenStage::Relaying);
        let relaying = ConnectionView { id: 1, client, listener, stage, backend: None, card: &card, figures };
        let reading = ConnectionView {
            id: 2,
            client: None,
            listener: &"other".into(),
            stage: OpenStage::Reading,
            backend: None,
            card: &ConnectionCard::default(),
            figures: ConnectionFigures::default(),
        };
        assert_eq!([&relaying, &reading].map(|view| filter.matches(view)), expected, "{filter:?}");
    }

    #[test]
    fn each_part_must_pass() {
        let none = ConnectionFilter::default;
        let backend = |pool: Option<&str>, name: &str| {
            Some(BackendFilter { pool: pool.map(Into::into), name: name.into() })
        };
        let source = |text: &str| text.parse().ok();
        let seconds = |number| Some(Duration::from_secs(number));
        assert!(none().is_empty());
        check(none(), [true, true]);
        check(ConnectionFilter { pool: Some("p".into()), ..none() }, [true, false]);
        check(ConnectionFilter { pool: Some("P".into()), ..none() }, [false, false]);
        check(ConnectionFilter { backend: backend(None, "b"), ..none() }, [true, false]);
        check(ConnectionFilter { backend: backend(Some("p"), "b"), ..none() }, [true, false]);
        check(ConnectionFilter { backend: backend(Some("q"), "b"), ..none() }, [false, false]);
        check(ConnectionFilter { backend: backend(None, "c"), ..none() }, [false, false]);
        check(ConnectionFilter { listener: Some("other".into()), ..none() }, [false, true]);
        check(ConnectionFilter { source: source("192.0.2.0/24"), ..none() }, [true, false]);
        check(ConnectionFilter { source: source("192.0.3.0/24"), ..none() }, [false, false]);
        check(ConnectionFilter { source: source("::/0"), ..none() }, [false, false]);
        check(ConnectionFilter { sni: Some(NameGlob::new("*.example")), ..none() }, [true, false]);
        check(ConnectionFilter { sni: Some(NameGlob::new("*")), ..none() }, [true, false]);
        check(ConnectionFilter { stage: Some(OpenStage::Reading), ..none() }, [false, true]);
        check(ConnectionFilter { older: seconds(60), ..none() }, [true, false]);
        check(ConnectionFilter { older: seconds(61), ..none() }, [false, false]);
        check(ConnectionFilter { idle: seconds(10), ..none() }, [true, false]);
        check(ConnectionFilter { idle: seconds(0), ..none() }, [true, true]);
        let both = ConnectionFilter { idle: seconds(0), stage: Some(OpenStage::Reading), ..none() };
        assert!(!both.is_empty());
        check(both, [false, true]);
    }
}
