//! The thread of control and its runtime.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};

use super::control::Control;
use super::sampler;
use super::signals::Signals;
use super::start::Server;

/// The time that the blocking threads may take to end when their runtime ends. Such a thread reads a file,
/// perhaps on a file system that never answers. Nothing depends on the result.
const LAST_READS: Duration = Duration::from_secs(1);

/// The most blocking threads beside the control loop: for files, and for slow pages of admin. A configuration
/// names fewer files than this. Each file holds at most one thread (`sys/file_call.rs`). A reload and each of
/// the few connections of admin hold one thread more. So files that hang take no thread from others. A thread
/// is started when it is needed, and ends after 10 s without work.
const BLOCKING_THREADS: usize = 16 * 1024;

/// The time that the access log may take to write its queue when the process ends. It also holds for destinations that
/// a reload removed shortly before.
const LAST_RECORDS: Duration = Duration::from_secs(2);

impl Server {
    /// Serves until a stop is requested and the connections have drained. `also` is the admin listener. It runs
    /// on the same runtime.
    ///
    /// # Errors
    ///
    /// If a worker ended without an order, or if connections did not end after the order to close them.
    pub fn run(self, signals: Signals, also: impl Future<Output = ()>) -> io::Result<()> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build_local(LocalOptions::default())?;
        let access_log = self.access_log.clone();
        let result = runtime.block_on(async {
            // The task ends with the runtime.
            tokio::spawn(sampler::sample(Arc::clone(&self.view)));
            let control = Control::new(self, signals)?;
            tokio::pin!(also);
            let mut served = std::pin::pin!(control.serve());
            tokio::select! {
                result = &mut served => result,
                // The admin listener does not end by itself; if it does, serving goes on.
                () = &mut also => served.await,
            }
        });
        // The access log itself logs the records that it abandons.
        let _ = access_log.shutdown(Instant::now() + LAST_RECORDS);
        runtime.shutdown_timeout(LAST_READS);
        result
    }
}
