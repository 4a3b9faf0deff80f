//! The JSON Schema in the hands of an editor: a real YAML language server completes, explains and marks by it.
//!
//! `cargo xtask setup` installs the server. It runs in a network namespace without a way out where that can be had, and asks
//! nobody for a schema.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

use segd_tests::{segd, wait};
use serde_json::{Value, json};

/// The server's program, where `cargo xtask setup` puts it.
fn program() -> Option<PathBuf> {
    let tools = std::env::var_os("SEGD_TOOLS").map(PathBuf::from);
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.join("tools");
    tools
        .into_iter()
        .chain([target])
        .map(|tools| tools.join("editor/node_modules/yaml-language-server/bin/yaml-language-server"))
        .find(|path| path.exists())
}

/// A running server, and the directory with its documents and the schema.
struct Editor {
    server: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    directory: tempfile::TempDir,
    last: u64,
}

impl Editor {
    /// `None` where there is no server, which is said, and is a failure where everything is required.
    fn open() -> Option<Editor> {
        let Some(program) = program() else {
            let why = "no yaml-language-server: `cargo xtask setup` installs it";
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            return None;
        };
        let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
        let schema = Command::new(segd::binary())
            .args(["policy", "schema"])
            .output()
            .unwrap();
        fs::write(directory.path().join("segd.schema.json"), schema.stdout).unwrap();
        // SAFETY: takes nothing, touches no memory.
        let is_root = unsafe { libc::geteuid() } == 0;
        let mut command = if is_root {
            let mut alone = Command::new("unshare");
            alone.args(["--net", "node"]);
            alone
        } else {
            Command::new("node")
        };
        let mut server = command
            .arg(program)
            .arg("--stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs");
        let mut out = BufReader::new(server.stdout.take().unwrap());
        let (send, from) = channel();
        std::thread::spawn(move || {
            while let Some(message) = message(&mut out) {
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let mut editor = Editor {
            to: server.stdin.take().unwrap(),
            server,
            from,
            directory,
            last: 0,
        };
        let can =
            json!({"workspace": {"configuration": true}, "textDocument": {"hover": {}, "completion": {}}});
        let root = editor.uri("");
        editor.request(
            "initialize",
            json!({"processId": null, "rootUri": root, "capabilities": can}),
        );
        editor.send(json!({"method": "initialized", "params": {}}));
        Some(editor)
    }

    fn uri(&self, name: &str) -> String {
        format!("file://{}/{name}", self.directory.path().display())
    }

    fn send(&mut self, mut message: Value) {
        message["jsonrpc"] = "2.0".into();
        let body = message.to_string();
        write!(self.to, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        self.to.flush().unwrap();
    }

    /// The next message that is the wanted one. What the server asks meanwhile is answered.
    #[track_caller]
    fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let deadline = wait::patient(wait::PATIENCE);
            let message = self
                .from
                .recv_timeout(deadline)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            if message.get("method").is_some() && message.get("id").is_some() {
                let items = message["params"]["items"].as_array().cloned().unwrap_or_default();
                let settings = items.iter().map(|item| {
                    if item["section"] == "yaml" {
                        json!({"schemaStore": {"enable": false}, "validate": true, "hover": true, "completion": true})
                    } else {
                        json!({})
                    }
                });
                let result: Vec<Value> = settings.collect();
                self.send(json!({"id": message["id"], "result": result}));
            } else if wanted(&message) {
                return message;
            }
        }
    }

    #[track_caller]
    fn request(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        self.send(json!({"id": id, "method": method, "params": params}));
        let answer = self.wait(method, |message| message["id"] == id);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Opens a document, and gives what is marked in it: line, counted from 0, and message.
    #[track_caller]
    fn open_document(&mut self, name: &str, text: &str) -> Vec<(u64, String)> {
        let uri = self.uri(name);
        let text = format!("# yaml-language-server: $schema=segd.schema.json\n{text}");
        let document = json!({"uri": uri, "languageId": "yaml", "version": 1, "text": text});
        self.send(json!({"method": "textDocument/didOpen", "params": {"textDocument": document}}));
        let told = self.wait(name, |message| {
            message["method"] == "textDocument/publishDiagnostics" && message["params"]["uri"] == *uri
        });
        let told = told["params"]["diagnostics"].as_array().unwrap().iter();
        told.map(|one| {
            let line = one["range"]["start"]["line"].as_u64().unwrap();
            (line - 1, one["message"].as_str().unwrap().to_owned())
        })
        .collect()
    }

    #[track_caller]
    fn at(&mut self, method: &str, name: &str, line: usize, character: usize) -> Value {
        let uri = self.uri(name);
        let params =
            json!({"textDocument": {"uri": uri}, "position": {"line": line + 1, "character": character}});
        self.request(method, params)
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A message of the language server protocol; `None` at the end.
fn message(out: &mut impl std::io::BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if out.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    out.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

const HEAD: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\n";

#[test]
fn completion_offers_what_a_policy_may_say_there_and_nothing_else() {
    let Some(mut editor) = Editor::open() else { return };
    let spec = |rest: &str| format!("{HEAD}spec:\n{rest}");
    let web = "  segments:\n    web:\n";
    let cases: [(&str, String, &[&str]); 13] = [
        (
            "a document",
            String::new(),
            &["apiVersion", "kind", "metadata", "spec"],
        ),
        (
            "a kind",
            "apiVersion: segd.dev/v1\nkind: ".to_owned(),
            &["SegmentPolicy"],
        ),
        ("metadata", "metadata:\n  ".to_owned(), &["name"]),
        (
            "spec",
            spec("  "),
            &[
                "mode", "segments", "allow", "deny", "tests", "defaults", "release",
            ],
        ),
        ("a mode", spec("  mode: "), &["enforce", "audit"]),
        (
            "a segment",
            spec(&format!("{web}      ")),
            &["labels", "match", "intra", "mode"],
        ),
        ("intra", spec(&format!("{web}      intra: ")), &["allow", "deny"]),
        (
            "a matcher",
            spec(&format!("{web}      match:\n        - ")),
            &["cgroup", "systemd", "user", "cidr", "except"],
        ),
        (
            "a rule",
            spec("  allow:\n    - "),
            &["from", "to", "ports", "reason", "until", "when"],
        ),
        (
            "a window",
            spec("  allow:\n    - from: web\n      when:\n        "),
            &["days", "hours", "zone"],
        ),
        (
            "a rule that has begun",
            spec("  deny:\n    - from: web\n      "),
            &["to", "ports", "reason"],
        ),
        (
            "a test",
            spec("  tests:\n    - "),
            &["from", "to", "port", "expect", "reason"],
        ),
        (
            "what is expected",
            spec("  tests:\n    - expect: "),
            &["allow", "deny"],
        ),
    ];
    let mut differences = Vec::new();
    for (number, (story, text, expected)) in cases.into_iter().enumerate() {
        let name = format!("completion-{number}.yaml");
        editor.open_document(&name, &text);
        let line = text.matches('\n').count();
        let character = text.rsplit('\n').next().unwrap_or("").len();
        let offered = editor.at("textDocument/completion", &name, line, character);
        let offered: BTreeSet<String> = offered["items"]
            .as_array()
            .unwrap_or_else(|| panic!("{story}: {offered}"))
            .iter()
            .filter_map(|item| {
                let (label, inserted) = (item["label"].as_str()?, item["insertText"].as_str()?);
                // Where nothing stands yet a skeleton is offered as well, under a title that it does not insert.
                inserted.starts_with(label).then(|| label.to_owned())
            })
            .collect();
        let expected: BTreeSet<String> = expected.iter().map(|word| (*word).to_owned()).collect();
        if offered != expected {
            differences.push(format!("{story}: {offered:?} instead of {expected:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn hovering_over_a_field_says_what_the_schema_says_of_it() {
    let Some(mut editor) = Editor::open() else { return };
    let schema = fs::read_to_string(editor.directory.path().join("segd.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let text = format!(
        "{HEAD}spec:\n  mode: enforce\n  segments:\n    web:\n      intra: deny\n      match:\n        - systemd: nginx.service\n  \
         allow:\n    - from: web\n      to: world\n      ports: [tcp/443]\n  tests:\n    - from: web\n      to: world\n      \
         port: tcp/443\n      expect: allow\n"
    );
    editor.open_document("hover.yaml", &text);
    let of: BTreeMap<&str, &str> = BTreeMap::from([
        ("mode", "spec"),
        ("segments", "spec"),
        ("intra", "segment"),
        ("match", "segment"),
        ("systemd", "matcher"),
        ("ports", "allow"),
        ("expect", "test"),
    ]);
    for (field, definition) in of {
        let description = schema["$defs"][definition]["properties"][field]["description"].as_str();
        let description = description.unwrap_or_else(|| panic!("{definition}.{field} is described"));
        let (line, character) = text
            .lines()
            .enumerate()
            .find_map(|(number, line)| Some((number, line.find(&format!("{field}:"))?)))
            .unwrap();
        let shown = editor.at("textDocument/hover", "hover.yaml", line, character + 1);
        // Markdown escapes.
        let shown = shown["contents"]["value"]
            .as_str()
            .unwrap_or_default()
            .replace('\\', "");
        assert!(
            shown.contains(description),
            "{field}: {description:?} is not in {shown:?}"
        );
    }
}

#[test]
fn what_is_misspelt_is_marked_on_its_line_and_what_is_right_is_not() {
    let Some(mut editor) = Editor::open() else { return };
    let spec = |rest: &str| format!("{HEAD}spec:\n{rest}");
    for (number, (text, line, word)) in [
        (spec("  segments:\n    web:\n      intraa: deny\n"), 6, "intraa"),
        (
            spec("  segments:\n    web: {match: [{cgroup: web}]}\n"),
            5,
            "pattern",
        ),
        (spec("  mode: enforced\n"), 4, "\"enforce\", \"audit\""),
        (
            spec("  allow:\n    - {from: web, to: db, ports: [tcp/70000]}\n"),
            5,
            "pattern",
        ),
        (spec("  allow:\n    - {from: web, to: db}\n"), 5, "ports"),
        (spec("  deny:\n    - {from: web}\n"), 5, "\"to\""),
        (
            spec("  tests:\n    - {from: a, to: b, port: any, expect: allowed}\n"),
            5,
            "\"allow\", \"deny\"",
        ),
        (
            HEAD.replace("SegmentPolicy", "SegmentPolicies") + "spec: {}\n",
            1,
            "SegmentPolicy",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let marked = editor.open_document(&format!("wrong-{number}.yaml"), &text);
        assert!(
            marked
                .iter()
                .any(|(at, message)| *at == line && message.contains(word)),
            "{text}: {marked:?}"
        );
    }
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut samples = 0;
    for folder in [policies.clone(), policies.join("cookbook")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path).unwrap();
                let marked = editor.open_document(&format!("right-{samples}.yaml"), &text);
                assert_eq!(marked, [], "{}", path.display());
                samples += 1;
            }
        }
    }
    assert!(samples >= 10, "{samples} samples");
}
