//! A disk in memory that loses what wasn't synced, tears writes, fills up and fails; and the embedded queue under random schedules on it.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use proptest::prelude::*;
use pushline_model::{DeadLetter, Offset, Timestamp};

use super::{append, checkpoint, dead_letter, dead_letters, number, options, partition, read_text};
use crate::{
    Append, AppendError, Filter, Partition, Queue, Read,
    embedded::{
        Embedded, Options,
        fs::{File, FileSystem},
        log::lock,
    },
    frame::tests::record,
};

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultyFileSystem(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    /// The names that are durable.
    synced_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    /// Bytes that one write may have.
    free: Option<u64>,
    /// Bytes that all writes from now on may have.
    free_in_all: Option<u64>,
    /// Syncs wait while the test holds this.
    stall: Option<Arc<Stall>>,
    /// Writes and syncs that are still let through before the machine dies.
    fuse: Option<u64>,
    syncs_fail: bool,
    locked: bool,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// What was written since, in order.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Debug)]
struct OpenFile {
    disk: FaultyFileSystem,
    content: Arc<Mutex<Content>>,
}

/// Makes syncs wait.
#[derive(Debug, Default)]
struct Stall {
    /// How many syncs wait, and whether they needn't any more.
    state: Mutex<(usize, bool)>,
    released: Condvar,
}

/// Held by the test. Dropping it lets the syncs go on.
pub(super) struct Hold(Arc<Stall>);

impl Hold {
    /// Whether a sync waits.
    pub(super) fn is_reached(&self) -> bool {
        lock(&self.0.state).0 > 0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.0.state).1 = true;
        self.0.released.notify_all();
    }
}

impl Stall {
    fn wait(&self) {
        let mut state = lock(&self.state);
        state.0 += 1;
        drop(self.released.wait_while(state, |(_, is_over)| !*is_over).unwrap());
    }
}

impl FaultyFileSystem {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn set_free(&self, bytes: u64) {
        lock(&self.0).free = Some(bytes);
    }

    /// From now on that many bytes can be written.
    pub(super) fn set_free_in_all(&self, bytes: u64) {
        lock(&self.0).free_in_all = Some(bytes);
    }

    /// Syncs wait from now on, until what is returned is dropped.
    pub(super) fn stall_syncs(&self) -> Hold {
        let stall = Arc::new(Stall::default());
        lock(&self.0).stall = Some(Arc::clone(&stall));
        Hold(stall)
    }

    pub(super) fn fail_syncs(&self, fail: bool) {
        lock(&self.0).syncs_fail = fail;
    }

    /// After so many more writes and syncs every one fails: the machine is failing.
    pub(super) fn die_after(&self, operations: u64) {
        lock(&self.0).fuse = Some(operations);
    }

    /// The machine loses power: of what wasn't synced, each write survives, is torn or is lost as `seed` decides.
    pub(super) fn crash(&self, seed: u64) {
        let mut disk = lock(&self.0);
        let mut dice = fastdice(seed);
        // A name that wasn't synced may be there or not.
        let mut files = disk.synced_names.clone();
        for (path, content) in &disk.files {
            if dice(2) == 0 {
                files.entry(path.clone()).or_insert_with(|| Arc::clone(content));
            }
        }
        for content in files.values() {
            lock(content).crash(&mut dice);
        }
        disk.synced_names.clone_from(&files);
        disk.files = files;
        (disk.fuse, disk.locked) = (None, false);
    }

