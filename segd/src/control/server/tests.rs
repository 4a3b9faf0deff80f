//! The control socket under slow, huge, half and many clients.

use std::io::{Read as _, Write as _};

use segd_common::event::Hook;
use tokio::task::{JoinHandle, spawn_blocking};

use super::*;
use crate::control::client::{Client, ClientError, ask};

/// Answers from fixed values; a second implementation of [`Handler`] beside the daemon's.
struct Fixed {
    sender: broadcast::Sender<Arc<FlowRecord>>,
    stopped: std::sync::atomic::AtomicBool,
    /// How often its large answer was made.
    large: std::sync::atomic::AtomicUsize,
}

impl Handler for Fixed {
    async fn status(&self) -> Status {
        Status {
            enforcing: true,
            revision: 3,
            ..Default::default()
        }
    }

    async fn segments(&self) -> Vec<SegmentRow> {
        vec![SegmentRow {
            name: "web".into(),
            ..Default::default()
        }]
    }

    async fn workloads(&self) -> Vec<WorkloadRow> {
        self.large.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (0..50_000)
            .map(|id| WorkloadRow {
                id,
                cgroup: "/shop/web".into(),
                ..Default::default()
            })
            .collect()
    }

    async fn rules(&self) -> Result<Vec<RuleRow>, Refusal> {
        Ok(Vec::new())
    }

    async fn catch_up(&self) {}

    async fn foreign(&self) -> Result<Vec<ForeignRow>, Refusal> {
        Ok(Vec::new())
    }

    fn flows(
        &self,
        last: usize,
        filter: &FlowFilter,
    ) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>) {
        let flows = [flow("denied"), flow("allowed")]
            .into_iter()
            .filter(|flow| filter.matches(flow))
            .take(last);
        (flows.map(Arc::new).collect(), self.sender.subscribe())
    }

    async fn explain(&self, question: Question) -> Result<Explanation, Refusal> {
        Err(Refusal::new(
            RefusalKind::Invalid,
            format!("segment `{}` is not declared", question.from),
        ))
    }

    async fn reload(&self) -> Result<Reloaded, Refusal> {
        Ok(Reloaded {
            revision: 4,
            changed: true,
        })
    }

    async fn apply(&self, candidate: Candidate) -> Result<Applied, Refusal> {
        Ok(Applied {
            revision: u32::try_from(candidate.texts.iter().map(|text| text.text.len()).sum::<usize>())
                .expect("short"),
            ..Applied::default()
        })
    }

    async fn dry_run(&self, candidate: Candidate) -> Result<DryRun, Refusal> {
        Ok(DryRun {
            texts: candidate.texts,
            ..DryRun::default()
        })
    }

    async fn confirm(&self) -> Result<Applied, Refusal> {
        Err(Refusal::new(RefusalKind::Conflict, "nothing is on trial"))
    }

    async fn rollback(&self) -> Result<Applied, Refusal> {
        Ok(Applied::default())
    }

    fn stop(&self) {
        self.stopped.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

fn flow(verdict: &'static str) -> FlowRecord {
    FlowRecord {
        verdict: verdict.into(),
        hook: Hook::label(2).into(),
        ..Default::default()
    }
}

struct Running {
    path: PathBuf,
    handler: Arc<Fixed>,
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn running() -> Running {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/segd/control.sock");
    let server = Server::bind(&path, None).await.expect("it binds");
    let handler = Arc::new(Fixed {
        sender: broadcast::Sender::new(4),
        stopped: false.into(),
        large: 0.into(),
    });
    let task = tokio::spawn(server.run(Arc::clone(&handler)));
    Running {
        path,
        handler,
        task,
        _directory: directory,
    }
}

impl Running {
    /// Asks with the real client, on another thread.
    async fn ask(&self, request: Request) -> Result<Response, ClientError> {
        let path = self.path.clone();
        spawn_blocking(move || ask(&path, &request))
            .await
            .expect("the client ends")
    }

    /// Sends bytes as they are and reads what comes back until the end.
    async fn raw(&self, bytes: Vec<u8>) -> String {
        let path = self.path.clone();
        let work = move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).expect("it accepts");
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .expect("a deadline");
            let _ = stream.write_all(&bytes);
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            text
        };
        spawn_blocking(work).await.expect("the client ends")
    }
}

