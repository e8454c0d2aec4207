//! The areas of the screen, from its size. The verdict comes first and takes at most a third.

use ratatui::layout::Rect;

/// The areas of one frame, from top to bottom. An area may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopAreas {
    pub(super) verdict: Rect,
    pub(super) charts: Rect,
    pub(super) tabs: Rect,
    pub(super) table: Rect,
    /// The charts, the tabs and the table together: the place of details and of the help.
    pub(super) body: Rect,
    pub(super) foot: Rect,
}

/// The lines that the parts of a frame need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeededLines {
    pub(super) verdict: usize,
    pub(super) foot: usize,
    /// True if there are charts, and not a note in their place.
    pub(super) has_charts: bool,
}

/// Divides a screen.
pub(super) fn divide(screen: Rect, needed: NeededLines) -> TopAreas {
    let all = screen.height;
    let lines = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
    let verdict = lines(needed.verdict).clamp(1, (all / 3).max(1)).min(all);
    // A question is whole, even if it hides all else.
    let least = u16::from(all >= 3);
    let foot = lines(needed.foot).max(least).min(if needed.foot > 1 { all } else { all.saturating_sub(1) });
    let verdict = verdict.min(all - foot);
    let body = all - verdict - foot;
    let tabs = u16::from(body >= 3);
    let charts = match (needed.has_charts, all) {
        (_, ..10) => 0,
        (false, _) => 1,
        (true, 10..20) => 2,
        (true, 20..32) => 3,
        (true, 32..48) => 5,
        (true, _) => 8,
    };
    let charts = if charts + tabs + 2 <= body { charts } else { 0 };
    let table = body - charts - tabs;
    let mut next = screen.y;
    let mut take = |height: u16| {
        let area = Rect { y: next, height, ..screen };
        next += height;
        area
    };
    let (verdict, charts, tabs, table, foot) =
        (take(verdict), take(charts), take(tabs), take(table), take(foot));
    TopAreas { verdict, charts, tabs, table, body: Rect { height: body, ..charts }, foot }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heights(width: u16, height: u16, verdict: usize, foot: usize) -> [u16; 5] {
        let needed = NeededLines { verdict, foot, has_charts: true };
        let areas = divide(Rect::new(0, 0, width, height), needed);
        [areas.verdict, areas.charts, areas.tabs, areas.table, areas.foot].map(|area| area.height)
    }

    #[test]
    fn the_verdict_takes_at_most_a_third() {
        assert_eq!(heights(80, 24, 1, 1), [1, 3, 1, 18, 1]);
        assert_eq!(heights(80, 24, 100, 1), [8, 3, 1, 11, 1]);
        assert_eq!(heights(200, 60, 100, 1), [20, 8, 1, 30, 1]);
        assert_eq!(heights(40, 12, 100, 1), [4, 2, 1, 4, 1]);
    }

    #[test]
    fn small_screens_keep_the_verdict_and_questions_are_whole() {
        assert_eq!(heights(80, 0, 5, 1), [0; 5]);
        assert_eq!(heights(80, 1, 5, 1), [1, 0, 0, 0, 0]);
        assert_eq!(heights(80, 2, 5, 1), [1, 0, 0, 0, 1]);
        assert_eq!(heights(20, 4, 5, 4), [0, 0, 0, 0, 4]);
        assert_eq!(heights(20, 6, 5, 4), [2, 0, 0, 0, 4]);
    }

    #[test]
    fn the_areas_fill_the_screen() {
        for height in 0..80 {
            for verdict in [0, 1, 5, 1000] {
                for foot in [0, 1, 3, 1000] {
                    let sum: u16 = heights(7, height, verdict, foot).iter().sum();
                    assert_eq!(sum, height, "{verdict} {foot}");
                }
            }
        }
    }
}