    fn operation(&self) -> io::Result<()> {
        let mut disk = lock(&self.0);
        match &mut disk.fuse {
            Some(0) => Err(io::Error::other("the machine is failing")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Content {
    fn crash(&mut self, dice: &mut impl FnMut(u64) -> u64) {
        let mut after = std::mem::take(&mut self.synced);
        for change in std::mem::take(&mut self.unsynced) {
            match (dice(3), change) {
                (0, _) => {}
                (1, Change::Write(at, bytes)) => {
                    let torn = usize::try_from(dice(bytes.len() as u64 + 1)).unwrap();
                    write(&mut after, at, &bytes[..torn]);
                }
                (_, change) => apply(&mut after, &change),
            }
        }
        self.now.clone_from(&after);
        self.synced = after;
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.unsynced.push(change);
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, what) => write(bytes, *at, what),
        Change::Truncate(size) => bytes.resize(usize::try_from(*size).unwrap(), 0),
    }
}

fn write(bytes: &mut Vec<u8>, at: u64, what: &[u8]) {
    let at = usize::try_from(at).unwrap();
    bytes.resize(bytes.len().max(at + what.len()), 0);
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// SplitMix64.
fn fastdice(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |sides| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

impl FileSystem for FaultyFileSystem {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = lock(&self.0);
        let its = disk.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(its.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = lock(&self.0);
        let content = Arc::clone(disk.files.entry(path.to_owned()).or_default());
        Ok(Arc::new(OpenFile { disk: self.clone(), content }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation()?;
        lock(&self.0).files.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operation()?;
        let mut disk = lock(&self.0);
        let its = |path: &PathBuf| path.parent() == Some(dir);
        let now: Vec<_> = disk.files.iter().filter(|(path, _)| its(path)).map(|(path, file)| (path.clone(), Arc::clone(file))).collect();
        disk.synced_names.retain(|path, _| !its(path));
        disk.synced_names.extend(now);
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(lock(&self.0).free.unwrap_or(u64::MAX))
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(Some(Box::new(AtomicBool::new(lock(&self.0).locked).load(Ordering::Relaxed))))
    }
}

impl File for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.content).now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let content = lock(&self.content);
        let at = usize::try_from(position).unwrap();
        let found = content.now.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.disk.operation()?;
        let mut disk = lock(&self.disk.0);
        let free = disk.free.unwrap_or(u64::MAX).min(disk.free_in_all.unwrap_or(u64::MAX));
        let fits = usize::try_from(free).unwrap_or(usize::MAX).min(bytes.len());
        disk.free_in_all = disk.free_in_all.map(|free| free - fits as u64);
        drop(disk);
        let mut content = lock(&self.content);
        content.change(Change::Write(position, bytes[..fits].to_vec()));
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.disk.operation()?;
        lock(&self.content).change(Change::Truncate(size));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operation()?;
        let stall = lock(&self.disk.0).stall.clone();
        stall.iter().for_each(|stall| stall.wait());
        if lock(&self.disk.0).syncs_fail {
            return Err(io::Error::other("input/output error"));
        }
        let mut content = lock(&self.content);
        content.unsynced.clear();
        let now = content.now.clone();
        content.synced = now;
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Appends so many records in one batch and waits.
    Append(u64),
    /// Appends without waiting.
    Throw(u64),
    Save,
    /// Loses power after so many more operations; then starts again.
    Crash {
        after: u64,
        seed: u64,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..20u64).prop_map(Step::Append),
        3 => (1..20u64).prop_map(Step::Throw),
        2 => Just(Step::Save),
        2 => (0..30u64, any::<u64>()).prop_map(|(after, seed)| Step::Crash { after, seed }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The naive model: a list of numbers, of which those acknowledged must be there after any crash, in order, below whatever else survived.
    #[test]
    fn what_was_acknowledged_survives_any_crash_at_any_write(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(schedule(steps));
    }
}

/// Each of its dead letters begins a segment, and soon is too old.
fn open_forgetful(disk: &FaultyFileSystem) -> Embedded {
    let options = Options { keep_dead_letters: Duration::from_millis(8), ..options(Path::new("/q")) };
    let queue = Embedded::open_on(&(Arc::new(disk.clone()) as Arc<dyn FileSystem>), &options);
    queue.unwrap_or_else(|error| panic!("a crash is no corruption: {error}"))
}

async fn append_dead_letter(queue: &Embedded) -> Result<(), AppendError> {
    queue.dead_letters().append(&DeadLetter { time: Timestamp::of(SystemTime::now()), ..dead_letter(0) }).await
}

async fn schedule(steps: Vec<Step>) {
    let disk = FaultyFileSystem::new();
    let mut queue = open_forgetful(&disk);
    let mut appended_dead_letters = 0;
    // Record n of the log holds the text of n.
    let (mut acknowledged, mut watermark, mut saved): (Offset, Offset, Option<Offset>) = (0, 0, None);
    for step in steps {
        let end = queue.partition.log.range().end;
        match step {
            Step::Append(count) => {
                append(&queue, end..end + count).await;
                acknowledged = end + count;
                append_dead_letter(&queue).await.unwrap();
                appended_dead_letters += 1;
            }
            Step::Throw(count) => {
                let payloads: Vec<String> = (end..end + count).map(|number| number.to_string()).collect();
                let batch: Vec<_> = payloads.iter().map(|payload| record("o/g", payload.as_bytes())).collect();
                queue.append(&batch).now_or_never();
                queue.close().await;
                drop(queue);
                queue = open_forgetful(&disk);
                acknowledged = queue.partition.log.range().end;
            }
            Step::Save if end > 0 => {
                watermark = watermark.max(end / 2);
                partition(&queue).save(checkpoint(end), watermark).await.unwrap();
                saved = Some(end);
            }
            Step::Save => {}
            Step::Restart => {
                queue.close().await;
                drop(queue);
                queue = open_forgetful(&disk);
            }
            Step::Crash { after, seed } => {
                disk.die_after(after);
                let payloads: Vec<String> = (end..end + 30).map(|number| number.to_string()).collect();
                for (number, payload) in (end..).zip(&payloads) {
                    if queue.append(&[record("o/g", payload.as_bytes())]).await.is_err() {
                        break;
                    }
                    acknowledged = number + 1;
                    if number % 7 == 0 && partition(&queue).save(checkpoint(number + 1), watermark).await.is_ok() {
                        saved = Some(number + 1);
                    }
                    appended_dead_letters += u64::from(append_dead_letter(&queue).await.is_ok());
                }
                drop(queue);
                disk.crash(seed);
                queue = open_forgetful(&disk);
            }
        }
        let bounds = queue.partition.log.range();
        assert!(bounds.end >= acknowledged, "{bounds:?} {acknowledged}");
        assert!(bounds.start <= watermark, "{bounds:?} {watermark}");
        let found = read_text(&mut *partition(&queue).reader(bounds.start), bounds.start, bounds.end).await;
        assert_eq!(found, bounds.clone().map(|number| number.to_string()).collect::<Vec<_>>());
        let loaded = partition(&queue).load().await.unwrap();
        let head = number(&loaded);
        assert!(head >= saved, "checkpoint {head:?} is older than {saved:?}");
        acknowledged = acknowledged.max(bounds.end);
        let kept = dead_letters(&queue).range();
        assert!(kept.end >= appended_dead_letters, "{kept:?} {appended_dead_letters}");
        appended_dead_letters = kept.end;
        let page = queue.dead_letters().list(&Filter::default(), 0, 100).await.unwrap();
        assert!(page.found.iter().all(|found| found.dead_letter == DeadLetter { time: found.dead_letter.time, ..dead_letter(0) }));
    }
}