#[tokio::test]
async fn answers_each_question() {
    let running = running().await;
    assert!(
        matches!(running.ask(Request::Status).await, Ok(Response::Status(status)) if status.revision == 3)
    );
    assert!(
        matches!(running.ask(Request::Segments).await, Ok(Response::Segments(rows)) if rows[0].name == "web")
    );
    assert!(
        matches!(running.ask(Request::Workloads).await, Ok(Response::Workloads(rows)) if rows.len() == 50_000)
    );
    assert!(matches!(running.ask(Request::Reload).await, Ok(Response::Reloaded(answer)) if answer.changed));
    let error = running
        .ask(Request::Explain(Question::default()))
        .await
        .expect_err("the handler says no");
    assert_eq!(error.exit_code(), 2);
}

#[tokio::test]
async fn is_open_to_its_owner_only_or_to_a_group() {
    let running = running().await;
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&running.path), 0o600);
    assert_eq!(mode(running.path.parent().expect("a parent")), 0o755);
    let shared = running.path.with_file_name("shared.sock");
    let group = std::fs::metadata(&running.path).expect("it is there").gid();
    let _server = Server::bind(&shared, Some(group)).await.expect("it binds");
    assert_eq!(mode(&shared), 0o660);
    assert!(
        !shared.with_file_name("shared.sock.new").exists(),
        "the temporary name is gone"
    );
}

#[tokio::test]
async fn replaces_a_dead_socket_but_not_a_living_one_and_no_file() {
    let running = running().await;
    let error = Server::bind(&running.path, None)
        .await
        .expect_err("somebody answers");
    assert!(error.to_string().contains("another segd is running"), "{error}");
    assert!(
        running.ask(Request::Status).await.is_ok(),
        "the living one is unharmed"
    );

    let dead = running.path.with_file_name("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("it binds"));
    assert!(dead.exists());
    drop(Server::bind(&dead, None).await.expect("nobody answers"));
    assert!(!dead.exists(), "a server takes its socket with it");

    let file = running.path.with_file_name("file");
    std::fs::write(&file, "precious").expect("it writes");
    assert!(matches!(
        Server::bind(&file, None).await,
        Err(ServerError::NotASocket(_))
    ));
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "precious");
}

#[tokio::test]
async fn refuses_nonsense_in_words() {
    let running = running().await;
    for (request, word) in [
        (&b"\n"[..], "not understood"),
        (b"GET / HTTP/1.1\r\n", "not understood"),
        (b"{\"version\":1,\"body\":\"launch\"}\n", "unknown variant"),
        (
            b"{\"version\":99,\"body\":\"status\"}\n",
            "version 99 is not spoken here",
        ),
        (b"\xff\xfe\n", "not understood"),
    ] {
        let answer = running.raw(request.to_vec()).await;
        assert!(
            answer.contains("refused") && answer.contains(word),
            "{request:?}: {answer}"
        );
    }
    let deep = [vec![b'['; 60_000], vec![b'\n']].concat();
    assert!(running.raw(deep).await.contains("refused"));
}

#[tokio::test]
async fn takes_a_policy_that_is_longer_than_any_other_request() {
    let running = running().await;
    let text = "# \"a line\"\n".repeat(400_000);
    let len = u32::try_from(text.len()).expect("short");
    let candidate = Candidate {
        texts: vec![crate::control::types::Text {
            name: "a.yaml".into(),
            text,
        }],
        ..Candidate::default()
    };
    let answer = running.ask(Request::Apply(candidate)).await.expect("it is taken");
    assert!(
        matches!(&answer, Response::Applied(applied) if applied.revision == len),
        "{answer:?}"
    );
    let error = running
        .ask(Request::Confirm)
        .await
        .expect_err("nothing is on trial");
    assert_eq!(error.exit_code(), 1, "{error}");
}

