//! The HTTP endpoint under odd clients.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use tokio::task::JoinSet;

use super::*;

struct Fixed {
    ready: bool,
}

impl Source for Fixed {
    async fn snapshot(&self) -> Snapshot {
        Snapshot {
            enforcing: self.ready,
            ..Default::default()
        }
    }

    async fn readiness(&self) -> Readiness {
        let reasons = if self.ready {
            vec![]
        } else {
            vec!["cgroup_skb/egress is not attached".to_string()]
        };
        Readiness {
            ready: self.ready,
            revision: 1,
            reasons,
        }
    }
}

async fn server(ready: bool) -> (SocketAddr, JoinSet<()>) {
    let listener = bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, Arc::new(Fixed { ready })));
    (address, tasks)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut text = String::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_string(&mut text))
        .await
        .expect("it ends in time");
    text
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn serves_metrics_as_prometheus_text() {
    let (address, _tasks) = server(true).await;
    let text = get(address, "/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(
        text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{text}"
    );
    assert!(text.contains("\nsegd_enforcing 1\n"), "{text}");
}

#[tokio::test]
async fn is_alive_before_it_is_ready_and_says_why() {
    let (address, _tasks) = server(false).await;
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
    let text = get(address, "/readyz").await;
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(
        text.ends_with(
            "{\"ready\":false,\"revision\":1,\"reasons\":[\"cgroup_skb/egress is not attached\"]}\n"
        )
    );
    let (address, _tasks) = server(true).await;
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn refuses_other_paths_and_methods() {
    let (address, _tasks) = server(true).await;
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
    assert!(get(address, "/metrics/../etc").await.starts_with("HTTP/1.1 404 "));
    let text = ask(
        address,
        "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(
        text.starts_with("HTTP/1.1 405 ") && text.contains("allow: GET, HEAD\r\n"),
        "{text}"
    );
    let text = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\n"),
        "{text}"
    );
}

#[tokio::test]
async fn says_that_the_address_is_in_use() {
    let listener = bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let error = bind(address).await.expect_err("the port is taken");
    assert!(
        matches!(error, HttpError::InUse(taken) if taken == address),
        "{error}"
    );
}

#[tokio::test]
async fn hangs_up_on_half_a_request() {
    let (address, _tasks) = server(true).await;
    let started = tokio::time::Instant::now();
    let text = ask(address, "GET /metrics HTT").await;
    assert!(!text.contains("200"), "{text}");
    assert!(started.elapsed() <= CONNECTION_LIMIT, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_crowd_that_says_little_keeps_nobody_out() {
    let (address, _tasks) = server(true).await;
    let mut crowd = Vec::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
            .await
            .expect("it reads");
        crowd.push(stream);
    }
    let begun = tokio::time::Instant::now();
    for _ in 0..20 {
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 200 "));
    }
    assert!(
        begun.elapsed() < HEADER_LIMIT,
        "not one had to wait for others to be given up"
    );
}

#[tokio::test]
async fn a_crowd_that_reads_slowly_shares_a_few_pages() {
    let source = Fixed { ready: true };
    let mut pages = Pages::default();
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(pages.page(&source).await.expect("a page"));
    }
    let texts: std::collections::BTreeSet<*const u8> = held.iter().map(|page| page.as_ptr()).collect();
    assert_eq!(texts.len(), MOST_PAGES);
    assert_eq!(pages.sent.len(), MOST_PAGES);
    // Nobody reads any more: what comes next is new, and nothing is kept for it.
    drop(held);
    assert_eq!(
        pages.sent.iter().filter(|page| page.strong_count() > 0).count(),
        0
    );
    let now = Fixed { ready: false };
    let page = pages.page(&now).await.expect("a page");
    assert!(String::from_utf8_lossy(&page).contains("\nsegd_enforcing 0\n"));
    assert_eq!(pages.sent.len(), 1);
}

#[tokio::test]
async fn refuses_an_endless_head() {
    let (address, _tasks) = server(true).await;
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n").await;
    let mut sent = 0;
    while sent < 10_000 && stream.write_all(line.as_bytes()).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 10_000, "the server took {sent} KB");
    assert!(
        get(address, "/healthz").await.starts_with("HTTP/1.1 200 "),
        "others are served"
    );
}
