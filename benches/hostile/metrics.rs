//! The metrics of the server.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A scrape has failed if it takes longer, or has more bytes than [`MOST`].
const PATIENCE: Duration = Duration::from_secs(5);
const MOST: u64 = 16 << 20;

/// All series and their values at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Scrapes the metrics.
    ///
    /// # Errors
    /// Returns an error if there is no whole answer in time.
    pub(crate) fn fetch(admin: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(MOST).read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(Self::read(body)),
            _ => Err(io::Error::other("/metrics did not answer as it should")),
        }
    }

    /// Parses the text of an answer.
    pub(crate) fn read(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = series.filter_map(|line| line.rsplit_once(' '));
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// Returns the sum over all series of a metric.
    pub(crate) fn sum(&self, metric: &str) -> f64 {
        let of = self.0.iter().filter(|(series, _)| series.split('{').next() == Some(metric));
        of.map(|(_, value)| value).sum()
    }

    /// Returns the growth since `earlier` for each value of a label, if there is any.
    pub(crate) fn growth(&self, earlier: &Self, metric: &str, label: &str) -> BTreeMap<String, f64> {
        let mut grown = BTreeMap::new();
        for (series, value) in &self.0 {
            let Some((name, labels)) = series.split_once('{') else { continue };
            let Some((_, word)) = labels.split_once(&format!("{label}=\"")) else { continue };
            let by = value - earlier.0.get(series).unwrap_or(&0.0);
            if name == metric && by > 0.0 {
                let word = word.split('"').next().unwrap_or_default();
                *grown.entry(word.to_owned()).or_default() += by;
            }
        }
        grown
    }
}
