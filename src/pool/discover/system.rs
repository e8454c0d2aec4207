//! The two files that define the name resolution of this system, and the tasks that follow them.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::fault::{DnsFault, FILE_PATIENCE, HOSTS, RESOLV_CONF};
use super::hosts::Hosts;
use super::resolv_conf::ResolvConf;
use crate::sys::watch::{FileWatch, LookResult};
use crate::sys::{file, process};

/// The largest file of hosts that is read. Lists that block names have a few MiB.
const LARGEST_FILE: u64 = 32 * 1024 * 1024;

/// The content of the two files: the hosts and the resolvers of this system.
#[derive(Clone, Debug)]
pub(super) struct NameSystem {
    pub(super) hosts: Arc<Hosts>,
    pub(super) resolv_conf: Arc<ResolvConf>,
}

/// The last content of the two files. `None` before the first read.
#[derive(Debug, Default)]
struct Files {
    hosts: Option<Arc<Hosts>>,
    resolv_conf: Option<Result<Arc<ResolvConf>, Arc<io::Error>>>,
}

/// Follows the two files. Each file has a task; the tasks end when the last clone is dropped.
#[derive(Clone, Debug)]
pub(in crate::pool) struct SystemNames {
    files: watch::Receiver<Files>,
    _tasks: Arc<SystemTasks>,
}

#[derive(Debug)]
struct SystemTasks([AbortHandle; 2]);

impl Drop for SystemTasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl SystemNames {
    /// Starts to follow the files.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub(in crate::pool) fn follow() -> Self {
        Self::follow_at(Path::new(HOSTS), Path::new(RESOLV_CONF))
    }

    fn follow_at(hosts: &Path, resolv_conf: &Path) -> Self {
        let (say, files) = watch::channel(Files::default());
        let say = Arc::new(say);
        let hosts = tokio::spawn(follow_hosts(hosts.into(), Arc::clone(&say)));
        let resolv_conf = tokio::spawn(follow_resolv_conf(resolv_conf.into(), say));
        Self { files, _tasks: Arc::new(SystemTasks([hosts.abort_handle(), resolv_conf.abort_handle()])) }
    }

    /// Returns the last content of the files. Waits for the first read of both.
    ///
    /// # Errors
    ///
    /// Fails if the file of resolvers cannot be read, or if the files were not read in time.
    pub(super) async fn now(&mut self) -> Result<NameSystem, DnsFault> {
        let are_read = |files: &Files| files.hosts.is_some() && files.resolv_conf.is_some();
        let Ok(Ok(files)) = timeout(FILE_PATIENCE, self.files.wait_for(are_read)).await else {
            return Err(DnsFault::Unread);
        };
        let (Some(hosts), Some(resolv_conf)) = (&files.hosts, &files.resolv_conf) else {
            return Err(DnsFault::Unread);
        };
        match resolv_conf {
            Ok(resolv_conf) => {
                Ok(NameSystem { hosts: Arc::clone(hosts), resolv_conf: Arc::clone(resolv_conf) })
            }
            Err(error) => Err(DnsFault::ResolvConf(Arc::clone(error))),
        }
    }

    /// Waits until the files have changed since the last [`SystemNames::now`] of this value, or since it was cloned.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) {
        // The sender is dropped only with the tasks, which this value holds.
        if self.files.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Follows the file of hosts. A missing file counts as an empty one. While the file cannot be read, its last content is
/// used.
async fn follow_hosts(path: Arc<Path>, say: Arc<watch::Sender<Files>>) {
    let mut watch = FileWatch::new(path);
    loop {
        let LookResult::Changed(read) = watch.look(|path| read(path).map(|text| Hosts::parse(&text))).await
        else {
            continue;
        };
        say.send_if_modified(|files| {
            let hosts = match (read, &files.hosts) {
                (Ok(hosts), _) => Arc::new(hosts),
                (Err(error), last) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file = HOSTS, %error, "the file of hosts cannot be read; its last content stays in force");
                    last.clone().unwrap_or_default()
                }
                (Err(_), _) => Arc::default(),
            };
            replace(&mut files.hosts, hosts)
        });
    }
}

/// Follows the file of resolvers. A missing file counts as an empty one.
async fn follow_resolv_conf(path: Arc<Path>, say: Arc<watch::Sender<Files>>) {
    let mut watch = FileWatch::new(path);
    loop {
        let read = |path: &Path| match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        };
        let look =
            watch.look(move |path| read(path).map(|text| ResolvConf::parse(&text, &process::host_name())));
        let LookResult::Changed(read) = look.await else { continue };
        say.send_if_modified(|files| match (read, &mut files.resolv_conf) {
            (Ok(read), Some(Ok(last))) => {
                let differs = **last != read;
                *last = Arc::new(read);
                differs
            }
            (Err(error), Some(Ok(_))) => {
                tracing::warn!(file = RESOLV_CONF, %error, "the file of resolvers cannot be read; its last content stays in force");
                false
            }
            (read, files) => {
                *files = Some(read.map(Arc::new).map_err(Arc::new));
                true
            }
        });
    }
}

fn replace<T: PartialEq>(last: &mut Option<Arc<T>>, new: Arc<T>) -> bool {
    let differs = last.as_ref() != Some(&new);
    *last = Some(new);
    differs
}

/// Reads a whole file. Blocks the thread.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 32 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    /// Long enough for a loaded machine; no test waits for it to pass.
    const PATIENCE: Duration = Duration::from_secs(60);

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pointsman-system-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn wait_for(names: &mut SystemNames, is_so: impl Fn(&NameSystem) -> bool) {
        let wait = async {
            while !names.now().await.is_ok_and(|system| is_so(&system)) {
                names.changed().await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap();
    }

    #[tokio::test]
    async fn both_files_are_followed() {
        let directory = Directory::new("followed");
        let (hosts, resolv_conf) = (directory.file("hosts"), directory.file("resolv.conf"));
        let mut names = SystemNames::follow_at(&hosts, &resolv_conf);
        let local: IpAddr = [127, 0, 0, 1].into();
        // Without the files the resolver is this host, as in glibc.
        wait_for(&mut names, |system| system.resolv_conf.servers == [local]).await;
        fs::write(&hosts, "10.0.0.1 app\n").unwrap();
        wait_for(&mut names, |system| system.hosts.addresses("app").is_some()).await;
        fs::write(directory.file("new"), "nameserver 10.0.0.53\n").unwrap();
        fs::rename(directory.file("new"), &resolv_conf).unwrap();
        wait_for(&mut names, |system| system.resolv_conf.servers != [local]).await;
        fs::remove_file(&hosts).unwrap();
        wait_for(&mut names, |system| system.hosts.addresses("app").is_none()).await;
    }

    #[tokio::test]
    async fn a_file_of_another_kind_is_a_fault_until_it_is_right() {
        let directory = Directory::new("kind");
        let resolv_conf = directory.file("resolv.conf");
        fs::create_dir(&resolv_conf).unwrap();
        let mut names = SystemNames::follow_at(&directory.file("hosts"), &resolv_conf);
        assert!(matches!(names.now().await, Err(DnsFault::ResolvConf(_))));
        fs::remove_dir(&resolv_conf).unwrap();
        fs::write(&resolv_conf, "nameserver 10.0.0.53\n").unwrap();
        wait_for(&mut names, |system| !system.resolv_conf.is_by_default).await;
    }
}
