//! The tables of a run as Markdown, and its plots.

use std::fmt::Write as _;

use crate::backends::{EventRow, LoadRow, Moved};
use crate::nodes::{NodeEvent, Outcome, Scheme};
use crate::paper::{FailedRow, Overprovision};
use crate::svg::{Lines, Scale};

/// The outcome of each scheme for an event and a number of nodes.
pub(crate) struct NodeRow {
    pub(crate) nodes: usize,
    pub(crate) event: NodeEvent,
    pub(crate) outcomes: Vec<Option<Outcome>>,
}

/// All figures of a run.
pub(crate) struct Report {
    pub(crate) nodes: Vec<NodeRow>,
    pub(crate) events: Vec<EventRow>,
    pub(crate) loads: Vec<LoadRow>,
    pub(crate) overprovisions: Vec<Overprovision>,
    pub(crate) failures: Vec<FailedRow>,
}

/// Returns a part of 1 in percent, with digits enough for small parts.
pub(crate) fn percent(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0".to_owned(),
        small if small < 0.01 => format!("{small:.4}"),
        middle if middle < 1.0 => format!("{middle:.2}"),
        large => format!("{large:.1}"),
    }
}

impl Report {
    /// Returns the tables.
    pub(crate) fn tables(&self) -> String {
        let mut out = String::new();
        self.broken(&mut out);
        self.forwarded(&mut out);
        self.returned(&mut out);
        self.moved(&mut out);
        self.load(&mut out);
        self.paper(&mut out);
        out
    }

    fn broken(&self, out: &mut String) {
        let names: Vec<_> = Scheme::ALL.iter().map(|scheme| scheme.name()).collect();
        table(
            out,
            "Broken connections in %: those of the changed node + those of others",
            &[&["nodes", "event"][..], &names].concat(),
        );
        for row in &self.nodes {
            let cells = row
                .outcomes
                .iter()
                .map(|outcome| outcome.map_or("-".to_owned(), |found| broken(row.event, found)));
            let cells: Vec<_> = cells.collect();
            _ = writeln!(out, "| {} | {} | {} |", row.nodes, row.event.name(), cells.join(" | "));
        }
    }

    fn forwarded(&self, out: &mut String) {
        let columns = ["nodes", "event", "router", "forwarded, %", "nodes passed, on average"];
        table(out, "Connections that nodes with rules forward", &columns);
        for row in self.nodes.iter().filter(|row| row.event != NodeEvent::EachInTurn) {
            for (scheme, outcome) in Scheme::ALL.iter().zip(&row.outcomes) {
                let forwards = |outcome: &Outcome| scheme.forwards() && outcome.forwarded > 0.0;
                let Some(outcome) = outcome.filter(forwards) else { continue };
                let (part, hops) = (percent(outcome.forwarded), outcome.hops);
                let (event, name) = (row.event.name(), scheme.name());
                _ = writeln!(out, "| {} | {event} | {name} | {part} | {hops:.1} |", row.nodes);
            }
        }
    }

    fn returned(&self, out: &mut String) {
        let names: Vec<_> = Scheme::ALL.iter().map(|scheme| scheme.name()).collect();
        table(
            out,
            "New connections of a returned node, in % of its fair share",
            &[&["nodes"][..], &names].concat(),
        );
        for row in self.nodes.iter().filter(|row| row.event == NodeEvent::Returns) {
            let cells: Vec<_> = row
                .outcomes
                .iter()
                .map(|outcome| {
                    outcome.map_or("-".to_owned(), |found| format!("{:.0}", found.fair_share * 100.0))
                })
                .collect();
            _ = writeln!(out, "| {} | {} |", row.nodes, cells.join(" | "));
        }
    }

