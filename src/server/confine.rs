//! Gives up the rights that the process does not need, before it accepts connections.
//!
//! The configuration decides which capabilities and files are kept. A reload can add only what these rights allow.
//! Otherwise its error reports that a restart is needed.

#![allow(clippy::disallowed_methods, reason = "before the first thread")]

use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::pool::{DialSource, DiscoverSource, DiscoverSpec};
use crate::sys::Address;
use crate::sys::landlock::{self, Confinement, Grants, LandlockFault};
use crate::sys::privileges::{self, Capabilities};
use crate::sys::self_connect;
use crate::telemetry::AccessLogTarget;

/// The files of the kernel about this process and the machine: metrics, the number of processors, limits, the host
/// name.
const KERNEL_FILES: [&str; 6] = [
    "/proc/self",
    "/proc/stat",
    "/proc/sys/net/core",
    "/proc/sys/kernel",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
];

/// The files that a resolver of names reads.
const NAMES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// The directories to which `/etc/resolv.conf` leads on most systems. On other systems, the file becomes such a
/// link when another program begins to manage the network.
const RESOLVERS: [&str; 3] = ["/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"];

/// The reason why a process could not be confined as its configuration demands.
#[derive(Debug, thiserror::Error)]
pub enum ConfineFault {
    /// Capabilities could not be given up.
    #[error("cannot give up privileges: {0}")]
    Privileges(#[from] io::Error),
    /// Landlock is demanded and not available.
    #[error(
        "process.landlock = true, and Landlock is not available: {0}; remove the key to run without Landlock"
    )]
    Landlock(String),
}

/// Confines the calling thread and all threads that it starts later. It must run on the first thread, before
/// another thread is started. The result is logged. `file` is the configuration file, or `None` for a
/// configuration of the command line.
///
/// # Errors
///
/// If the kernel refuses, or if Landlock is demanded and not available.
pub fn confine(config: &Config, file: Option<&Path>) -> Result<(), ConfineFault> {
    // The value comes from a file that Landlock makes unreadable.
    self_connect::learn();
    privileges::gain_no_more()?;
    let held = Capabilities::held()?;
    let left = privileges::keep_only(needed(config, held))?;
    if privileges::is_root() {
        tracing::warn!(
            "running as root: a fault of this process can reach every file; run the process as a separate \
             user, as dist/pointsman.service does; see docs/operate/hardening.md"
        );
    }
    let landlock = match config.landlock {
        Some(false) => "off: process.landlock = false".to_owned(),
        demanded => match landlock(config, file) {
            Ok(word) => word.to_owned(),
            Err(why) if demanded.is_some() => return Err(ConfineFault::Landlock(why)),
            Err(why) => format!("off: {why}"),
        },
    };
    tracing::info!(capabilities = %left, no_new_privileges = true, %landlock, "confined");
    Ok(())
}

/// Returns the capabilities that must stay. Reloads need the capability for low ports. If a pool uses foreign
/// source addresses, it needs one of two capabilities. The capability that can do less harm is kept.
fn needed(config: &Config, held: Capabilities) -> Capabilities {
    let is_transparent = config.pools.iter().any(|pool| pool.dial.source == DialSource::Client);
    let transparent = match held.and(Capabilities::NET_RAW).is_empty() {
        _ if !is_transparent => Capabilities::NONE,
        true => Capabilities::NET_ADMIN,
        false => Capabilities::NET_RAW,
    };
    Capabilities::NET_BIND_SERVICE.or(transparent)
}

/// Confines the process to the files that it needs, or returns why not.
fn landlock(config: &Config, file: Option<&Path>) -> Result<&'static str, String> {
    let grants = grants(config, file)?;
    match landlock::confine(&grants) {
        Ok(Confinement::Full) => Ok("on"),
        Ok(Confinement::Partial) => Ok("on, as far as this kernel supports it"),
        Ok(Confinement::Absent) => Err("this kernel has none, or it is not among its lsm=".to_owned()),
        Err(LandlockFault::Path { path, source }) => Err(format!("{}: {source}", path.display())),
        Err(fault) => Err(fault.to_string()),
    }
}

