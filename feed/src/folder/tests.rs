use std::time::Duration;

use daemon::Daemon;

use super::*;
use crate::model::Model;
use crate::name::ObjectName;
use crate::update::Update;

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec:\n  clusterIP: {ip}\n  ports:\n  - port: 80\n"
    )
}

/// A folder that is followed, and its newest update.
struct Followed {
    dir: tempfile::TempDir,
    updates: Updates,
    model: Model,
    daemon: Daemon,
}

impl Followed {
    async fn start(files: &[(&str, &str)]) -> Followed {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let daemon = Daemon::detached("feed", 1);
        let updates = follow(dir.path(), Kinds::all(), &daemon).unwrap();
        let mut followed = Followed { dir, updates, model: Model::default(), daemon };
        followed.update().await;
        followed
    }

    async fn update(&mut self) -> Update {
        let update = tokio::time::timeout(Duration::from_secs(20), self.updates.next());
        let update = update.await.expect("an update in time").expect("the source lives");
        self.model = update.model.clone();
        update
    }

    fn ip(&self, name: &str) -> Option<String> {
        let entry = self.model.service(&ObjectName::new("default", name))?;
        entry.service.cluster_ips.first().map(ToString::to_string)
    }

    async fn until_ip(&mut self, name: &str, ip: &str) -> Duration {
        let begun = Instant::now();
        while self.ip(name).as_deref() != Some(ip) {
            self.update().await;
        }
        begun.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_served_and_its_replacement_by_rename() {
    let mut folder = Followed::start(&[("web.yaml", &service("web", "10.0.0.1"))]).await;
    assert_eq!(folder.ip("web").as_deref(), Some("10.0.0.1"));
    let beside = folder.dir.path().join(".new");
    std::fs::write(&beside, service("web", "10.0.0.2")).unwrap();
    std::fs::rename(&beside, folder.dir.path().join("web.yaml")).unwrap();
    let took = folder.until_ip("web", "10.0.0.2").await;
    println!("rename: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let _ = &folder.daemon;
}
