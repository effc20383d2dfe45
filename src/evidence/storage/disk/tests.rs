//! What files the machine's disk is left with.

use std::collections::BTreeMap;

use super::*;
use crate::evidence::storage::read_file;

/// Every file under a directory with its inode, and every directory with none.
fn tree(root: &Path) -> BTreeMap<String, Option<u64>> {
    let (mut found, mut directories) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                directories.push(entry.path());
            }
            let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(name, meta.is_file().then(|| meta.ino()));
        }
    }
    found.remove(LOCK);
    found
}

fn content(disk: &DiskStorage, path: &str) -> Vec<u8> {
    read_file(disk, path, 1 << 20).unwrap()
}

#[test]
fn a_file_that_is_written_again_and_again_takes_turns_between_two() {
    let home = tempfile::tempdir().unwrap();
    let disk = DiskStorage::open(home.path()).unwrap();
    let mut inodes = std::collections::BTreeSet::new();
    for (n, persist) in [Persist::Now, Persist::Later].into_iter().cycle().take(20).enumerate() {
        // Longer and shorter than what stood there.
        let bytes = vec![b'0' + u8::try_from(n % 10).unwrap(); 100 - 7 * (n % 10)];
        disk.write_file("checkpoint", &bytes, persist).unwrap();
        assert_eq!(content(&disk, "checkpoint"), bytes);
        inodes.extend(tree(home.path()).into_values().flatten());
    }
    assert_eq!(inodes.len(), 2);
    assert_eq!(tree(home.path()).keys().collect::<Vec<_>>(), ["checkpoint", "checkpoint.tmp"]);
}

#[test]
fn a_file_that_moves_on_takes_its_directory_along_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let disk = DiskStorage::open(home.path()).unwrap();
    disk.write_file("tile/0/000.p/9", &[9; 900], Persist::Later).unwrap();
    let inode = tree(home.path())["tile/0/000.p/9"];
    let mut last = "tile/0/000.p/9".to_owned();
    // In the same directory, to one that is not there, to one below another that is not there.
    for next in ["tile/0/000.p/12", "tile/0/007.p/3", "tile/0/x001/000.p/200"] {
        disk.move_on(&last, next, next.as_bytes()).unwrap();
        assert_eq!(content(&disk, next), next.as_bytes());
        let there = tree(home.path());
        assert_eq!(there[next], inode, "{there:?}");
        assert!(!there.contains_key(&last) && !there.contains_key(SPARE), "{there:?}");
        next.clone_into(&mut last);
    }
    let there = tree(home.path());
    assert_eq!(there.keys().collect::<Vec<_>>(), ["tile", "tile/0", "tile/0/x001", "tile/0/x001/000.p", &last]);
}

#[test]
fn a_file_that_moves_on_leaves_those_beside_it_alone() {
    let home = tempfile::tempdir().unwrap();
    let disk = DiskStorage::open(home.path()).unwrap();
    for path in ["tile/0/000.p/9", "tile/0/000.p/12", "tile/0/001.p/4"] {
        disk.write_file(path, path.as_bytes(), Persist::Later).unwrap();
    }
    disk.move_on("tile/0/000.p/9", "tile/0/002.p/1", b"one").unwrap();
    assert_eq!(content(&disk, "tile/0/000.p/12"), b"tile/0/000.p/12");
    disk.move_on("tile/0/000.p/12", "tile/0/001.p/5", b"five").unwrap();
    assert!(!home.path().join("tile/0/000.p").exists(), "nothing is left in it");
    assert_eq!(content(&disk, "tile/0/001.p/4"), b"tile/0/001.p/4");
    // One that is gone is no hindrance.
    disk.move_on("tile/0/000.p/12", "tile/0/001.p/6", b"six").unwrap();
    assert_eq!(content(&disk, "tile/0/001.p/6"), b"six");
    disk.remove("tile/0/002.p/1").unwrap();
    assert!(!home.path().join("tile/0/002.p").exists());
}
