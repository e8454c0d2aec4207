//! Writes the text format of Prometheus, for numbers that other modules keep and that are read at each scrape.
//! These are the numbers of backends, which come and go, and the kernel's figures of the process. The families are
//! in [`metrics::families`](super::metrics::families) like all others.

use std::fmt::Write as _;

use super::metrics::{Distribution, MetricDoc, families};
use crate::sys::process::Figures;

/// A text that is being written: the head of each family once, then its samples.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Continues a text, such as the text of [`Metrics::render`](super::Metrics::render). The text ends with a whole
    /// line.
    pub fn after(text: String) -> Self {
        Self { text }
    }

    /// Begins a family with its HELP and TYPE. A family may be begun only once, and its samples must follow before
    /// the next family.
    pub fn family(&mut self, metric: &'static MetricDoc) -> FamilyWriter<'_> {
        let MetricDoc { name, kind, meaning, .. } = metric;
        let help = meaning.replace('\\', "\\\\").replace('\n', "\\n");
        _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
        FamilyWriter { text: &mut self.text, metric }
    }

    /// Writes the `process_*` families.
    pub fn process(&mut self, figures: &Figures) {
        let mut one = |metric: &'static MetricDoc, value: f64| {
            self.family(metric).sample(&[], value);
        };
        one(&families::CPU_SECONDS, figures.cpu_seconds);
        one(&families::RESIDENT_MEMORY, figures.resident_bytes as f64);
        one(&families::OPEN_FDS, figures.open_descriptors as f64);
        one(&families::MAX_FDS, figures.descriptor_limit as f64);
        one(&families::START_TIME, figures.started_at);
        one(&families::THREADS, figures.threads as f64);
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub struct FamilyWriter<'a> {
    text: &'a mut String,
    metric: &'static MetricDoc,
}

impl FamilyWriter<'_> {
    /// Writes one sample, with the family's labels in their order. Label values may hold any character. Whole numbers
    /// up to 2^53 are exact.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        debug_assert!(labels.iter().map(|(name, _)| name).eq(self.metric.labels), "{labels:?}");
        self.line("", labels, None, value);
        self
    }

    /// Writes the samples of a histogram, with the family's labels in their order.
    pub fn distribution(&mut self, labels: &[(&str, &str)], distribution: &Distribution) -> &mut Self {
        debug_assert!(labels.iter().map(|(name, _)| name).eq(self.metric.labels), "{labels:?}");
        let (buckets, all) = distribution.buckets();
        for (bound, count) in buckets {
            self.line("_bucket", labels, Some(&bound.to_string()), count as f64);
        }
        self.line("_bucket", labels, Some("+Inf"), all as f64);
        self.line("_sum", labels, None, distribution.seconds());
        self.line("_count", labels, None, all as f64);
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: f64) {
        _ = write!(self.text, "{}{suffix}", self.metric.name);
        let mut before = '{';
        for (name, label) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.text.push(before);
            before = ',';
            _ = write!(self.text, "{name}=\"");
            push_label(self.text, label);
            self.text.push('"');
        }
        let end = if before == '{' { "" } else { "}" };
        _ = writeln!(self.text, "{end} {value}");
    }
}

/// Appends a label value. The format escapes these three characters and takes all others as UTF-8.
fn push_label(text: &mut String, label: &str) {
    for c in label.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            _ => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::families::{BACKEND_UP, HASH_TABLE_INFO};
    use super::*;

    fn check(label: &str, expected: &str) {
        let mut exposition = Exposition::default();
        exposition.family(&HASH_TABLE_INFO).sample(&[("pool", label), ("digest", "0a")], 1.0);
        let text = exposition.finish();
        let sample = text.lines().nth(2).unwrap();
        assert_eq!(sample, format!("pointsman_hash_table_info{{pool=\"{expected}\",digest=\"0a\"}} 1"));
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn labels_are_escaped() {
        check("mail", "mail");
        check("a\"b", r#"a\"b"#);
        check("a\\b\\\\", r"a\\b\\\\");
        check("a\nb", r"a\nb");
        check("unix:/run/é", "unix:/run/é");
    }

    #[test]
    fn a_text_is_continued() {
        let mut exposition = Exposition::after("first 1\n".to_owned());
        exposition
            .family(&BACKEND_UP)
            .sample(&[("pool", "p"), ("backend", "a")], 1.0)
            .sample(&[("pool", "p"), ("backend", "b")], 0.0);
        let expected = concat!(
            "first 1\n",
            "# HELP pointsman_backend_up 1 if the backend takes new connections, 0 in any other state.\n",
            "# TYPE pointsman_backend_up gauge\n",
            "pointsman_backend_up{pool=\"p\",backend=\"a\"} 1\n",
            "pointsman_backend_up{pool=\"p\",backend=\"b\"} 0\n",
        );
        assert_eq!(exposition.finish(), expected);
    }

    #[test]
    fn large_and_small_numbers_are_exact() {
        let figures = Figures {
            cpu_seconds: 1.25,
            resident_bytes: 1 << 53,
            open_descriptors: 12,
            descriptor_limit: 1_048_576,
            started_at: 1_700_000_000.5,
            threads: 5,
        };
        let mut exposition = Exposition::default();
        exposition.process(&figures);
        let text = exposition.finish();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "process_cpu_seconds_total 1.25",
                "process_resident_memory_bytes 9007199254740992",
                "process_open_fds 12",
                "process_max_fds 1048576",
                "process_start_time_seconds 1700000000.5",
                "process_threads 5",
            ]
        );
    }
}