#[tokio::test]
async fn refuses_a_huge_request_without_reading_it() {
    let running = running().await;
    let path = running.path.clone();
    let sent = spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(path).expect("it accepts");
        stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .expect("a deadline");
        let block = vec![b'x'; 1 << 20];
        // 4 GiB, if it were let.
        let sent = (0..4096).take_while(|_| stream.write_all(&block).is_ok()).count();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        (sent, text)
    });
    let (sent, text) = sent.await.expect("the client ends");
    assert!(sent < 16, "{sent} MiB were taken");
    assert!(text.contains("longer than 65536 bytes"), "{text}");
    assert!(running.ask(Request::Status).await.is_ok());
}

#[tokio::test]
async fn hangs_up_on_half_a_request_and_serves_others_meanwhile() {
    let running = running().await;
    let started = std::time::Instant::now();
    let (half, status) = tokio::join!(
        running.raw(b"{\"version\":1".to_vec()),
        running.ask(Request::Status)
    );
    assert!(status.is_ok());
    assert!(half.contains("no request came in time"), "{half}");
    assert!(
        started.elapsed() < REQUEST_DEADLINE + Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let running = running().await;
    let path = running.path.clone();
    let crowd = spawn_blocking(move || {
        (0..4 * MAX_CLIENTS)
            .map(|_| std::os::unix::net::UnixStream::connect(&path).expect("it accepts"))
            .collect::<Vec<_>>()
    });
    let crowd = crowd.await.expect("they connect");
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        assert!(matches!(
            running.ask(Request::Status).await,
            Ok(Response::Status(_))
        ));
    }
    assert!(
        begun.elapsed() < REQUEST_DEADLINE,
        "not one had to wait for others to be given up"
    );
    drop(crowd);
    assert!(running.ask(Request::Status).await.is_ok());
}

#[tokio::test]
async fn explains_one_at_a_time_and_not_beside_a_large_answer() {
    let running = running().await;
    let request = |body| {
        let text = serde_json::to_vec(&Envelope {
            version: VERSION,
            body,
        });
        [text.expect("it is text"), vec![b'\n']].concat()
    };
    let connect = || std::os::unix::net::UnixStream::connect(&running.path).expect("it accepts");
    // Nobody reads what it has to send.
    let mut deaf = connect();
    deaf.write_all(&request(Request::Workloads))
        .expect("it takes the request");
    let begun = tokio::time::Instant::now();
    while running.handler.large.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < REQUEST_DEADLINE, "it is served");
        // SLEEP: it is served when the daemon gets to it.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let explain = running.ask(Request::Explain(Question::default()));
    let waits = tokio::time::timeout(Duration::from_millis(300), explain).await;
    assert!(waits.is_err(), "it waits for its turn: {waits:?}");
    drop(deaf);
    let explain = running.ask(Request::Explain(Question::default()));
    assert!(
        tokio::time::timeout(WRITE_DEADLINE, explain).await.is_ok(),
        "it is its turn"
    );
}