/// Returns the files that the process must reach.
///
/// # Errors
///
/// The reason why Landlock could break the configuration.
fn grants(config: &Config, file: Option<&Path>) -> Result<Grants, String> {
    let mut grants = Grants::default();
    for path in read(config, file) {
        grants.read.insert(directory(&path)?);
    }
    for path in written(config) {
        grants.write.insert(directory(&path)?);
    }
    let own = std::env::current_exe().ok();
    let there = KERNEL_FILES.iter().chain(&NAMES).map(PathBuf::from).chain(own);
    grants.read.extend(there.filter(|path| path.exists()));
    // A resolver's file is replaced rather than written, often through a link.
    if uses_dns(config) {
        NAMES.iter().try_for_each(|path| check_link(Path::new(path)))?;
        grants.read.insert("/etc".into());
        grants.read.extend(RESOLVERS.iter().map(PathBuf::from).filter(|path| path.exists()));
        let real = NAMES.iter().filter_map(|path| Path::new(path).canonicalize().ok());
        grants.read.extend(real.filter_map(|path| path.parent().map(Path::to_owned)));
    }
    Ok(grants)
}

/// Returns the files that are read again while the process runs.
fn read(config: &Config, file: Option<&Path>) -> Vec<PathBuf> {
    let routes = config.listeners.iter().filter_map(|listener| listener.policy.routes_file.as_ref());
    let sources = config.pools.iter().flat_map(|pool| &pool.discover);
    let discovered = sources.filter_map(|discover| match &discover.source {
        DiscoverSource::File(path) => Some(path.to_path_buf()),
        DiscoverSource::Dns(_) => None,
    });
    let token = config.admins().filter_map(|admin| admin.token_file.clone());
    let files = file.map(Path::to_owned).into_iter().chain(token).chain(discovered);
    let lists = config.lists.iter().filter_map(|list| Some(list.file.as_ref()?.source.path.to_path_buf()));
    let near = config.pools.iter().filter_map(|pool| pool.tiers.near.as_ref());
    let databases = near.map(|near| near.source.path.to_path_buf());
    let authorities = config.pools.iter().filter_map(|pool| {
        let ca = pool.health.as_ref()?.tls.as_ref()?.ca.as_ref()?;
        Some(ca.path.to_path_buf())
    });
    files
        .chain(routes.map(|file| file.path.to_path_buf()))
        .chain(lists)
        .chain(databases)
        .chain(authorities)
        .collect()
}

/// Returns the files that are made, written or removed.
fn written(config: &Config) -> Vec<PathBuf> {
    let log = match &config.access_log.to {
        AccessLogTarget::File(path) => Some(path.clone()),
        AccessLogTarget::Off | AccessLogTarget::Stdout => None,
    };
    let admin = config.admins().map(|admin| &admin.listen);
    let binds = config.listeners.iter().flat_map(|listener| &listener.binds).chain(admin);
    let sockets = binds.filter_map(|bind| match bind {
        Address::Unix(path) => Some(path.to_path_buf()),
        Address::Tcp(_) | Address::Scoped(_) => None,
    });
    let handover = config.handover.socket().map(|path| path.to_path_buf());
    log.into_iter().chain(sockets).chain(handover).collect()
}

fn uses_dns(config: &Config) -> bool {
    config.pools.iter().any(|pool| {
        let is_dns = |discover: &DiscoverSpec| matches!(discover.source, DiscoverSource::Dns(_));
        pool.forward.is_some() || pool.discover.iter().chain(&pool.check_names).any(is_dns)
    })
}

/// Returns the directory of a file. The file may be added, removed and replaced in it.
fn directory(path: &Path) -> Result<PathBuf, String> {
    let written = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = written.canonicalize().map_err(|error| format!("{}: {error}", written.display()))?;
    if let Some(link) = link_on_the_way(written) {
        return Err(format!(
            "{} is a link to a directory, which may lead to another one tomorrow",
            link.display()
        ));
    }
    check_link(path)?;
    match path.canonicalize() {
        Ok(file) if !file.starts_with(&directory) => Err(format!(
            "{} is a link out of its directory, which may lead elsewhere tomorrow",
            path.display()
        )),
        _ => Ok(directory),
    }
}

