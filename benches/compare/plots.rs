//! The plots of a run.

use std::fs;
use std::io;
use std::path::Path;

use crate::figures::{self, Figure, Results, Subject};
use crate::points::Test;
use crate::svg::Bars;

struct Plot {
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    decimals: usize,
    figure: Figure,
    tests: &'static [Test],
}

const PLOTS: &[Plot] = &[
    Plot {
        file: "throughput.svg",
        title: "Throughput of 8 streams",
        unit: "Gbit/s, more is better",
        decimals: 1,
        figure: figures::gigabits,
        tests: &[Test::Down, Test::Up],
    },
    Plot {
        file: "cpu-per-gib.svg",
        title: "CPU time of the proxy for one GiB",
        unit: "s, less is better",
        decimals: 2,
        figure: figures::cpu_per_gib,
        tests: &[Test::Down, Test::Up],
    },
    Plot {
        file: "cpu-per-connection.svg",
        title: "CPU time of the proxy for one short connection",
        unit: "µs, less is better",
        decimals: 0,
        figure: figures::cpu_micros,
        tests: &[Test::Conn],
    },
    Plot {
        file: "cpu-per-request.svg",
        title: "CPU time of the proxy for one round trip",
        unit: "µs, less is better",
        decimals: 1,
        figure: figures::cpu_micros,
        tests: &[Test::Pp64, Test::Pp4k],
    },
    Plot {
        file: "memory-per-idle-connection.svg",
        title: "User memory for one idle connection",
        unit: "KiB, less is better",
        decimals: 2,
        figure: figures::pss,
        tests: &[Test::Idle],
    },
];

fn word(subject: Subject) -> String {
    match subject.test {
        Test::Conn => "short connections".to_owned(),
        Test::Pp64 => "64 bytes".to_owned(),
        Test::Pp4k => "4 KiB".to_owned(),
        Test::Down => "from the backend".to_owned(),
        Test::Up => "to the backend".to_owned(),
        Test::Beside => "beside 40 streams".to_owned(),
        Test::Idle => format!("{} connections", subject.connections),
    }
}

/// Writes the plots of the tests that were run.
///
/// # Errors
/// Returns an error if the directory cannot be made, or a file cannot be written.
pub(crate) fn write(results: &Results, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for plot in PLOTS {
        let subjects: Vec<Subject> =
            results.subjects().into_iter().filter(|subject| plot.tests.contains(&subject.test)).collect();
        let tell = results.show_workers();
        let row =
            |variant| subjects.iter().map(|subject| results.spread(*subject, variant, plot.figure)).collect();
        let rows = results.variants().into_iter().map(|variant| (variant.name(tell), row(variant)));
        let groups: Vec<_> =
            rows.filter(|(_, values): &(_, Vec<_>)| values.iter().any(Option::is_some)).collect();
        if groups.is_empty() {
            continue;
        }
        let bars = Bars {
            title: plot.title.to_owned(),
            unit: plot.unit,
            decimals: plot.decimals,
            series: subjects.iter().map(|subject| word(*subject)).collect(),
            groups,
        };
        fs::write(directory.join(plot.file), bars.draw())?;
    }
    Ok(())
}
