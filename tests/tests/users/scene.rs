//! A host whose users the daemon alone knows.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output, Stdio},
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd, Worker,
    wait::{self, PATIENCE},
    worker::Handle,
};

/// A host on which the daemon alone sees another `/etc/passwd`: a file, or a pipe that nobody writes to. Who opens that hangs.
pub struct Scene {
    pub directory: tempfile::TempDir,
    users: Cgroup,
    pub web: Cgroup,
    db: Cgroup,
    server: Worker,
    tcp: Handle,
}

impl Scene {
    pub fn new(lab: &Lab) -> Scene {
        let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
        fs::write(directory.path().join("nsswitch"), "passwd: files\n").unwrap();
        let made = Command::new("mkfifo")
            .arg(directory.path().join("hangs"))
            .status();
        assert!(made.unwrap().success());
        let (users, web, db) = (lab.cgroup("users"), lab.cgroup("web"), lab.cgroup("db"));
        let server = lab.worker(&db);
        let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
        let scene = Scene {
            directory,
            users,
            web,
            db,
            server,
            tcp,
        };
        scene.knows(None);
        scene
    }

    /// Says who has which number.
    pub fn knows(&self, number: Option<u32>) {
        let line = number.map(|number| format!("segd-t-alice:x:{number}:{number}::/:/bin/false\n"));
        let text = format!("root:x:0:0:root:/root:/bin/sh\n{}", line.unwrap_or_default());
        fs::write(self.directory.path().join("knows"), text).unwrap();
    }

    pub fn policy(&self, from: &str) -> String {
        format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: users}}
spec:
  segments:
    alice: {{match: [{{user: segd-t-alice}}]}}
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: {from}, to: db, ports: [any]}}
",
            self.web.path(),
            self.db.path()
        )
    }

    pub fn mounts(&self, what: &str) -> String {
        let at = self.directory.path().display();
        format!("mount --bind {at}/nsswitch /etc/nsswitch.conf; mount --bind {at}/{what} /etc/passwd")
    }

    /// As [`Scene::mounts`], and the daemon says whom it asks about.
    pub fn talks(&self, what: &str) -> String {
        format!("export SEGD_LOG=segd=debug; {}", self.mounts(what))
    }

    pub fn start(&self, lab: &Lab, what: &str) -> Segd {
        let policy = self.policy("[alice, web]");
        lab.segd(&policy).after(&self.mounts(what)).start()
    }

    /// From now on the daemon sees this.
    pub fn shows(&self, segd: &Segd, what: &str) {
        let script = self.mounts(what);
        let pid = segd.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "sh", "-ec", &script]);
        assert!(command.status().unwrap().success());
    }

    pub fn slice(&self, number: u32) -> Cgroup {
        self.users.child(&format!("user-{number}.slice"))
    }

    /// Whether what somebody says arrives.
    pub fn arrives(&self, from: &Worker, token: &str) -> bool {
        let result = from.probe(Kind::Tcp, self.tcp.local, token).result;
        let arrived = self.server.inbox(self.tcp).has(token);
        assert_eq!(result == "ok", arrived, "{token}: the client says {result}");
        arrived
    }
}

pub fn warnings(segd: &Segd) -> String {
    segd.json(&["status"])["warnings"].to_string()
}

#[track_caller]
pub fn done(output: Output) {
    assert!(output.status.success(), "{output:?}");
}

pub fn applied(segd: &Segd, path: &Path) -> Output {
    segd.client(&["apply", path.to_str().unwrap()])
}

/// How often the daemon has begun to ask about users, and ended.
pub fn rounds(segd: &Segd) -> [usize; 2] {
    let log = segd.log();
    ["asking about ", "asked about "].map(|line| log.matches(line).count())
}

/// Asks for something that waits for users, and does something else while it waits. What was said to who waited.
#[track_caller]
pub fn meanwhile(segd: &Segd, words: &[&str], then: impl FnOnce()) -> Output {
    let [begun, _] = rounds(segd);
    let mut command = Command::new(segd_tests::segd::binary());
    command.args(words).arg("--control").arg(segd.control());
    let waits = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    wait::wait_until("users are asked about", PATIENCE, || rounds(segd)[0] > begun);
    then();
    waits.unwrap().wait_with_output().unwrap()
}
