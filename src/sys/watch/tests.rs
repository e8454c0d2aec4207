use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::runtime::Builder;

use super::*;

/// Short enough that some pass in a test.
const PERIOD: Duration = Duration::from_millis(150);

/// Long enough for a loaded machine; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

struct WatchedFolder(PathBuf);

impl WatchedFolder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("pointsman-watch-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn watch(&self, name: &str, period: Duration) -> FileWatch {
        FileWatch::with_period(self.at(name).into(), LookReason::First, period)
    }
}

impl Drop for WatchedFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn block_on(test: impl Future<Output = ()>) {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| error.kind().to_string())
}

/// Returns the value of the next change.
async fn next(watch: &mut FileWatch) -> String {
    let change = async {
        loop {
            if let LookResult::Changed(text) = watch.look(text).await {
                return text;
            }
        }
    };
    timeout(PATIENCE, change).await.expect("a change is found")
}

fn stamp(size: u64) -> FileStamp {
    FileStamp::File { device: 1, inode: 1, size, modified: (1, 1), changed: (1, 1) }
}

#[test]
fn what_is_read_and_what_is_not() {
    use LookDecision::{Read, Same, Unsettled};
    use LookReason::{Begun, First, Period, Unknown, Whole};
    let check = |reason, is_link, seen: Option<u64>, unsettled: Option<u64>, found, expected| {
        let (seen, unsettled) = (seen.map(stamp), unsettled.map(stamp));
        let verdict = judge(reason, is_link, &stamp(found), seen.as_ref(), unsettled.as_ref());
        assert_eq!(verdict, expected, "{reason:?} {is_link} {seen:?} {unsettled:?} {found}");
    };
    check(First, false, None, None, 1, Read);
    for reason in [Whole, Begun, Unknown, Period] {
        check(reason, true, Some(1), None, 1, Same);
        check(reason, true, Some(1), Some(2), 1, Same);
    }
    check(Unknown, false, None, None, 1, Unsettled);
    check(Period, false, None, Some(1), 1, Read);
    check(Whole, false, Some(1), None, 2, Read);
    check(Whole, false, Some(1), Some(2), 2, Read);
    check(Begun, true, Some(1), None, 2, Read);
    check(Begun, false, Some(1), None, 2, Unsettled);
    check(Begun, false, Some(1), Some(2), 2, Unsettled);
    check(Unknown, false, Some(1), Some(2), 2, Unsettled);
    check(Period, true, Some(1), None, 2, Unsettled);
    check(Period, false, Some(1), Some(2), 3, Unsettled);
    check(Period, false, Some(1), Some(2), 2, Read);
    let missing = FileStamp::Missing(io::ErrorKind::NotFound);
    assert_eq!(judge(Begun, false, &missing, Some(&stamp(1)), None), Read, "it was removed");
}

/// The period is so long that no look without a reason falls into a test.
#[test]
fn a_whole_file_is_read_at_once() {
    let folder = WatchedFolder::new();
    let mut watch = folder.watch("a.txt", PATIENCE * 10);
    block_on(async {
        assert_eq!(next(&mut watch).await, "entity not found");
        folder.write("a.txt", "one");
        assert_eq!(next(&mut watch).await, "one");
        folder.write("a.new", "two");
        folder.rename("a.new", "a.txt");
        assert_eq!(next(&mut watch).await, "two");
        folder.rename("a.txt", "a.old");
        assert_eq!(next(&mut watch).await, "entity not found");
        std::os::unix::fs::symlink("a.old", folder.at("a.txt")).unwrap();
        assert_eq!(next(&mut watch).await, "two");
        folder.write("a.old", "three");
        assert_eq!(next(&mut watch).await, "three");
        fs::remove_file(folder.at("a.txt")).unwrap();
        assert_eq!(next(&mut watch).await, "entity not found");
    });
}

/// A program removes the file and writes it again, which takes longer than a burst of changes.
#[test]
fn a_file_that_is_removed_and_written_anew_is_read_when_it_is_whole() {
    let folder = WatchedFolder::new();
    let mut watch = folder.watch("a.txt", PATIENCE * 10);
    let begin: [fn(&WatchedFolder); 2] =
        [|folder| fs::remove_file(folder.at("a.txt")).unwrap(), |folder| folder.rename("a.txt", "a.old")];
    block_on(async {
        folder.write("a.txt", "old");
        assert_eq!(next(&mut watch).await, "old");
        for begin in begin {
            begin(&folder);
            let mut file = File::create(folder.at("a.txt")).unwrap();
            file.write_all(b"ha").unwrap();
            // The look that the removal causes.
            assert_eq!(timeout(PATIENCE, watch.look(text)).await, Ok(LookResult::Same));
            file.write_all(b"lf").unwrap();
            drop(file);
            assert_eq!(next(&mut watch).await, "half");
        }
    });
}

