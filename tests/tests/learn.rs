//! `segd learn` on a real session of nginx, redis, curl and DNS: the proposal, enforced, lets it pass and denies a rogue.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use segd_tests::{Cgroup, Lab, Netns, wait};
use tempfile::TempDir;

/// Under it nothing is denied, and each flow is told of once.
const NOTHING: &str = "# nothing is claimed yet\n";

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// nginx, redis and dnsmasq in cgroups of their own, on the loopback of one network namespace.
struct Shop {
    netns: Netns,
    scratch: TempDir,
    _servers: Vec<Server>,
}

/// A program in a cgroup and the namespace; names are asked of the namespace's own DNS server.
fn program(shop: &Netns, scratch: &Path, cgroup: &Cgroup, words: &[&str]) -> Command {
    let script = "echo $$ > \"$0\" && mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", shop.path().display()))
        .args(["unshare", "--mount", "sh", "-c", script])
        .arg(cgroup.directory().join("cgroup.procs"))
        .arg(scratch.join("resolv.conf"))
        .args(words)
        .stdin(Stdio::null());
    command
}

impl Shop {
    fn open(lab: &Lab, web: &Cgroup, db: &Cgroup, dns: &Cgroup) -> Shop {
        let netns = lab.netns("shop");
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().display().to_string();
        let write = |name: &str, text: String| {
            let path = scratch.path().join(name);
            fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        write(
            "resolv.conf",
            "nameserver 127.0.0.1\noptions attempts:1 timeout:2\n".into(),
        );
        write("index.html", "hello\n".into());
        let nginx = write(
            "nginx.conf",
            format!(
                "user root; daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;\nevents {{}}\n\
                 http {{ access_log {dir}/access.log; client_body_temp_path {dir}/1; proxy_temp_path {dir}/2;\n\
                 fastcgi_temp_path {dir}/3; uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;\n\
                 server {{ listen 127.0.0.1:8080; root {dir}; }} }}\n"
            ),
        );
        let redis = write(
            "redis.conf",
            format!(
                "port 6379\nbind 127.0.0.1\nprotected-mode no\nsave \"\"\nappendonly no\ndir {dir}\n\
                 unixsocket {dir}/redis.sock\nlogfile {dir}/redis.log\ndaemonize no\n"
            ),
        );
        let facility = format!("--log-facility={dir}/dns.log");
        let servers = [
            (web, vec!["nginx", "-c", &nginx, "-e", "stderr"]),
            (db, vec!["redis-server", &redis]),
            (
                dns,
                vec![
                    "dnsmasq",
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--user=root",
                    "--no-resolv",
                    "--no-hosts",
                    "--pid-file",
                    "--listen-address=127.0.0.1",
                    "--bind-interfaces",
                    "--log-queries",
                    &facility,
                    "--address=/shop.test/127.0.0.1",
                ],
            ),
        ]
        .map(|(cgroup, words)| {
            let mut command = program(&netns, scratch.path(), cgroup, &words);
            Server(
                command
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("it starts"),
            )
        });
        Shop {
            netns,
            scratch,
            _servers: servers.into(),
        }
    }

    fn run(&self, cgroup: &Cgroup, words: &[&str]) -> Output {
        program(&self.netns, self.scratch.path(), cgroup, words)
            .output()
            .expect("it runs")
    }

    /// Looks a name up, fetches the page, pings the database. Whether all of it worked.
    fn session(&self, client: &Cgroup) -> Result<(), String> {
        self.fetch(client, "session")?;
        let pong = self.run(client, &["timeout", "5", "redis-cli", "-h", "127.0.0.1", "ping"]);
        match String::from_utf8_lossy(&pong.stdout).trim() {
            "PONG" => Ok(()),
            _ => Err(format!("{pong:?}")),
        }
    }

    fn fetch(&self, client: &Cgroup, mark: &str) -> Result<(), String> {
        let url = format!("http://{mark}.shop.test:8080/index.html?{mark}");
        let page = self.run(
            client,
            &["curl", "--silent", "--show-error", "--max-time", "5", "-4", &url],
        );
        match page.stdout.as_slice() {
            b"hello\n" => Ok(()),
            _ => Err(format!("{page:?}")),
        }
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.scratch.path().join(name)).unwrap_or_default()
    }

    /// How many connections redis has accepted on the network; those of this question itself are on another socket.
    fn redis_connections(&self) -> u64 {
        let socket = self.scratch.path().join("redis.sock").display().to_string();
        let info = Command::new("redis-cli")
            .args(["-s", &socket, "client", "list", "type", "normal"])
            .output();
        assert!(info.expect("redis-cli runs").status.success(), "redis answers");
        let stats = Command::new("redis-cli")
            .args(["-s", &socket, "info", "commandstats"])
            .output();
        let stats = String::from_utf8_lossy(&stats.expect("redis-cli runs").stdout).into_owned();
        let pings = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
        pings.map_or(0, |rest| {
            rest.split(',')
                .next()
                .and_then(|n| n.parse().ok())
                .expect("a number")
        })
    }

