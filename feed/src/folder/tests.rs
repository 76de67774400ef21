//! The folder source against real folders, for each way in which a file is changed. How long a
//! change took is printed and not asserted: the machine may be busy.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use daemon::Daemon;

use super::*;
use crate::update::Update;
use model::{Model, ObjectName};

/// How long any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// With this long from scan to scan, only inotify can tell of a change.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: \
        {ip}\n  \
         ports:\n  - port: 80\n"
    )
}

/// A folder that is followed, and its newest model.
struct Followed {
    above: tempfile::TempDir,
    updates: Updates,
    model: Model,
    /// Every state of the objects that was published.
    history: Vec<String>,
    daemon: Daemon,
    status: Status,
}

impl Followed {
    async fn start(files: &[(&str, &str)]) -> Followed {
        Followed::start_after(|root| {
            for (name, content) in files {
                fs::write(root.join(name), content).unwrap();
            }
        })
        .await
    }

    /// Follows a folder by what inotify tells alone.
    async fn start_without_scans(files: &[(&str, &str)]) -> Followed {
        Followed::start_scanned(NEVER, |root| {
            for (name, content) in files {
                fs::write(root.join(name), content).unwrap();
            }
        })
        .await
    }

    /// Follows a folder in a folder of its own.
    async fn start_after(prepare: impl FnOnce(&Path)) -> Followed {
        Followed::start_scanned(RESCAN, prepare).await
    }

    async fn start_scanned(rescan: Duration, prepare: impl FnOnce(&Path)) -> Followed {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("folder");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let daemon = Daemon::detached("feed", 1);
        let (updates, status) = super::start(&root, Kinds::all(), rescan, &daemon).unwrap();
        let model = Model::default();
        let history = Vec::new();
        let mut followed = Followed { above, updates, model, history, daemon, status };
        followed.update().await;
        followed
    }

