//! The limits of the folder of packages. What is in a package does not matter here.

use std::fs::File;
use std::time::{Duration, UNIX_EPOCH};

use super::*;

/// A folder of packages; it goes at the end.
struct Folder(Packages);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("metallic-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (version, build, chip) = ((15, 0), "24A1".to_owned(), "Apple".to_owned());
        let platform = Platform { version, build, chip, apple_family: Some(9) };
        Self(Packages::new(dir, &platform).unwrap())
    }

    /// A package of `bytes` that was used `age` seconds before the newest one could be.
    fn add(&self, name: &str, bytes: u64, age: u64) {
        let folder = self.0.dir.join(name);
        // A package is a folder itself, with what it holds further down.
        fs::create_dir_all(folder.join(PACKAGE).join("inner")).unwrap();
        // No bytes on the disk, but in its length.
        File::create(folder.join(PACKAGE).join("inner/data")).unwrap().set_len(bytes).unwrap();
        let manifest = File::create(folder.join(MANIFEST)).unwrap();
        let used = UNIX_EPOCH + Duration::from_secs(1_000_000_000 - age);
        manifest.set_modified(used).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0.dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.dir);
    }
}

#[test]
fn too_many_packages_go_those_unused_for_longest_first() {
    let folder = Folder::new("many-packages");
    for index in 0..MAX_PACKAGES as u64 {
        // The order of names is not that of ages.
        folder.add(&format!("{:03}", index * 7 % MAX_PACKAGES as u64), 10, index);
    }
    let before = folder.names();
    folder.0.prune().unwrap();
    assert_eq!(folder.names(), before, "as many as there may be");
    folder.add("oldest", 10, 9000);
    folder.add("second", 10, 8000);
    folder.add("newest", 10, 0);
    folder.0.prune().unwrap();
    let oldest = format!("{:03}", (MAX_PACKAGES as u64 - 1) * 7 % MAX_PACKAGES as u64);
    let after = folder.names();
    assert_eq!(after.len(), MAX_PACKAGES);
    assert!(after.contains(&"newest".to_owned()));
    for gone in ["oldest", "second", &oldest] {
        assert!(!after.contains(&gone.to_owned()), "{gone}");
    }
}

#[test]
fn too_many_bytes_go_those_unused_for_longest_first() {
    let folder = Folder::new("large-packages");
    let third = MAX_BYTES / 3;
    folder.add("a", third, 1);
    folder.add("b", third, 3);
    folder.add("c", third, 2);
    folder.0.prune().unwrap();
    assert_eq!(folder.names(), ["a", "b", "c"]);
    folder.add("d", third, 0);
    folder.0.prune().unwrap();
    assert_eq!(folder.names(), ["a", "c", "d"]);
    // One that is larger than everything together may be is not kept either.
    folder.add("e", MAX_BYTES + 1, 4);
    folder.0.prune().unwrap();
    assert_eq!(folder.names(), ["a", "c", "d"]);
}

#[test]
fn what_another_process_is_making_is_left_alone() {
    let folder = Folder::new("half-made");
    fs::create_dir_all(folder.0.dir.join(".making-1-0").join(PACKAGE)).unwrap();
    for index in 0..=MAX_PACKAGES as u64 {
        folder.add(&format!("{index:03}"), 10, index);
    }
    folder.0.prune().unwrap();
    let names = folder.names();
    assert_eq!(names.len(), MAX_PACKAGES + 1);
    assert!(names.contains(&".making-1-0".to_owned()));
}

#[test]
fn folders_of_processes_that_ended_while_they_wrote_go_after_a_day() {
    let folder = Folder::new("abandoned-packages");
    for (name, hours) in [(".making-7-0", 25), (".making-8-0", 23), (".making-9-1", 0)] {
        // One that has its manifest already counts for no limit either.
        folder.add(name, MAX_BYTES, 0);
        let changed = SystemTime::now() - Duration::from_secs(hours * 60 * 60);
        File::open(folder.0.dir.join(name)).unwrap().set_modified(changed).unwrap();
    }
    folder.add("package", 10, 0);
    folder.0.prune().unwrap();
    assert_eq!(folder.names(), [".making-8-0", ".making-9-1", "package"]);
}