#[test]
fn a_volume_that_is_turned_is_read_at_once() {
    let folder = WatchedFolder::new();
    for version in ["1", "2"] {
        fs::create_dir(folder.at(version)).unwrap();
        folder.write(&format!("{version}/a.txt"), version);
    }
    std::os::unix::fs::symlink("1", folder.at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.txt", folder.at("a.txt")).unwrap();
    let mut watch = folder.watch("a.txt", PATIENCE * 10);
    block_on(async {
        assert_eq!(next(&mut watch).await, "1");
        std::os::unix::fs::symlink("2", folder.at("..tmp")).unwrap();
        folder.rename("..tmp", "..data");
        assert_eq!(next(&mut watch).await, "2");
    });
}

/// The file grows before each look, so no two looks find it the same.
#[test]
fn a_file_that_is_being_written_is_not_read_until_it_is_closed() {
    let folder = WatchedFolder::new();
    folder.write("a.txt", "whole");
    let mut watch = folder.watch("a.txt", PERIOD);
    block_on(async {
        assert_eq!(next(&mut watch).await, "whole");
        let mut file = File::create(folder.at("a.txt")).unwrap();
        for part in ["h", "a", "l", "f"] {
            assert_eq!(watch.look(text).await, LookResult::Same);
            file.write_all(part.as_bytes()).unwrap();
        }
        drop(file);
        assert_eq!(next(&mut watch).await, "half");
    });
}

/// On a network file system no watch reports a write of another machine.
#[test]
fn a_file_without_reports_is_read_when_it_stands_still() {
    let folder = WatchedFolder::new();
    folder.write("a.txt", "one");
    // A link into another directory is not watched.
    fs::create_dir(folder.at("links")).unwrap();
    std::os::unix::fs::symlink("../a.txt", folder.at("links/a.txt")).unwrap();
    let mut watch = folder.watch("links/a.txt", PERIOD);
    block_on(async {
        assert_eq!(next(&mut watch).await, "one");
        folder.write("a.txt", "two!");
        let begun = Instant::now();
        assert_eq!(watch.look(text).await, LookResult::Same, "it is seen for the first time");
        assert_eq!(watch.look(text).await, LookResult::Changed("two!".to_owned()));
        assert!(begun.elapsed() >= PERIOD * 2);
        assert_eq!(watch.look(text).await, LookResult::Same);
    });
}

#[test]
fn a_file_that_was_read_a_moment_ago_is_not_trusted_at_the_first_look() {
    let folder = WatchedFolder::new();
    folder.write("a.txt", "half");
    let mut watch = FileWatch::with_period(folder.at("a.txt").into(), LookReason::Unknown, PATIENCE * 10);
    block_on(async {
        assert_eq!(watch.look(text).await, LookResult::Same);
        folder.write("a.txt", "whole");
        assert_eq!(next(&mut watch).await, "whole");
    });
}

#[test]
fn changes_of_other_files_are_no_reason() {
    let folder = WatchedFolder::new();
    folder.write("a.txt", "whole");
    let mut watch = folder.watch("a.txt", PERIOD);
    block_on(async {
        assert_eq!(next(&mut watch).await, "whole");
        let file = File::create(folder.at("a.txt")).unwrap();
        folder.write("b.txt", "another one is closed meanwhile");
        let begun = Instant::now();
        assert_eq!(watch.look(text).await, LookResult::Same);
        assert!(begun.elapsed() >= PERIOD, "it was a look without a reason");
        drop(file);
        assert_eq!(next(&mut watch).await, "");
    });
}

#[test]
fn a_directory_that_comes_and_goes_is_watched_again() {
    let folder = WatchedFolder::new();
    let mut watch = folder.watch("d/a.txt", PERIOD);
    block_on(async {
        assert_eq!(next(&mut watch).await, "entity not found");
        fs::create_dir(folder.at("d")).unwrap();
        folder.write("d/a.txt", "one");
        assert_eq!(next(&mut watch).await, "one");
        fs::remove_dir_all(folder.at("d")).unwrap();
        assert_eq!(next(&mut watch).await, "entity not found");
        fs::create_dir(folder.at("d")).unwrap();
        folder.write("d/a.txt", "two");
        assert_eq!(next(&mut watch).await, "two");
    });
}
