//! The reasons for which connections end. The metric label, the word in the access log and the documentation come
//! from this list.
//!
//! This module only names decisions that other modules take.

mod kind;
mod rows;
mod termination;

use std::fmt::{self, Write as _};

use super::phase::{EndedBy, Phase};
pub use kind::CloseKind;
pub use rows::CloseReason;
pub use termination::termination_table;

impl CloseReason {
    /// Returns the word in metric labels, in the access log and in the documentation.
    pub const fn word(self) -> &'static str {
        self.row().word
    }

    /// Returns the reason with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }

    /// Returns the side that ended the connection.
    pub const fn ended_by(self) -> EndedBy {
        self.row().ended_by
    }

    /// Returns the phase in which the connection ended. [`DrainDeadline`](Self::DrainDeadline),
    /// [`ClosedByOperator`](Self::ClosedByOperator) and [`Internal`](Self::Internal) can occur in any phase. They count as relay, the phase in which connections spend
    /// most of their time.
    pub const fn phase(self) -> Phase {
        self.row().phase
    }

    /// Returns the meaning for an operator, in one line.
    pub const fn meaning(self) -> &'static str {
        self.row().meaning
    }

    /// Returns true if this program refused the connection before any backend was tried.
    pub const fn is_rejection(self) -> bool {
        self.row().rejection
    }

    /// Returns true if a client that sends nothing and leaves can end in this way. A client that was refused is
    /// another case.
    pub const fn is_of_a_client_that_left(self) -> bool {
        matches!(self, Self::NoData | Self::ClientGone | Self::ClientFin | Self::ClientReset)
    }

    /// Returns true if the access log bounds the lines of this reason. Any client can cause such a reason at any
    /// rate, without an attempt at a backend. The client is refused, or leaves before a backend is connected.
    pub const fn is_sampled(self) -> bool {
        let has_left = matches!(self.ended_by(), EndedBy::Client) && !matches!(self.phase(), Phase::Relay);
        self.is_rejection() || has_left
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Returns the reasons as a Markdown table, one row each, for docs/reference/close-reasons.md.
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| `close` | ended by | phase | rejected | sampled | meaning |\n|---|---|---|---|---|---|\n",
    );
    for reason in CloseReason::ALL {
        let yes = |is_so| if is_so { "yes" } else { "" };
        let (rejected, sampled) = (yes(reason.is_rejection()), yes(reason.is_sampled()));
        let (word, ended_by, phase) = (reason.word(), reason.ended_by().word(), reason.phase().word());
        _ = writeln!(
            table,
            "| `{word}` | {ended_by} | {phase} | {rejected} | {sampled} | {} |",
            reason.meaning()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_order_of_all_is_the_order_of_the_declaration() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(index, reason as usize, "{reason}");
        }
        assert_eq!(CloseReason::ALL.len(), CloseReason::Internal as usize + 1, "the last one is in the list");
    }

    #[test]
    fn words_are_unique_and_snake_case_and_follow_the_variant() {
        let words: HashSet<_> = CloseReason::ALL.map(CloseReason::word).into();
        assert_eq!(words.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            let snake = format!("{reason:?}").chars().fold(String::new(), |mut snake, c| {
                if c.is_ascii_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
                snake
            });
            assert_eq!(reason.word(), snake);
        }
    }

    #[test]
    fn meanings_are_sentences_that_fit_a_table() {
        for reason in CloseReason::ALL {
            let meaning = reason.meaning();
            assert!(meaning.len() > 20 && meaning.ends_with('.'), "{reason}: {meaning}");
            assert!(!meaning.contains(['|', '\n']), "{reason}: {meaning}");
        }
    }

    #[test]
    fn a_rejection_is_ours_and_comes_before_the_relay() {
        let rejections: Vec<_> = CloseReason::ALL.into_iter().filter(|r| r.is_rejection()).collect();
        assert_eq!(rejections.len(), 51);
        for reason in rejections {
            assert_eq!(reason.ended_by(), EndedBy::Pointsman, "{reason}");
            assert_ne!(reason.phase(), Phase::Relay, "{reason}");
        }
    }

    #[test]
    fn what_a_flood_can_cause_is_sampled() {
        use CloseReason as R;
        for reason in R::ALL {
            let left = matches!(
                reason,
                R::NoData
                    | R::HelloTruncated
                    | R::ProxyTruncated
                    | R::LeftBeforeTls
                    | R::OpeningTruncated
                    | R::ClientGone
            );
            assert_eq!(reason.is_sampled(), reason.is_rejection() || left, "{reason}");
            assert!(!reason.is_sampled() || reason.ended_by() != EndedBy::Backend, "{reason}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_reason() {
        let table = markdown_table();
        assert_eq!(table.lines().count(), CloseReason::ALL.len() + 2);
        for reason in CloseReason::ALL {
            assert!(table.contains(&format!("| `{}` |", reason.word())), "{reason}");
        }
    }
}
