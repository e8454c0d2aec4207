//! The median of some values, and their range.

/// The median of some values, and their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Returns `None` if there is no value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, low, high })
    }

    /// Returns the text of a table cell; without a range if low and high have the same text.
    pub(crate) fn show(self, decimals: usize) -> String {
        let [median, low, high] =
            [self.median, self.low, self.high].map(|value| format!("{value:.decimals$}"));
        if low == high { median } else { format!("{median} [{low}-{high}]") }
    }
}