    fn root(&self) -> PathBuf {
        self.above.path().join("folder")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Writes a file beside, then renames it over.
    fn replace(&self, name: &str, content: &str) {
        let beside = self.file(".beside");
        fs::write(&beside, content).unwrap();
        fs::rename(&beside, self.file(name)).unwrap();
    }

    async fn update(&mut self) -> Update {
        let update = tokio::time::timeout(PATIENCE, self.updates.next());
        let update = update.await.expect("an update in time").expect("the source lives");
        self.model = update.model.clone();
        self.history.push(self.held());
        update
    }

    /// The Services with their addresses.
    fn held(&self) -> String {
        let services = self
            .model
            .services()
            .map(|entry| format!("{}={}", entry.service.name.name, entry.service.cluster_ips[0]));
        services.collect::<Vec<_>>().join(" ")
    }

    /// Waits until exactly these Services are held, and prints how long it took.
    async fn until(&mut self, what: &str, held: &str) {
        let begun = Instant::now();
        while self.held() != held {
            let last = self.held();
            let next = tokio::time::timeout(PATIENCE, self.update()).await;
            assert!(next.is_ok(), "{what}: wanted {held}, have {last}");
        }
        println!("{what}: {:?}", begun.elapsed());
    }

    /// Waits until the folder has looked at what was done before: another file's change shows.
    async fn looked(&mut self, mark: u8) {
        let ip = format!("10.200.0.{mark}");
        self.replace("zz-mark.yaml", &service("zz-mark", &ip));
        let wanted = ObjectName::new("default", "zz-mark");
        let ip = ip.parse::<std::net::IpAddr>().unwrap();
        loop {
            let entry = self.model.service(&wanted);
            if entry.is_some_and(|entry| entry.service.cluster_ips == [ip]) {
                return;
            }
            self.update().await;
        }
    }

    /// What `/status` says of the folder.
    fn status(&self) -> serde_json::Value {
        self.status.page()
    }

    async fn until_status(&self, what: &str, condition: impl Fn(&serde_json::Value) -> bool) {
        let begun = Instant::now();
        while !condition(&self.status()) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {:#}", self.status());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The errors and warnings.
fn rejected(status: &serde_json::Value) -> Vec<String> {
    let of = |level: &str| status[level].as_array().unwrap().iter();
    of("rejected")
        .chain(of("warned"))
        .map(|report| report["message"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_over() {
    let mut folder = Followed::start_without_scans(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    assert_eq!(folder.held(), "a=10.0.0.1");
    for i in 2..12 {
        let ip = format!("10.0.0.{i}");
        folder.replace("a.yaml", &service("a", &ip));
        folder.until("rename", &format!("a={ip}")).await;
    }
    assert_eq!(folder.history.len(), 11, "one update a change: {:?}", folder.history);
}

#[tokio::test(flavor = "multi_thread")]
async fn written_in_place() {
    let mut folder = Followed::start_without_scans(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    for i in 2..6 {
        let ip = format!("10.0.0.{i}");
        fs::write(folder.file("a.yaml"), service("a", &ip)).unwrap();
        folder.until("in place", &format!("a={ip}")).await;
    }
    fs::write(folder.file("b.yml"), service("b", "10.0.1.1")).unwrap();
    folder.until("created", "a=10.0.0.5 b=10.0.1.1").await;
    fs::remove_file(folder.file("a.yaml")).unwrap();
    folder.until("deleted", "b=10.0.1.1").await;
    fs::remove_file(folder.file("b.yml")).unwrap();
    folder.until("the last one deleted", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_written_slowly() {
    let (a, b) = (service("a", "10.0.0.1"), service("b", "10.0.0.2"));
    let mut folder = Followed::start(&[("f.yaml", &(a + &b))]).await;
    let mut file = fs::File::create(folder.file("f.yaml")).unwrap();
    folder.looked(1).await;
    file.write_all(service("a", "10.0.0.3").as_bytes()).unwrap();
    folder.looked(2).await;
    // The first half of the second document is a document as well, but another one.
    let second = service("b", "10.0.0.4");
    let (head, tail) = second.split_at(second.find("  ports").unwrap());
    file.write_all(head.as_bytes()).unwrap();
    folder.looked(3).await;
    assert_eq!(folder.held(), "a=10.0.0.1 b=10.0.0.2 zz-mark=10.200.0.3");
    file.write_all(tail.as_bytes()).unwrap();
    drop(file);
    folder.until("slow write", "a=10.0.0.3 b=10.0.0.4 zz-mark=10.200.0.3").await;
    let mixed = |state: &&String| state.contains("10.0.0.3 ") != state.contains("10.0.0.4");
    assert_eq!(folder.history.iter().find(mixed), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn written_in_pieces_by_writers_that_close() {
    let (a, b) = (service("a", "10.0.0.1"), service("b", "10.0.0.2"));
    let mut folder = Followed::start(&[("f.yaml", &(a + &b))]).await;
    // As `echo … > f; echo … >> f` does it.
    for (mark, begin) in [(11, ""), (12, "# of two Services\n"), (13, "---\n")] {
        fs::write(folder.file("f.yaml"), begin).unwrap();
        folder.looked(mark).await;
    }
    fs::write(folder.file("f.yaml"), service("a", "10.0.0.3")).unwrap();
    folder.looked(2).await;
    assert_eq!(folder.held(), "a=10.0.0.1 b=10.0.0.2 zz-mark=10.200.0.2");
    let mut file = fs::OpenOptions::new().append(true).open(folder.file("f.yaml")).unwrap();
    file.write_all(service("b", "10.0.0.4").as_bytes()).unwrap();
    drop(file);
    folder.until("in pieces", "a=10.0.0.3 b=10.0.0.4 zz-mark=10.200.0.2").await;
    // Documents that are really taken out are gone after a while.
    fs::write(folder.file("f.yaml"), service("a", "10.0.0.3")).unwrap();
    folder.until("a document less", "a=10.0.0.3 zz-mark=10.200.0.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn written_with_the_same_size_and_times() {
    let mut folder = Followed::start(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    let modified = fs::metadata(folder.file("a.yaml")).unwrap().modified().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(folder.file("a.yaml")).unwrap();
    file.write_all(service("a", "10.0.0.2").as_bytes()).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    folder.until("same mtime", "a=10.0.0.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_no_deletion() {
    let mut folder = Followed::start(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    fs::write(folder.file("a.yaml"), "").unwrap();
    folder.until_status("empty", |s| rejected(s).join("").contains("the file is empty")).await;
    folder.looked(1).await;
    assert_eq!(folder.held(), "a=10.0.0.1 zz-mark=10.200.0.1");
    folder.replace("a.yaml", "\n \n");
    folder.looked(2).await;
    fs::write(folder.file("a.yaml"), service("a", "10.0.0.1")).unwrap();
    folder.until_status("mended", |s| rejected(s).is_empty()).await;
    folder.replace("a.yaml", "# nothing is left of it\n");
    folder.until("commented out", "zz-mark=10.200.0.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_what_it_had_and_stops_no_other() {
    let files = [("a.yaml", service("a", "10.0.0.1")), ("b.yaml", service("b", "10.0.0.2"))];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut folder = Followed::start(&files).await;
    folder.replace("a.yaml", "kind: [Service\n");
    folder.replace("b.yaml", &service("b", "10.0.0.3"));
    folder.until("the good one", "a=10.0.0.1 b=10.0.0.3").await;
    let status = folder.status();
    let report = &status["rejected"][0];
    assert_eq!((&report["line"], &report["column"]), (&1.into(), &15.into()), "{status:#}");
    assert!(report["file"].as_str().unwrap().ends_with("folder/a.yaml"));
    fs::write(folder.file("a.yaml"), b"kind: \xff\xfe\n").unwrap();
    folder.until_status("not UTF-8", |s| rejected(s).join("").contains("not UTF-8")).await;
    assert_eq!(folder.status()["rejected"][0]["column"], 7);
    folder.replace("a.yaml", &service("a", "10.0.0.4"));
    folder.until("mended", "a=10.0.0.4 b=10.0.0.3").await;
    assert_eq!(rejected(&folder.status()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_file_is_not_missed_for_a_moment() {
    let mut folder = Followed::start(&[("f0.yaml", &service("a", "10.0.0.1"))]).await;
    for i in 0..20u8 {
        fs::rename(folder.file(&format!("f{i}.yaml")), folder.file(&format!("f{}.yaml", i + 1)))
            .unwrap();
        folder.looked(i).await;
    }
    assert!(folder.history.iter().all(|state| state.starts_with("a=10.0.0.1")));
    assert_eq!(rejected(&folder.status()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_as_an_editor_does() {
    let mut folder = Followed::start_without_scans(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    for i in 2..6 {
        let ip = format!("10.0.0.{i}");
        fs::write(folder.file(".a.yaml.swp"), "swap").unwrap();
        fs::rename(folder.file("a.yaml"), folder.file("a.yaml~")).unwrap();
        fs::write(folder.file("a.yaml"), service("a", &ip)).unwrap();
        fs::remove_file(folder.file("a.yaml~")).unwrap();
        folder.until("editor", &format!("a={ip}")).await;
    }
    assert!(folder.history.iter().all(|state| state.starts_with("a=")), "{:?}", folder.history);
}

/// Writes a version of two files as the kubelet mounts a ConfigMap: into a new hidden folder to
/// which the link `..data` is swapped in one rename.
fn swap_data(root: &Path, version: u8) {
    let data = root.join(format!("..version-{version}"));
    fs::create_dir(&data).unwrap();
    for name in ["a", "b"] {
        let net = u8::from(name == "b");
        let text = service(name, &format!("10.{net}.0.{version}"));
        fs::write(data.join(format!("{name}.yaml")), text).unwrap();
    }
    symlink(data.file_name().unwrap(), root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    if version > 1 {
        fs::remove_dir_all(root.join(format!("..version-{}", version - 1))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_by_the_data_link_in_one_batch() {
    let mut folder = Followed::start_scanned(NEVER, |root| {
        swap_data(root, 1);
        for name in ["a.yaml", "b.yaml"] {
            symlink(Path::new("..data").join(name), root.join(name)).unwrap();
        }
    })
    .await;
    assert_eq!(folder.held(), "a=10.0.0.1 b=10.1.0.1");
    for version in 2..12 {
        swap_data(&folder.root(), version);
        let held = format!("a=10.0.0.{version} b=10.1.0.{version}");
        folder.until("..data swap", &held).await;
    }
    let whole: Vec<_> = (1..12).map(|v| format!("a=10.0.0.{v} b=10.1.0.{v}")).collect();
    assert_eq!(folder.history, whole, "every batch is all of a swap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_file_that_changes_where_it_lies() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("a.yaml");
    fs::write(&target, service("a", "10.0.0.1")).unwrap();
    let mut folder =
        Followed::start_after(|root| symlink(&target, root.join("a.yaml")).unwrap()).await;
    fs::write(&target, service("a", "10.0.0.2")).unwrap();
    folder.until("behind a link", "a=10.0.0.2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_replaced() {
    let mut folder = Followed::start(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    for i in 2..5 {
        let new = folder.above.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("a.yaml"), service("a", &format!("10.0.0.{i}"))).unwrap();
        fs::rename(folder.root(), folder.above.path().join(format!("old-{i}"))).unwrap();
        fs::rename(&new, folder.root()).unwrap();
        folder.until("replaced", &format!("a=10.0.0.{i}")).await;
        // The new folder is watched as the old one was.
        folder.replace("a.yaml", &service("a", &format!("10.0.1.{i}")));
        folder.until("and watched", &format!("a=10.0.1.{i}")).await;
    }
    assert!(folder.history.iter().all(|state| state.starts_with("a=")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_missing_or_new_and_empty_is_a_fault() {
    let mut folder = Followed::start(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    let away = folder.above.path().join("away");
    fs::rename(folder.root(), &away).unwrap();
    folder.until_status("missing", |status| status["state"] == "fault").await;
    fs::create_dir(folder.root()).unwrap();
    let replaced = |status: &serde_json::Value| {
        status["fault"].as_str().unwrap_or_default().contains("without manifests")
    };
    folder.until_status("empty", replaced).await;
    assert!(folder.daemon.metrics.encode().contains("switchyard_feed_connected 0"));
    assert_eq!(folder.held(), "a=10.0.0.1");
    fs::remove_dir(folder.root()).unwrap();
    fs::write(away.join("b.yaml"), service("b", "10.0.0.2")).unwrap();
    fs::rename(&away, folder.root()).unwrap();
    folder.until("back", "a=10.0.0.1 b=10.0.0.2").await;
    folder.until_status("back", |status| status["state"] == "synced").await;
    assert_eq!(folder.history, ["a=10.0.0.1", "a=10.0.0.1 b=10.0.0.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_stays_at_fault_is_not_ready() {
    let folder = Followed::start(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    assert_eq!(folder.daemon.readiness.reasons(), [""; 0]);
    let away = folder.above.path().join("away");
    fs::rename(folder.root(), &away).unwrap();
    let readiness = folder.daemon.readiness.clone();
    folder.until_status("at fault", |_| !readiness.reasons().is_empty()).await;
    let reason = folder.daemon.readiness.reasons().remove(0);
    let expected = format!("folder at fault: {}: ", folder.root().display());
    assert!(reason.starts_with(&expected), "{reason}");
    assert_eq!(folder.held(), "a=10.0.0.1", "it is served all the while");
    fs::rename(&away, folder.root()).unwrap();
    let readiness = folder.daemon.readiness.clone();
    folder.until_status("back", |_| readiness.reasons().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_in_the_folder_come_and_go() {
    let mut folder = Followed::start(&[("a.yaml", &service("a", "10.0.0.1"))]).await;
    fs::create_dir_all(folder.file("x/y")).unwrap();
    fs::write(folder.file("x/y/b.yaml"), service("b", "10.0.0.2")).unwrap();
    folder.until("two levels down", "a=10.0.0.1 b=10.0.0.2").await;
    folder.replace("x/y/b.yaml", &service("b", "10.0.0.3"));
    folder.until("and watched", "a=10.0.0.1 b=10.0.0.3").await;
    fs::rename(folder.file("x"), folder.file("z")).unwrap();
    folder.looked(1).await;
    fs::rename(folder.file("z"), folder.file(".z")).unwrap();
    folder.until("hidden", "a=10.0.0.1 zz-mark=10.200.0.1").await;
    let moved = folder.history.iter().skip_while(|state| !state.contains("10.0.0.3"));
    let moved = moved.take_while(|state| **state != "a=10.0.0.1 zz-mark=10.200.0.1");
    assert!(moved.into_iter().all(|state| state.contains("b=10.0.0.3")));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_manifests_are_read_and_each_once() {
    let text = service("a", "10.0.0.1");
    let bad = "kind: [";
    let mut folder = Followed::start_after(|root| {
        fs::write(root.join("a.yaml"), &text).unwrap();
        for name in [".hidden.yaml", "b.yaml~", "#c.yaml#", "README.md", "d.yaml.bak"] {
            fs::write(root.join(name), bad).unwrap();
        }
        fs::create_dir(root.join(".git")).unwrap();
        fs::write(root.join(".git/e.yaml"), bad).unwrap();
        // Links that lead back, and to a file that is read already.
        symlink(".", root.join("loop")).unwrap();
        symlink("a.yaml", root.join("again.yaml")).unwrap();
        symlink("nowhere", root.join("nowhere.yaml")).unwrap();
        fs::create_dir(root.join("folder.yaml")).unwrap();
    })
    .await;
    folder.looked(1).await;
    assert_eq!(rejected(&folder.status()), [""; 0]);
    assert_eq!(folder.held(), "a=10.0.0.1 zz-mark=10.200.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inotify_the_scan_finds_all() {
    let above = tempfile::tempdir().unwrap();
    let file = above.path().join("a.yaml");
    fs::write(&file, service("a", "10.0.0.1")).unwrap();
    let (publisher, mut updates) = mailbox();
    let (_sender, wakes) = channel();
    let status = Status::new(above.path().to_owned(), daemon::Readiness::default());
    let folder = Folder::new(
        vec![above.path().to_owned()],
        vec![Watch::deaf()],
        Catalogue::new(Kinds::all()),
        Store::new(Kinds::all()),
        Output::Mailbox(publisher),
        status,
    );
    let thread = std::thread::spawn(move || folder.run(&wakes));
    updates.next().await.unwrap();
    let ip = |update: &Update| {
        let entry = update.model.services().next().unwrap();
        entry.service.cluster_ips[0].to_string()
    };
    for i in 2..4 {
        let begun = Instant::now();
        fs::write(&file, service("a", &format!("10.0.0.{i}"))).unwrap();
        let update = updates.next().await.unwrap();
        assert_eq!(ip(&update), format!("10.0.0.{i}"));
        println!("by scan: {:?}", begun.elapsed());
    }
    drop(updates);
    thread.join().unwrap();
}

/// A program that renames a new file over it more often than a file needs to settle.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_always_being_replaced_is_served_without_inotify() {
    let above = tempfile::tempdir().unwrap();
    let (file, beside) = (above.path().join("a.yaml"), above.path().join(".beside"));
    fs::write(&file, service("a", "10.0.0.1")).unwrap();
    let (publisher, mut updates) = mailbox();
    let (sender, wakes) = channel();
    let folder = Folder::new(
        vec![above.path().to_owned()],
        vec![Watch::deaf()],
        Catalogue::new(Kinds::all()),
        Store::new(Kinds::all()),
        Output::Mailbox(publisher),
        Status::new(above.path().to_owned(), daemon::Readiness::default()),
    );
    let thread = std::thread::spawn(move || folder.run(&wakes));
    updates.next().await.unwrap();
    let (stop, mut next) = (Arc::new(AtomicBool::new(false)), 2);
    let replacing = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                fs::write(&beside, service("a", &format!("10.0.0.{next}"))).unwrap();
                fs::rename(&beside, &file).unwrap();
                next = next % 200 + 1;
                // The writer's pace, which is what is tested.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    for _ in 0..2 {
        let update = tokio::time::timeout(PATIENCE, updates.next());
        assert!(update.await.expect("a state of it is served").is_some());
    }
    stop.store(true, Ordering::Relaxed);
    replacing.join().unwrap();
    drop((updates, sender));
    thread.join().unwrap();
}

/// The path of a folder from the working directory.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap();
    let up = here.components().skip(1).map(|_| "..");
    up.collect::<PathBuf>().join(path.strip_prefix("/").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_inotify_tells_of_a_relative_folder_is_understood() {
    let above = tempfile::tempdir().unwrap();
    fs::create_dir(above.path().join("sub")).unwrap();
    fs::write(above.path().join("sub/a.yaml"), service("a", "10.0.0.1")).unwrap();
    let root = relative(above.path());
    let daemon = Daemon::detached("feed", 1);
    let (updates, status) = super::start(&root, Kinds::all(), NEVER, &daemon).unwrap();
    let (model, history) = (Model::default(), Vec::new());
    let mut folder = Followed { above, updates, model, history, daemon, status };
    folder.update().await;
    let (file, beside) = ("sub/a.yaml", "sub/.beside");
    for i in 2..8 {
        let ip = format!("10.0.0.{i}");
        fs::write(folder.above.path().join(beside), service("a", &ip)).unwrap();
        fs::rename(folder.above.path().join(beside), folder.above.path().join(file)).unwrap();
        folder.until("rename", &format!("a={ip}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_at_the_start_is_an_error() {
    let above = tempfile::tempdir().unwrap();
    let daemon = Daemon::detached("feed", 1);
    assert!(follow(&above.path().join("none"), Kinds::all(), &daemon).is_err());
    let file = above.path().join("a.yaml");
    fs::write(&file, service("a", "10.0.0.1")).unwrap();
    let error = follow(&file, Kinds::all(), &daemon).unwrap_err();
    assert!(error.to_string().contains("not a folder"), "{error}");
}

/// A mount that goes with the test.
struct Mount(PathBuf);

impl Mount {
    fn new(arguments: &[&str], target: &Path) -> Mount {
        let status = std::process::Command::new("mount").args(arguments).arg(target).status();
        assert!(status.unwrap().success(), "mount {arguments:?}");
        Mount(target.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn behind_a_bind_mount() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a.yaml"), service("a", "10.0.0.1")).unwrap();
    let mut mount = None;
    let mut folder = Followed::start_after(|root| {
        mount = Some(Mount::new(&["--bind", outside.path().to_str().unwrap()], root));
    })
    .await;
    fs::write(outside.path().join("a.yaml"), service("a", "10.0.0.2")).unwrap();
    folder.until("bind mount", "a=10.0.0.2").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn behind_an_overlay() {
    let layers = tempfile::tempdir().unwrap();
    // An overlay cannot lie upon an overlay.
    let _memory = Mount::new(&["-t", "tmpfs", "tmpfs"], layers.path());
    let layer = |name: &str| layers.path().join(name);
    for name in ["lower", "upper", "work"] {
        fs::create_dir(layer(name)).unwrap();
    }
    fs::write(layer("lower").join("a.yaml"), service("a", "10.0.0.1")).unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        layer("lower").display(),
        layer("upper").display(),
        layer("work").display()
    );
    let mut mount = None;
    let mut folder = Followed::start_after(|root| {
        mount = Some(Mount::new(&["-t", "overlay", "overlay", "-o", &options], root));
    })
    .await;
    for i in 2..4 {
        fs::write(folder.file("a.yaml"), service("a", &format!("10.0.0.{i}"))).unwrap();
        folder.until("overlay", &format!("a=10.0.0.{i}")).await;
    }
    folder.replace("a.yaml", &service("a", "10.0.0.9"));
    folder.until("overlay, rename", "a=10.0.0.9").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_single_file_that_is_mounted_and_then_replaced_is_reported() {
    let outside = tempfile::tempdir().unwrap();
    let source = outside.path().join("a.yaml");
    fs::write(&source, service("a", "10.0.0.1")).unwrap();
    let mut mount = None;
    let mut folder = Followed::start_after(|root| {
        let target = root.join("a.yaml");
        fs::write(&target, "").unwrap();
        mount = Some(Mount::new(&["--bind", source.to_str().unwrap()], &target));
    })
    .await;
    fs::write(outside.path().join("new"), service("a", "10.0.0.2")).unwrap();
    fs::rename(outside.path().join("new"), &source).unwrap();
    folder.until_status("mounted file", |s| rejected(s).join("").contains("was replaced")).await;
    assert_eq!(folder.status()["rejected"][0]["help"], "mount the folder, not the file");
    folder.looked(1).await;
    assert_eq!(folder.held(), "a=10.0.0.1 zz-mark=10.200.0.1");
}
