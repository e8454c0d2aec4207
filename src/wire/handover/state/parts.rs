//! The parts in which a large [`ProcessState`] is sent.

use super::{HandedDiscovery, ProcessState};

/// The most items of one kind that a reader keeps. The rest is ignored.
const MOST_ITEMS: usize = 1 << 20;

impl ProcessState {
    /// The most items of a part that is sent. The largest items have a few hundred bytes, so a part is far smaller than
    /// the largest frame.
    pub const ITEMS_OF_PART: usize = 2000;

    /// Splits the state into parts of at most `most_items` items, at least 2: a source and one of its backends. Returns
    /// at least one part.
    #[must_use]
    pub fn split(self, most_items: usize) -> Vec<Self> {
        let mut parts = PartsWriter { parts: vec![Self::default()], items: 0, most_items: most_items.max(2) };
        let Self {
            backends,
            discovered,
            additions,
            sources,
            rates,
            draining,
            marks,
            routes,
            counters,
            overrides,
            needs,
        } = self;
        parts.write(backends, |part| &mut part.backends);
        parts.write(additions, |part| &mut part.additions);
        parts.write(sources, |part| &mut part.sources);
        parts.write(rates, |part| &mut part.rates);
        parts.write(draining, |part| &mut part.draining);
        parts.write(marks, |part| &mut part.marks);
        parts.write(routes, |part| &mut part.routes);
        parts.write(counters, |part| &mut part.counters);
        parts.write(overrides, |part| &mut part.overrides);
        parts.write(needs, |part| &mut part.needs);
        for source in discovered {
            parts.write_source(source);
        }
        parts.parts
    }

    /// Adds a part of the state. Items above a bound, which no real state reaches, are ignored.
    pub fn join(&mut self, part: Self) {
        let Self {
            backends,
            discovered,
            additions,
            sources,
            rates,
            draining,
            marks,
            routes,
            counters,
            overrides,
            needs,
        } = part;
        join(&mut self.backends, backends);
        join(&mut self.additions, additions);
        join(&mut self.sources, sources);
        join(&mut self.rates, rates);
        join(&mut self.draining, draining);
        join(&mut self.marks, marks);
        join(&mut self.routes, routes);
        join(&mut self.counters, counters);
        join(&mut self.overrides, overrides);
        join(&mut self.needs, needs);
        for source in discovered {
            self.join_source(source);
        }
    }

    /// Adds the backends of a source. A source that was split is whole again.
    fn join_source(&mut self, source: HandedDiscovery) {
        let last = self.discovered.last_mut().filter(|last| last.is_same_source(&source));
        if let Some(last) = last {
            join(&mut last.found, source.found);
            join(&mut last.held, source.held);
            return;
        }
        join(&mut self.discovered, vec![source]);
    }
}

impl HandedDiscovery {
    /// Returns true if both are parts of one source.
    fn is_same_source(&self, other: &Self) -> bool {
        (&self.pool, &self.part, &self.source) == (&other.pool, &other.part, &other.source)
            && (self.succeeded_ms, self.failures) == (other.succeeded_ms, other.failures)
    }

    /// Returns the source without backends.
    fn without_backends(&self) -> Self {
        Self { found: Vec::new(), held: Vec::new(), ..self.clone() }
    }
}

/// Adds items up to the bound.
fn join<T>(all: &mut Vec<T>, items: Vec<T>) {
    let room = MOST_ITEMS.saturating_sub(all.len());
    all.extend(items.into_iter().take(room));
}

/// The parts that are being written.
struct PartsWriter {
    /// Never empty.
    parts: Vec<ProcessState>,
    /// The items of the last part.
    items: usize,
    most_items: usize,
}

impl PartsWriter {
    /// Returns the part for one more item.
    fn with_room(&mut self) -> &mut ProcessState {
        if self.items >= self.most_items {
            self.parts.push(ProcessState::default());
            self.items = 0;
        }
        self.items += 1;
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }

    fn write<T>(&mut self, items: Vec<T>, list: impl Fn(&mut ProcessState) -> &mut Vec<T>) {
        for item in items {
            list(self.with_room()).push(item);
        }
    }

    /// Writes a source. Each of its backends is an item.
    fn write_source(&mut self, mut source: HandedDiscovery) {
        let (found, held) = (std::mem::take(&mut source.found), std::mem::take(&mut source.held));
        let mut found = found.into_iter().peekable();
        let mut held = held.into_iter().peekable();
        loop {
            let mut piece = source.without_backends();
            _ = self.with_room();
            let room = self.most_items - self.items;
            piece.found.extend(found.by_ref().take(room));
            piece.held.extend(held.by_ref().take(room - piece.found.len()));
            self.items += piece.found.len() + piece.held.len();
            let has_progress = !piece.found.is_empty() || !piece.held.is_empty();
            let is_whole = found.peek().is_none() && held.peek().is_none();
            if is_whole || has_progress {
                let last = self.parts.len() - 1;
                self.parts[last].discovered.push(piece);
            }
            if is_whole {
                return;
            }
        }
    }
}
