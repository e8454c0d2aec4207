//! A server in a process of its own, for tests that count its descriptors or reduce them.
//!
//! The process is this test binary again. An environment variable makes it run one ignored test.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::resource::{Resource, setrlimit};
use pointsman::limit::Moment;
use pointsman::relay::EngineChoice;

use crate::support::pair::{patient, reset};
use crate::support::{Proxy, tcp, wait_for};

/// Backend, engine and spare descriptors of the server to start.
const TASK: &str = "POINTSMAN_TEST_CHILD";

/// The first character of each line of the child; the test harness writes to the same stream.
const MARK: char = '@';

/// The start of a question about the log instead of a series.
const LOGGED: &str = "logged ";

/// The question for readiness.
const READY: &str = "ready";

/// The log of the child.
static LOG: Mutex<String> = Mutex::new(String::new());

const ENGINES: [(&str, EngineChoice); 3] =
    [("auto", EngineChoice::Auto), ("splice", EngineChoice::Splice), ("copy", EngineChoice::Copy)];

/// A running server; it is killed when dropped.
pub(crate) struct Child {
    process: Process,
    address: SocketAddr,
    /// Locked for a question and its answer, so that several threads can ask.
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Child {
    /// Starts a server with one worker in front of a backend. `spare` is the number of descriptors that the
    /// server may still open after it listens.
    pub(crate) fn start(backend: SocketAddr, engine: EngineChoice, spare: Option<u64>) -> Self {
        let (word, _) = ENGINES.into_iter().find(|(_, choice)| *choice == engine).unwrap();
        let spare = spare.map_or("any".to_owned(), |spare| spare.to_string());
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "child::serve"])
            .env(TASK, format!("{backend} {word} {spare}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut stdout = BufReader::new(stdout);
        let address = answer(&mut stdout).parse().unwrap();
        Self { process, address, talk: Mutex::new((stdin, stdout)) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    /// Returns the value of a series.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdin, stdout) = &mut *talk;
        writeln!(stdin, "{series}").unwrap();
        answer(stdout).parse().unwrap()
    }

    /// Returns true if /ready reports ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.metric(READY) == 1.0
    }

    /// Returns the number of lines of the log that contain these words.
    pub(crate) fn logged(&self, words: &str) -> f64 {
        self.metric(&format!("{LOGGED}{words}"))
    }

    pub(crate) fn wait_for_metric(&self, series: &str, value: f64) {
        wait_for(&format!("{series} = {value}"), || self.metric(series) == value);
    }

    /// Returns the number of open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Returns the bytes of private memory that were written to.
    pub(crate) fn memory(&self) -> usize {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id())).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Returns the processor time so far, in clock ticks of usually 10 ms.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        [11, 12].iter().map(|field| fields[*field].parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn answer(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the child has ended");
        if let Some((_, answer)) = line.trim_end().split_once(MARK) {
            return answer.to_owned();
        }
    }
}

#[test]
#[ignore = "it is what the child process runs"]
fn serve() {
    let Ok(task) = env::var(TASK) else { return };
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(|| Log).init();
    let words: Vec<&str> = task.split(' ').collect();
    let (_, engine) = ENGINES.into_iter().find(|(word, _)| *word == words[1]).unwrap();
    let mut config = tcp(&[words[0].parse().unwrap()], engine);
    config.workers = 1;
    config.limits.overload.is_ready = false;
    config.max_connections = Some(100_000);
    let proxy = Proxy::start(config.clone());
    // The answer shows that the control loop has all its descriptors, and one whole connection shows the same
    // of the worker. From now on only clients and backends need descriptors.
    proxy.remote.reload(config).unwrap();
    reset(proxy.connect());
    proxy.wait_for_metric(r#"pointsman_connections_total{listener="main"}"#, 1.0);
    proxy.wait_for_metric(r#"pointsman_connections_active{listener="main"}"#, 0.0);
    let _plugs = words[2].parse().ok().map(leave_descriptors);
    println!("\n{MARK}{}", proxy.address("main"));
    for series in std::io::stdin().lines() {
        let series = series.unwrap();
        let answer = match series.strip_prefix(LOGGED) {
            None if series == READY => f64::from(proxy.remote.view().bounds.overload.is_ready(Moment::now())),
            None => proxy.metric(&series),
            Some(words) => LOG.lock().unwrap().lines().filter(|line| line.contains(words)).count() as f64,
        };
        println!("\n{MARK}{answer}");
    }
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lowers the limit so that just `spare` more descriptors can be opened. The limit bounds the numbers of
/// descriptors. So the returned files take the free numbers below those in use.
fn leave_descriptors(spare: u64) -> Vec<File> {
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let highest: i32 =
        numbers.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).max().unwrap();
    let mut plugs = Vec::new();
    loop {
        let plug = File::open("/dev/null").unwrap();
        let number = plug.as_raw_fd();
        plugs.push(plug);
        if number >= highest {
            let limit = u64::try_from(number).unwrap() + 1 + spare;
            setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
            return plugs;
        }
    }
}
