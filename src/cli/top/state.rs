//! The state of the view. It changes by events alone, which carry the time and the answers of the server.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::request::{TopChange, ViewPage};
use super::style::TopStyle;

/// The longest text of a message or a refusal, in characters.
const LONGEST_TEXT: usize = 500;

/// A table of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopView {
    Pools,
    Connections,
    Sources,
    Names,
    Events,
    Overrides,
    Listeners,
}

impl TopView {
    /// Every table, in the order of their keys.
    pub(super) const ALL: [Self; 7] = [
        Self::Pools,
        Self::Connections,
        Self::Sources,
        Self::Names,
        Self::Events,
        Self::Overrides,
        Self::Listeners,
    ];

    /// The word on the screen and in `--view`.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Pools => "pools",
            Self::Connections => "connections",
            Self::Sources => "sources",
            Self::Names => "names",
            Self::Events => "events",
            Self::Overrides => "overrides",
            Self::Listeners => "listeners",
        }
    }

    /// Returns the pages that it shows beside the status.
    pub(super) fn pages(self) -> &'static [ViewPage] {
        match self {
            Self::Connections => &[ViewPage::Connections],
            Self::Sources => &[ViewPage::Sources, ViewPage::Top],
            Self::Names => &[ViewPage::Top],
            Self::Pools | Self::Events | Self::Overrides | Self::Listeners => &[],
        }
    }
}

/// The order, the filter and the selection of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct TableState {
    pub(super) filter: String,
    /// The column of the order; `None` is the order of the view.
    pub(super) sort: Option<usize>,
    pub(super) is_reversed: bool,
    /// The key of the selected row.
    pub(super) selected: Option<String>,
    /// The place of the selected row, for the case that it is gone.
    pub(super) place: usize,
}

/// The last answers of the server by page. A refusal does not replace a page that was answered before.
#[derive(Clone, Debug, Default)]
pub(super) struct ViewPages {
    values: [Value; ViewPage::ALL.len()],
    refusals: [Option<(u16, String)>; ViewPage::ALL.len()],
}

impl ViewPages {
    /// Returns the last value of a page; null if there was none.
    pub(super) fn value(&self, page: ViewPage) -> &Value {
        &self.values[page as usize]
    }

    /// Returns the refusal, if the last request for a page was refused.
    pub(super) fn refusal(&self, page: ViewPage) -> Option<&(u16, String)> {
        self.refusals[page as usize].as_ref()
    }

    pub(super) fn set(&mut self, page: ViewPage, value: Value) {
        self.values[page as usize] = value;
        self.refusals[page as usize] = None;
    }

    pub(super) fn refuse(&mut self, page: ViewPage, code: u16, text: String) {
        self.refusals[page as usize] = Some((code, shortened(&text)));
    }

    pub(super) fn forget(&mut self, page: ViewPage) {
        self.set(page, Value::Null);
    }
}

/// The connection to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// No request is answered yet.
    Asking,
    /// The last request was answered, at this time.
    Answered(SystemTime),
    /// Requests are not answered.
    Lost {
        since: SystemTime,
        reason: String,
        /// The time of the last answer.
        answered: Option<SystemTime>,
    },
}

/// The line that an operator types into, or a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopPrompt {
    None,
    /// The filter of the table.
    Filter(String),
    /// The time of a pause.
    PauseTime {
        pool: String,
        open: u64,
        text: String,
    },
    /// A change that waits for a yes.
    Question {
        text: String,
        change: TopChange,
    },
}

/// A page of text in the place of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextPage {
    pub(super) kind: TextKind,
    /// The first line that is shown.
    pub(super) top: usize,
}

/// The content of a page of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TextKind {
    /// The keys.
    Help,
    /// All problems.
    Verdict,
    /// The row with this key.
    Details { key: String, facts: Vec<(String, String)> },
    /// The connection with this number.
    Connection { id: u64, facts: String },
}

/// The result of a change, or a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopMessage {
    pub(super) text: String,
    pub(super) is_fault: bool,
}

/// The requests that are still to be made.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    /// True while a request is under way.
    pub(super) is_waiting: bool,
    /// The pages of the round that are still to be requested. Each page is in it once at most.
    pub(super) pages: VecDeque<ViewPage>,
    /// The change that comes before them.
    pub(super) change: Option<TopChange>,
}

/// The state of the view.
#[derive(Clone, Debug)]
pub(super) struct TopState {
    pub(super) style: TopStyle,
    /// The address of the server, as text.
    pub(super) target: String,
    pub(super) interval: Duration,
    /// The columns and lines of the screen.
    pub(super) size: (u16, u16),
    /// The time of the last event.
    pub(super) now: SystemTime,
    pub(super) pages: ViewPages,
    /// The status before the last one, with the seconds between both: the rates of backends come from the difference.
    pub(super) earlier: Option<(Value, Duration)>,
    /// The time of the last status.
    pub(super) status_time: Option<SystemTime>,
    pub(super) reach: Reach,
    pub(super) view: TopView,
    pub(super) tables: [TableState; TopView::ALL.len()],
    pub(super) prompt: TopPrompt,
    pub(super) page: Option<TextPage>,
    pub(super) message: Option<TopMessage>,
    /// The first line of the verdict that is shown below its heading.
    pub(super) verdict_top: usize,
    pub(super) rounds: Rounds,
    /// False for a frame that is printed.
    pub(super) has_keys: bool,
    /// True once the operator has ended the view.
    pub(super) has_ended: bool,
}

impl TopState {
    pub(super) fn new(target: String, interval: Duration, style: TopStyle, now: SystemTime) -> Self {
        Self {
            style,
            target,
            interval,
            size: (80, 24),
            now,
            pages: ViewPages::default(),
            earlier: None,
            status_time: None,
            reach: Reach::Asking,
            view: TopView::Pools,
            tables: Default::default(),
            prompt: TopPrompt::None,
            page: None,
            message: None,
            verdict_top: 0,
            rounds: Rounds::default(),
            has_keys: true,
            has_ended: false,
        }
    }

    pub(super) fn status(&self) -> &Value {
        self.pages.value(ViewPage::Status)
    }

    pub(super) fn table(&self) -> &TableState {
        &self.tables[self.view as usize]
    }

    pub(super) fn table_mut(&mut self) -> &mut TableState {
        &mut self.tables[self.view as usize]
    }

    /// Returns the filter of the table, also while it is typed.
    pub(super) fn filter(&self) -> &str {
        match &self.prompt {
            TopPrompt::Filter(text) => text,
            _ => &self.table().filter,
        }
    }

    pub(super) fn say(&mut self, text: impl AsRef<str>, is_fault: bool) {
        self.message = Some(TopMessage { text: shortened(text.as_ref()), is_fault });
    }
}

/// Returns the first characters of a text of the server, which may be a page of another program.
fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}
