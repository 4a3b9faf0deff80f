//! Signatures by a real ssh-keygen.

use std::{fs, process::Command, time::Duration};

use super::{
    super::{Sources, child, read_sealed},
    *,
};

/// A directory with a signed policy, a key, and who may sign.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let stage = Stage {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in ["alice", "mallory"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(stage.at(name))
                .status();
            assert!(made.unwrap().success());
        }
        stage.allow("");
        fs::create_dir_all(stage.at("policy/sub")).unwrap();
        stage.write("policy/a.yaml", "a\n");
        stage.write("policy/sub/b.yaml", "b\n");
        stage.write("one.yaml", "# segd: serial 7\none\n");
        stage.sign(7, "alice");
        let one = fs::read_to_string(stage.at("one.yaml")).unwrap();
        stage.write("one.yaml.sig", &sign(&one, &stage.at("alice")).unwrap());
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    /// Alice may sign, with options of the list.
    fn allow(&self, options: &str) {
        let key = fs::read_to_string(self.at("alice.pub")).unwrap();
        self.write("signers", &format!("alice@example.org {options} {key}"));
    }

    /// Signs the directory.
    fn sign(&self, serial: u64, key: &str) {
        let path = self.at("policy");
        let sources = crate::source::read(std::slice::from_ref(&path), &Trust::Everybody).unwrap();
        let text = manifest(&path, &sources.sources, serial);
        self.write("policy/segd.manifest", &text);
        self.write("policy/segd.manifest.sig", &sign(&text, &self.at(key)).unwrap());
    }

    fn look(&self, path: &str) -> Result<Sources, String> {
        let sealed = read_sealed(&self.at(path), &Trust::Everybody, &self.at("signers"));
        let sources = sealed.and_then(|sealed| {
            let signed = sealed.verify()?;
            Ok(sealed.signed_by(signed))
        });
        sources.map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refuses(&self, path: &str, said: &str) {
        let refused = self.look(path).expect_err("it must not be believed");
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

#[test]
fn believes_what_an_allowed_signer_signed() {
    let stage = Stage::new();
    for path in ["policy", "one.yaml"] {
        let signed = stage.look(path).unwrap().signed.unwrap();
        assert_eq!(
            (signed.serial, signed.signer.as_str()),
            (7, "alice@example.org"),
            "{path}"
        );
        assert_eq!(signed.digest.len(), 64);
    }
    stage.allow("valid-after=\"20200101\",namespaces=\"segd-policy\"");
    stage.look("policy").unwrap();
}

#[test]
fn refuses_what_was_changed_added_left_out_or_exchanged() {
    let stage = Stage::new();
    stage.write("one.yaml", "# segd: serial 8\none\n");
    stage.refuses("one.yaml", "is not signed for `segd-policy`");
    stage.write("policy/c.yaml", "c\n");
    stage.refuses("policy", "policy/c.yaml`: is not in the signed manifest");
    fs::remove_file(stage.at("policy/c.yaml")).unwrap();
    stage.write("policy/a.yaml", "b\n");
    stage.write("policy/sub/b.yaml", "a\n");
    stage.refuses("policy", "policy/a.yaml`: is not what was signed");
    stage.write("policy/a.yaml", "a\n");
    fs::remove_file(stage.at("policy/sub/b.yaml")).unwrap();
    stage.refuses(
        "policy",
        "policy/sub/b.yaml`: is in the signed manifest, and is not there",
    );
    stage.write("policy/sub/b.yaml", "b\n");
    stage.look("policy").unwrap();
    let text = fs::read_to_string(stage.at("policy/segd.manifest")).unwrap();
    stage.write("policy/segd.manifest", &text.replace("serial 7", "serial 8"));
    stage.refuses("policy", "segd.manifest`: is not signed for `segd-policy`");
}

#[test]
fn refuses_what_is_not_signed_and_what_others_signed() {
    let stage = Stage::new();
    fs::remove_file(stage.at("one.yaml.sig")).unwrap();
    stage.refuses("one.yaml", "is not signed: there is no `");
    stage.write("one.yaml.sig", "nonsense\n");
    stage.refuses("one.yaml", "is not signed for `segd-policy`");
    stage.sign(8, "mallory");
    stage.refuses("policy", "is not signed for `segd-policy`");
    fs::remove_file(stage.at("policy/segd.manifest")).unwrap();
    stage.refuses("policy", "it has no segd.manifest");
    fs::remove_file(stage.at("signers")).unwrap();
    stage.sign(8, "alice");
    stage.refuses("policy", "there is no such list of allowed signers");
}

#[test]
fn refuses_a_signature_for_something_else_and_one_by_a_key_that_is_over() {
    let stage = Stage::new();
    let manifest = fs::read(stage.at("policy/segd.manifest")).unwrap();
    let mut other = Command::new("ssh-keygen");
    other
        .args(["-Y", "sign", "-n", "file", "-f"])
        .arg(stage.at("alice"));
    let made = child::ask(&mut other, manifest, &[], 1 << 16, Duration::from_secs(60)).unwrap();
    assert!(made.status.success(), "{}", made.stderr);
    fs::write(stage.at("policy/segd.manifest.sig"), made.stdout).unwrap();
    stage.refuses("policy", "is not signed for `segd-policy`");
    stage.sign(8, "alice");
    for over in [
        "valid-before=\"20200101\"",
        "valid-after=\"29990101\"",
        "namespaces=\"git\"",
    ] {
        stage.allow(over);
        stage.refuses("policy", "that `");
    }
}

#[test]
fn the_serial_stands_in_the_first_line_and_nowhere_else() {
    for (text, number) in [
        ("# segd: serial 42\nspec: {}\n", Some(42)),
        ("# segd: serial 042\n", None),
        ("# segd: serial -1\n", None),
        ("# segd: serial 0\n", None),
        ("# segd: serial 99999999999999999999999\n", None),
        ("\n# segd: serial 42\n", None),
        ("", None),
    ] {
        assert_eq!(serial(text), number, "{text}");
    }
    assert_eq!(with_serial("# segd: serial 1\nx\n", 2), "# segd: serial 2\nx\n");
    assert_eq!(with_serial("x\n", 2), "# segd: serial 2\nx\n");
}