    fn wait_until_open(&self, client: &Cgroup) {
        let mut last = Ok(());
        let open = wait::within(wait::PATIENCE, || {
            last = self.session(client);
            last.is_ok()
        });
        assert!(open, "the shop does not open: {last:?}; {}", self.log("dns.log"));
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn checked(binary: &Path, policy: &Path) {
    let output = Command::new(binary)
        .args(["policy", "check", "--deny-warnings"])
        .arg(policy)
        .output();
    let output = output.expect("segd runs");
    let text = fs::read_to_string(policy).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}\n{text}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn what_was_learned_lets_the_same_session_pass_and_denies_a_rogue() {
    let Some(lab) = Lab::open() else { return };
    let [web, db, dns] = ["web", "db", "dns"].map(|name| lab.cgroup(name));
    let shop = Shop::open(&lab, &web, &db, &dns);
    let binary = segd_tests::segd::binary();
    let log: PathBuf = shop.scratch.path().join("flows.json");
    let early = lab.cgroup("early");
    shop.wait_until_open(&early);

    let mut segd = lab
        .segd(NOTHING)
        .args(&["--mode", "audit", "--allow-empty"])
        .start();
    // Younger than the policy in force: the daemon does not know its path, the command finds it.
    let client = lab.cgroup("client");
    let mut learning = Command::new(&binary)
        .args(["learn", "--for", "4s", "--control"])
        .arg(segd.control())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("segd runs");
    let mut sessions = 0;
    while learning.try_wait().expect("a child").is_none() {
        shop.session(&client).expect("nothing is denied");
        sessions += 1;
    }
    let output = learning.wait_with_output().expect("segd ends");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let proposal = succeeded(&output);
    assert!(sessions > 1, "one session at least was seen whole");
    assert!(!stderr.contains("incomplete"), "{stderr}");
    for port in ["tcp/8080", "tcp/6379", "udp/53"] {
        assert!(proposal.contains(port), "{port}\n{proposal}");
    }
    for cgroup in [&web, &db, &dns, &client] {
        assert!(
            proposal.contains(&format!("- cgroup: {}\n", cgroup.path())),
            "{proposal}"
        );
    }
    let learned = shop.scratch.path().join("learned.yaml");
    fs::write(&learned, &proposal).expect("a file");
    checked(&binary, &learned);

    // The same from the flow log, for a policy that knows two of them and has comments to be kept.
    shop.session(&early).expect("nothing is denied");
    let flows = succeeded(&segd.client(&["flows", "--last", "4096", "-o", "json"]));
    fs::write(&log, &flows).expect("a file");
    let base = format!(
        "# ours\napiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: shop}}\nspec:\n  segments:\n    \
         early:  # a client\n      match: [{{cgroup: {}}}]\n    db: {{match: [{{cgroup: {}}}]}}\n  allow:\n    \
         - {{from: early, to: db, ports: [tcp/1]}}  # kept\n  # the end\n",
        early.path(),
        db.path()
    );
    let ours = shop.scratch.path().join("ours.yaml");
    fs::write(&ours, &base).expect("a file");
    let merged = Command::new(&binary)
        .args(["learn", "--merge", "ours.yaml", "--from-log", "flows.json"])
        .current_dir(shop.scratch.path())
        .output()
        .expect("segd runs");
    let patch = succeeded(&merged);
    fs::write(shop.scratch.path().join("patch"), &patch).expect("a file");
    let applied = Command::new("git")
        .args(["apply", "-v", "patch"])
        .current_dir(shop.scratch.path())
        .output()
        .expect("git runs");
    assert!(applied.status.success(), "{applied:?}\n{patch}");
    checked(&binary, &ours);
    let text = fs::read_to_string(&ours).expect("a file");
    for line in base.lines() {
        assert!(text.lines().any(|kept| kept == line), "{line} is gone:\n{text}");
    }
    assert!(
        text.contains("- {from: early, to: db, ports: [tcp/6379]}"),
        "{text}"
    );
    segd.unload();
    drop(segd);

    let segd = lab.enforce(&proposal);
    shop.session(&client).expect("what was learned passes");
    let rogue = lab.cgroup("rogue");
    let pings = shop.redis_connections();
    assert!(shop.session(&rogue).is_err(), "the rogue gets through");
    assert!(shop.fetch(&rogue, "rogue").is_err(), "the rogue fetches");
    let ip = [
        "curl",
        "--silent",
        "--max-time",
        "2",
        "http://127.0.0.1:8080/?rogue",
    ];
    assert!(
        !shop.run(&rogue, &ip).status.success(),
        "the rogue fetches by address"
    );
    let ping = ["timeout", "2", "redis-cli", "-h", "127.0.0.1", "ping"];
    assert!(
        shop.run(&rogue, &ping).stdout.is_empty(),
        "the rogue has an answer"
    );
    // And the servers, which only answered, may start nothing.
    assert!(
        !shop.run(&web, &ping).status.success(),
        "nginx's cgroup may ask redis"
    );
    wait::quiet(wait::SILENCE);
    assert_eq!(shop.redis_connections(), pings, "a ping reached redis");
    assert!(
        !shop.log("access.log").contains("rogue"),
        "{}",
        shop.log("access.log")
    );
    assert!(!shop.log("dns.log").contains("rogue"), "{}", shop.log("dns.log"));
    assert!(
        shop.log("dns.log").contains("session.shop.test"),
        "dnsmasq tells of its queries"
    );
    shop.session(&client).expect("still");
    drop(segd);
}
