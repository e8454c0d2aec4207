//! Bulk transfer, as one stream and as many streams.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::{ChildGuard, Directory, Lines, Program, run};
use crate::support::{Backend, PATIENCE, pattern, wait_for};

fn configuration(backend: SocketAddr, engine: &str) -> String {
    format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\nengine = \"{engine}\"\n\
         [pool.main]\nbackends = [\"{backend}\"]\nhealth.check = \"off\"\n"
    )
}

/// Computes a SHA-256 in another program, which is fast even where this test is not optimised.
struct Digest {
    program: ChildGuard,
    input: ChildStdin,
    said: Arc<Lines>,
}

impl Digest {
    fn start() -> Self {
        let mut command = Command::new("openssl");
        let mut program =
            ChildGuard::spawn(command.args(["dgst", "-sha256"]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let (input, output) = (program.0.stdin.take().unwrap(), program.0.stdout.take().unwrap());
        Self { program, input, said: Lines::follow(output) }
    }

    fn finish(self) -> String {
        let Self { mut program, input, said } = self;
        drop(input);
        program.wait();
        said.wait_for("= ")
    }
}

/// Sends and receives 4 GiB at the same time. Returns the digests of the sent and of the received bytes.
fn exchange(stream: TcpStream, seed: u64) -> (String, String) {
    const LENGTH: usize = 4 << 30;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut to = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        // No buffer size divides this length.
        let block = pattern((1 << 20) + 4099, seed);
        let mut digest = Digest::start();
        let mut left = LENGTH;
        while left > 0 {
            let bytes = &block[..left.min(block.len())];
            to.write_all(bytes).unwrap();
            digest.input.write_all(bytes).unwrap();
            left -= bytes.len();
        }
        to.shutdown(Shutdown::Write).unwrap();
        digest.finish()
    });
    let mut digest = Digest::start();
    let mut buffer = vec![0; 1 << 20];
    let (mut from, mut received) = (stream, 0);
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => break,
            n => {
                digest.input.write_all(&buffer[..n]).unwrap();
                received += n;
            }
        }
    }
    assert_eq!(received, LENGTH);
    (sending.join().unwrap(), digest.finish())
}

#[test]
#[ignore = "needs openssl and half a minute"]
fn four_gibibytes_arrive_each_way() {
    let (to_test, of_backend) = mpsc::channel();
    let to_test = Mutex::new(to_test);
    let backend = Backend::serve(move |stream| {
        let digests = exchange(stream, 2);
        to_test.lock().unwrap().send(digests).unwrap();
    });
    let program = Program::start(&configuration(backend.address, "auto"));
    let (sent, received) = exchange(TcpStream::connect(program.address("main")).unwrap(), 1);
    let (sent_back, arrived) = of_backend.recv_timeout(PATIENCE).unwrap();
    assert_eq!((arrived, received), (sent.clone(), sent_back.clone()));
    assert_ne!(sent, sent_back);
    assert!(program.sum("pointsman_bytes_total", r#"engine="spliced""#) > 8e9);
    assert_eq!(program.sum("pointsman_pipe_fallbacks_total", ""), 0.0, "{}", program.ask("/metrics"));
    let record = program.wait_for_record("the record", |_| true);
    let bytes = u64::from(u32::MAX) + 1;
    assert_eq!((&record["from_client_bytes"], &record["from_backend_bytes"]), (&bytes.into(), &bytes.into()));
    program.stop();
}

/// A gate that many threads wait for.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        let (open, _) = self.0.1.wait_timeout_while(open, PATIENCE * 2, |open| !*open).unwrap();
        assert!(*open, "the gate did not open");
    }
}

/// The kernel allows an ordinary user 64 MiB of pipes (`fs.pipe-user-pages-soft`). These streams need more
/// while their backend does not read.
#[test]
#[ignore = "needs root, to become nobody"]
fn an_ordinary_user_runs_out_of_pipes_and_nothing_else() {
    const STREAMS: usize = 100;
    const LENGTH: usize = 8 << 20;
    let gate = Gate::default();
    let waiting = gate.clone();
    let backend = Backend::serve(move |stream| {
        waiting.pass();
        let mut back = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut &stream, &mut back);
    });
    let directory = Directory::new();
    // The directory where cargo builds may be closed to other users.
    let binary = directory.file("pointsman");
    std::fs::copy(env!("CARGO_BIN_EXE_pointsman"), &binary).unwrap();
    run(Command::new("chown").arg("nobody").arg(&directory.0));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    command.arg(binary);
    let program = Program::start_by(command, directory, &configuration(backend.address, "splice"));
    let address = program.address("main");

    let bytes = pattern(LENGTH + STREAMS, 7);
    thread::scope(|scope| {
        for number in 0..STREAMS {
            let own = &bytes[number..][..LENGTH];
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
                let mut to = stream.try_clone().unwrap();
                scope.spawn(move || {
                    to.write_all(own).unwrap();
                    to.shutdown(Shutdown::Write).unwrap();
                });
                let mut received = Vec::with_capacity(LENGTH);
                stream.read_to_end(&mut received).unwrap();
                assert!(received == own, "stream {number}: {} bytes, or others", received.len());
            });
        }
        wait_for("a refused pipe", || {
            program.sum("pointsman_pipe_fallbacks_total", r#"reason="size""#) > 0.0
        });
        gate.open();
    });
    for engine in ["copied", "spliced"] {
        assert!(program.sum("pointsman_bytes_total", &format!("engine=\"{engine}\"")) > 1e6, "{engine}");
    }
    program.stop();
}