    fn moved(&self, out: &mut String) {
        let columns = [
            "backends",
            "event",
            "maglev: needed",
            "maglev: needless",
            "ring: needed",
            "ring: needless",
            "rendezvous: needed",
            "rendezvous: needless",
        ];
        table(out, "Keys that move to another backend, in %", &columns);
        for row in &self.events {
            let cells = [Some(row.maglev), row.ring, row.rendezvous].map(|moved| match moved {
                Some(Moved { needed, needless }) => format!("{} | {}", percent(needed), percent(needless)),
                None => "- | -".to_owned(),
            });
            _ = writeln!(out, "| {} | {} | {} |", row.backends, row.event.name(), cells.join(" | "));
        }
    }

    fn load(&self, out: &mut String) {
        table(
            out,
            "The fullest backend above the average, in %",
            &["backends", "entries", "maglev", "ring, 160 points each"],
        );
        for LoadRow { backends, table, maglev, ring } in &self.loads {
            _ = writeln!(out, "| {backends} | {table} | {} | {} |", percent(*maglev), percent(*ring));
        }
    }

    fn paper(&self, out: &mut String) {
        table(out, "Overprovision of 1000 backends in %", &["entries", "method", "in the paper", "here"]);
        for Overprovision { method, size, in_paper, here } in &self.overprovisions {
            let in_paper = in_paper.map_or("almost perfect".to_owned(), percent);
            _ = writeln!(out, "| {size} | {method} | {in_paper} | {} |", percent(*here));
        }
        let columns = [
            "entries",
            "failed of 1000",
            "changed entries",
            "of these needless",
            "needless here, where the table stays",
        ];
        table(out, "Entries that change when backends fail at once, in %", &columns);
        for FailedRow { failed, size, changed, needless, needless_here } in &self.failures {
            let [changed, needless, here] = [*changed, *needless, *needless_here].map(percent);
            _ = writeln!(out, "| {size} | {failed} | {changed} | {needless} | {here} |");
        }
    }

    /// Returns the plots with the names of their files.
    pub(crate) fn plots(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "fleet-leave.svg",
                self.plot_of(
                    "Connections broken when a node leaves, %, by number of nodes",
                    NodeEvent::Leaves,
                ),
            ),
            (
                "fleet-return.svg",
                self.plot_of(
                    "Connections broken when a node returns, %, by number of nodes",
                    NodeEvent::Returns,
                ),
            ),
            ("fleet-failures.svg", self.plot_of_failures()),
        ]
    }

    fn plot_of(&self, title: &str, event: NodeEvent) -> String {
        let series = |(number, scheme): (usize, &Scheme)| {
            let rows = self.nodes.iter().filter(|row| row.event == event);
            let point = |row: &NodeRow| {
                let outcome = row.outcomes[number]?;
                Some((row.nodes as f64, (outcome.own + outcome.others) * 100.0))
            };
            (scheme.name().to_owned(), rows.filter_map(point).collect())
        };
        let series = Scheme::ALL.iter().enumerate().map(series).collect();
        Lines { title: title.to_owned(), scale: Scale::Linear, series }.draw()
    }

    fn plot_of_failures(&self) -> String {
        let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        let mut add =
            |name: String, point: (f64, f64)| match series.iter_mut().find(|(other, _)| *other == name) {
                Some((_, points)) => points.push(point),
                None => series.push((name, vec![point])),
            };
        for row in &self.failures {
            let failed = row.failed as f64;
            add(format!("{} entries, rebuilt", row.size), (failed, row.needless * 100.0));
            add(format!("{} entries, kept", row.size), (failed, row.needless_here * 100.0));
        }
        let title = "Keys of backends that are up, moved when some of 1000 fail, %".to_owned();
        Lines { title, scale: Scale::Linear, series }.draw()
    }
}

fn broken(event: NodeEvent, outcome: Outcome) -> String {
    match event {
        NodeEvent::Leaves | NodeEvent::Dies => {
            format!("{} + {}", percent(outcome.own), percent(outcome.others))
        }
        _ => percent(outcome.own + outcome.others),
    }
}

/// Writes a title and the head of a table.
fn table(out: &mut String, title: &str, columns: &[&str]) {
    _ = writeln!(out, "\n**{title}**\n\n| {} |", columns.join(" | "));
    _ = writeln!(out, "|{}", "---|".repeat(columns.len()));
}