/// Returns a link in the path of a directory; releases are often switched by such a link. The links of the system in
/// `/` and `/var`, such as `/var/run`, do not count: they do not change.
fn link_on_the_way(directory: &Path) -> Option<PathBuf> {
    let is_of_the_system =
        |path: &Path| [Some(Path::new("/")), Some(Path::new("/var"))].contains(&path.parent());
    let absolute = std::path::absolute(directory).ok()?;
    let mut links = absolute.ancestors().filter(|path| path.is_symlink() && !is_of_the_system(path));
    links.next().map(Path::to_owned)
}

/// Fails for a link whose target does not exist yet: the directory of that target cannot be predicted.
fn check_link(path: &Path) -> Result<(), String> {
    match path.is_symlink() && path.metadata().is_err() {
        true => Err(format!("{} is a link to a file that does not exist yet", path.display())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::pool::near::{NearSource, NearSpec, Sites};
    use crate::pool::{CaFile, HealthSpec, TlsSpec};

    fn config(keys: &str, pool: &str, others: &str) -> Config {
        let text = format!(
            "access_log.to = 'off'\n{others}\n[listener.a]\nbind = ['127.0.0.1:0']\n{keys}\n\
             [pool.a]\nhealth.check = 'off'\n{pool}"
        );
        crate::config::parse("test.toml", &text).map(|(config, _)| config).unwrap()
    }

    const TCP: &str = "pool = 'a'";
    const BACKENDS: &str = "backends = ['10.0.0.1:1']";

    #[test]
    fn capabilities_that_are_needed() {
        let check = |pool: &str, held: Capabilities, expected: Capabilities| {
            let config = config(TCP, &format!("{BACKENDS}\n{pool}"), "");
            assert_eq!(needed(&config, held), expected, "{pool}");
        };
        let (bind, raw, admin) =
            (Capabilities::NET_BIND_SERVICE, Capabilities::NET_RAW, Capabilities::NET_ADMIN);
        check("", raw.or(admin).or(bind), bind);
        check("source = '10.0.0.5'", raw.or(admin), bind);
        check("source = 'client'", raw.or(admin), bind.or(raw));
        check("source = 'client'", admin, bind.or(admin));
        check("source = 'client'", Capabilities::NONE, bind.or(admin));
    }

    /// A directory with the directories `etc` and `log` in it; removed at the end.
    struct ConfinedDirectory(PathBuf);

    impl ConfinedDirectory {
        fn new(test: &str) -> Self {
            let root = std::env::temp_dir().join(format!("pointsman-confine-{test}-{}", std::process::id()));
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::create_dir_all(root.join("log")).unwrap();
            Self(root.canonicalize().unwrap())
        }

        fn text(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }
    }

    impl Drop for ConfinedDirectory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn directories_of_files_are_granted() {
        let folder = ConfinedDirectory::new("grants");
        let (etc, log) = (folder.0.join("etc"), folder.0.join("log"));
        let mut config = config(TCP, BACKENDS, "");
        let none = grants(&config, None).unwrap();
        assert!(none.write.is_empty());
        assert!(!none.read.contains(&etc) && !none.read.contains(Path::new("/etc")));
        assert!(none.read.contains(Path::new("/proc/self")));
        config.access_log.to = AccessLogTarget::File(log.join("access.log"));
        config.listeners[0].binds.push(format!("unix:{}", folder.text("etc/s")).parse().unwrap());
        let some = grants(&config, Some(&etc.join("config.toml"))).unwrap();
        assert_eq!(some.write, [etc.clone(), log].into());
        assert!(some.read.contains(&etc));
    }

    #[test]
    fn every_kind_of_file_is_granted() {
        let admin = "[handover]\nsocket = '/h/handover'\n[admin]\nlisten = 'unix:/run/x/admin'\ntoken_file = '/a/token'\n[list.bad]\nfile = '/e/bad'\n\
             [list.near]\nfile = '/f/near.mmdb'\ncountries = 'DE'";
        let mut config =
            config("protocol = 'tls'\nroutes_file = '/b/routes'", "discover = { file = '/c/found' }", admin);
        let ca = CaFile { path: Path::new("/g/ca.pem").into(), certificates: [].into() };
        let tls = Some(TlsSpec { ca: Some(ca), ..TlsSpec::default() });
        config.pools[0].health = Some(HealthSpec { tls, ..HealthSpec::default() });
        let sites = Sites::For(vec![("a".into(), vec!["DE".parse().unwrap()])]);
        let source = NearSource { path: Path::new("/i/geo.mmdb").into(), sites: Arc::new(sites) };
        config.pools[0].tiers.near = Some(NearSpec { source, read: None });
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let files = read(&config, Some(Path::new("/d/config")));
        let expected = [
            "/d/config",
            "/a/token",
            "/c/found",
            "/b/routes",
            "/e/bad",
            "/f/near.mmdb",
            "/i/geo.mmdb",
            "/g/ca.pem",
        ];
        assert_eq!(files, paths(&expected));
        assert_eq!(written(&config), paths(&["/run/x/admin", "/h/handover"]));
    }

    /// Collects the names of the configuration keys that take the path of a file.
    fn keys_of_files(schema: &serde_json::Value, name: &str, found: &mut Vec<String>) {
        if schema["pattern"] == "[^/]$" {
            found.push(name.to_owned());
        }
        match schema {
            serde_json::Value::Object(members) => {
                for (key, value) in members {
                    let is_word =
                        ["anyOf", "properties", "items", "additionalProperties", "patternProperties"];
                    let name = if is_word.contains(&key.as_str()) { name } else { key };
                    keys_of_files(value, name, found);
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys_of_files(item, name, found)),
            _ => {}
        }
    }

    #[test]
    fn no_key_with_a_file_is_forgotten() {
        let schema = serde_json::from_str(include_str!("../../config.schema.json")).unwrap();
        let mut found = Vec::new();
        keys_of_files(&schema, "", &mut found);
        found.sort();
        // One key may be read in two forms.
        found.dedup();
        assert_eq!(
            found,
            ["ca_file", "database", "file", "routes_file", "token_file"],
            "each is to be granted by `read`, and tested above"
        );
    }

    #[test]
    fn names_need_the_files_of_the_resolver() {
        let dns = config(TCP, "discover = { dns = 'a.example', port = 1 }", "");
        assert!(grants(&dns, None).unwrap().read.contains(Path::new("/etc")));
    }

    #[test]
    fn links_that_may_change_are_refused() {
        let folder = ConfinedDirectory::new("links");
        let check =
            |path: &str, expected: Result<PathBuf, &str>| match (directory(&folder.0.join(path)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{path}"),
                (Err(fault), Err(part)) => assert!(fault.contains(part), "{path}: {fault}"),
                (found, _) => panic!("{path}: {found:?}"),
            };
        fs::write(folder.0.join("log/real"), "").unwrap();
        fs::write(folder.0.join("etc/inside"), "").unwrap();
        std::os::unix::fs::symlink(folder.0.join("log/real"), folder.0.join("etc/out")).unwrap();
        std::os::unix::fs::symlink("inside", folder.0.join("etc/in")).unwrap();
        check("etc/inside", Ok(folder.0.join("etc")));
        check("etc/not-yet", Ok(folder.0.join("etc")));
        check("etc/in", Ok(folder.0.join("etc")));
        check("etc/out", Err("is a link out of its directory"));
        check("nowhere/file", Err("No such file"));
        std::os::unix::fs::symlink("../log/late", folder.0.join("etc/late")).unwrap();
        check("etc/late", Err("is a link to a file that does not exist yet"));
        std::os::unix::fs::symlink("etc", folder.0.join("current")).unwrap();
        check("current/inside", Err("current is a link to a directory"));
        fs::create_dir(folder.0.join("etc/deep")).unwrap();
        check("current/deep/file", Err("current is a link to a directory"));
        assert_eq!(link_on_the_way(Path::new("/var/run/x")), None);
        assert!(directory(Path::new("/dev/null")).is_ok());
        assert_eq!(directory(Path::new("file")).unwrap(), std::env::current_dir().unwrap());
    }
}