#[tokio::test]
async fn makes_one_large_answer_at_a_time_however_many_ask_and_do_not_read() {
    let running = running().await;
    let path = running.path.clone();
    let request = serde_json::to_vec(&Envelope {
        version: VERSION,
        body: Request::Workloads,
    });
    let request = [request.expect("it is text"), vec![b'\n']].concat();
    let crowd = spawn_blocking(move || {
        let ask = || {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("it accepts");
            stream.write_all(&request).expect("it takes the request");
            stream
        };
        (0..20).map(|_| ask()).collect::<Vec<_>>()
    });
    let crowd = crowd.await.expect("they connect");
    let made = || running.handler.large.load(std::sync::atomic::Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    while made() == 0 && begun.elapsed() < REQUEST_DEADLINE {
        // SLEEP: whoever is served first is served when the daemon gets to it.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..20 {
        assert!(
            running.ask(Request::Status).await.is_ok(),
            "who asks for little need not wait"
        );
    }
    assert!(begun.elapsed() < WRITE_DEADLINE, "nobody was given up yet");
    assert_eq!(made(), 1);
    drop(crowd);
    assert!(matches!(
        running.ask(Request::Workloads).await,
        Ok(Response::Workloads(rows)) if rows.len() == 50_000
    ));
}

#[tokio::test]
async fn survives_ten_thousand_connections_that_say_nothing() {
    let running = running().await;
    let path = running.path.clone();
    let flood = spawn_blocking(move || {
        for _ in 0..10_000 {
            drop(std::os::unix::net::UnixStream::connect(&path));
        }
    });
    flood.await.expect("they come and go");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while running.ask(Request::Status).await.is_err() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the server must still answer"
        );
    }
}

#[tokio::test]
async fn sends_recorded_flows_and_ends() {
    let running = running().await;
    let query = FlowQuery {
        last: 9,
        filter: FlowFilter {
            verdict: vec!["denied".into()],
            ..Default::default()
        },
        ..Default::default()
    };
    let path = running.path.clone();
    let work = move || {
        let mut client = Client::ask(&path, &Request::Flows(query)).expect("it asks");
        let mut answers = Vec::new();
        while let Some(answer) = client.receive().expect("it answers") {
            answers.push(answer);
        }
        answers
    };
    let answers = spawn_blocking(work).await.expect("the client ends");
    assert_eq!(answers, [Response::Flow(Box::new(flow("denied"))), Response::End]);
}

#[tokio::test]
async fn follows_flows_says_what_was_missed_and_notices_a_client_that_left() {
    let running = running().await;
    let path = running.path.clone();
    let query = FlowQuery {
        follow: true,
        filter: FlowFilter {
            verdict: vec!["denied".into()],
            ..Default::default()
        },
        last: 0,
    };
    let mut client = spawn_blocking(move || Client::ask(&path, &Request::Flows(query)).expect("it asks"))
        .await
        .expect("it asks");
    let sender = running.handler.sender.clone();
    wait_until(|| sender.receiver_count() == 1).await;
    for verdict in ["allowed", "denied", "allowed", "denied", "denied", "denied"] {
        let _ = sender.send(Arc::new(flow(verdict)));
    }
    let (first, second, client) = spawn_blocking(move || (client.receive(), client.receive(), client))
        .await
        .expect("it answers");
    assert!(matches!(first, Ok(Some(Response::Missed(2)))), "{first:?}");
    assert!(matches!(second, Ok(Some(Response::Flow(flow))) if flow.verdict == "denied"));
    drop(client);
    wait_until(|| sender.receiver_count() == 0).await;
}

#[tokio::test]
async fn holds_a_stop_open_until_it_ends() {
    let running = running().await;
    let path = running.path.clone();
    let work = move || {
        let mut client = Client::ask(&path, &Request::Stop).expect("it asks");
        let answer = client.answer().expect("it answers");
        let early = client.wait_for_the_end(Duration::from_millis(100));
        (client, answer, early)
    };
    let (mut client, answer, early) = spawn_blocking(work).await.expect("the client ends");
    assert_eq!(
        answer,
        Response::Stopping(Stopping {
            pid: std::process::id()
        })
    );
    assert!(!early, "the connection stays open");
    assert!(running.handler.stopped.load(std::sync::atomic::Ordering::SeqCst));
    running.task.abort();
    let ended = spawn_blocking(move || client.wait_for_the_end(Duration::from_secs(5)))
        .await
        .expect("it waits");
    assert!(ended, "it ends with the server");
}

#[tokio::test]
async fn tells_a_client_that_nobody_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let error = ask(&directory.path().join("none.sock"), &Request::Status).expect_err("nobody is there");
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().starts_with("segd is not running: /"), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("--control")));
}

#[track_caller]
fn wait_until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{place}: it did not happen in time"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
