//! Evidence in strangers' hands: a proof without its log, a log as static files, read by what others wrote.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, Hash, Tile, TileHashReader, TileReader, check_record, check_tree, prove_record, prove_tree, record_hash,
};

use crate::dev::{Dev, PATIENCE, eventually, run};
use crate::world::Upstream;

/// A log of some calls, of which the first has this id.
fn written(calls: usize) -> (Dev, String) {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let ids: Vec<String> = (0..calls)
        .map(|n| {
            dev.call("billing", "GET", &format!("/v1/orders/{n}")).header("portcullis-call-id").unwrap().to_owned()
        })
        .collect();
    (dev, ids[0].clone())
}

fn key(dev: &Dev) -> String {
    let file = std::fs::read_to_string(Path::new(&dev.addresses.evidence).join("log.json")).unwrap();
    serde_json::from_str::<Value>(&file).unwrap()["vkey"].as_str().unwrap().to_owned()
}

fn cosigner(dev: &Dev) -> String {
    let named = "gateway/control.vkey";
    std::fs::read_to_string(dev.dir().join(named)).unwrap().trim().to_owned()
}

/// Static files, served by a server that knows nothing of logs.
struct Files {
    server: Child,
    address: String,
}

impl Files {
    fn serve(directory: &Path) -> Self {
        let mut server = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
            .arg(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.take().unwrap()), &mut line).unwrap();
        let port = line.split(' ').nth(5).unwrap();
        Self { address: format!("http://127.0.0.1:{port}"), server }
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let done = Command::new("curl").args(["-sSf", &format!("{}/{path}", self.address)]).output().unwrap();
        assert!(done.status.success(), "{path}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

#[test]
fn a_proof_verifies_without_its_log_and_no_changed_one_does() {
    let (mut dev, call) = written(40);
    let (key, cosigner) = (key(&dev), cosigner(&dev));
    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().display().to_string();
    // Cosigned with the next renewal.
    eventually("the call is under a cosigned checkpoint", PATIENCE, || {
        let done = dev.cli(&["-o", "json", "evidence", "prove", &call, "--to", &to]);
        let files = std::fs::read_dir(elsewhere.path()).unwrap().count();
        done.code == 0 && files == 2 && {
            // The cosignature may have come between the two.
            done.json()["proofs"].as_array().unwrap().iter().all(|proof| {
                let file = proof["file"].as_str().unwrap();
                run(elsewhere.path(), &["evidence", "verify", file, "--cosigner", &cosigner]).code == 0
            })
        }
    });
    dev.stop();
    drop(dev);

    let proofs: Vec<PathBuf> = std::fs::read_dir(&to).unwrap().map(|file| file.unwrap().path()).collect();
    let mut kinds = Vec::new();
    for proof in &proofs {
        let file = proof.display().to_string();
        let said =
            run(elsewhere.path(), &["-o", "json", "evidence", "verify", &file, "--key", &key, "--cosigner", &cosigner]);
        let said = said.exits(0).json();
        assert_eq!((&said["verified"], &said["entry"]["data"]["call"]), (&true.into(), &call.as_str().into()));
        assert!(said["cosigned"].is_string());
        kinds.push(said["kind"].as_str().unwrap().to_owned());
        // A proof that named its own key would prove nothing.
        run(elsewhere.path(), &["evidence", "verify", &file]).exits(2);

        let text = std::fs::read_to_string(proof).unwrap();
        for (n, line) in text.lines().enumerate().filter(|(_, line)| line.len() > 12 && !line.starts_with('\u{2014}')) {
            let at = line.len() - 8;
            let changed = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut other = line.to_owned();
            other.replace_range(at..=at, changed);
            let forged = elsewhere.path().join("forged");
            std::fs::write(&forged, text.replacen(line, &other, 1)).unwrap();
            let said = run(elsewhere.path(), &["evidence", "verify", &forged.display().to_string(), "--key", &key]);
            assert!(said.exits(8).stderr.contains("verification failed"), "line {n}");
            std::fs::remove_file(forged).unwrap();
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["intent", "outcome"]);
}

#[test]
fn a_log_behind_an_address_is_verified_with_a_pinned_key_and_a_changed_file_is_named() {
    let (mut dev, _) = written(140);
    let key = key(&dev);
    assert!(dev.stop().success());
    let home = tempfile::tempdir().unwrap();
    let export = home.path().join("export");
    let to = export.display().to_string();
    let log = dev.addresses.evidence.clone();
    let done = dev.cli(&["-o", "json", "evidence", "export", &log, "--to", &to]).exits(0).json();
    let records = done["records"].as_u64().unwrap();
    assert!(records > 280);
    let again = dev.cli(&["-o", "json", "evidence", "export", &log, "--to", &to]).exits(0).json();
    assert_eq!(again["records_before"], records);

    let files = Files::serve(&export);
    for place in [&to, &files.address] {
        let said = run(home.path(), &["-o", "json", "evidence", "verify", place, "--key", &key]).exits(0).json();
        assert_eq!((&said["records"], &said["size"]), (&records.into(), &records.into()));
    }
    let kept = home.path().join("remembered");
    std::fs::copy(export.join("checkpoint"), &kept).unwrap();
    let kept = kept.display().to_string();
    run(home.path(), &["evidence", "verify", &files.address, "--key", &key, "--against", &kept]).exits(0);

    let bundle = export.join("tile/entries/000");
    let before = std::fs::read(&bundle).unwrap();
    let at = before.windows(9).position(|window| window == b"\"billing\"").unwrap();
    let mut bytes = before.clone();
    bytes[at + 1..at + 8].copy_from_slice(b"nobody1");
    std::fs::write(&bundle, &bytes).unwrap();
    let said = run(home.path(), &["evidence", "verify", &files.address, "--key", &key]).exits(8);
    assert!(said.stderr.contains("at record "), "{}", said.stderr);
    std::fs::remove_file(&bundle).unwrap();
    let said = run(home.path(), &["evidence", "verify", &files.address, "--key", &key]).exits(8);
    assert!(said.stderr.contains("at record 0:") && said.stderr.contains("missing"), "{}", said.stderr);
}

#[test]
fn a_server_that_claims_a_log_without_end_is_believed_in_nothing() {
    let (mut dev, _) = written(3);
    let key = key(&dev);
    assert!(dev.stop().success());
    let home = tempfile::tempdir().unwrap();
    let to = home.path().join("export");
    dev.cli(&["evidence", "export", &dev.addresses.evidence, "--to", &to.display().to_string()]).exits(0);
    let note = std::fs::read_to_string(to.join("checkpoint")).unwrap();
    let size = note.lines().nth(1).unwrap().to_owned();
    // Whatever is asked for, it answers: nothing, or as many zeros as nobody asked for.
    for answer in [&b""[..], &[0; 8192]] {
        let claims = note.replacen(&size, "9223372036854775807", 1);
        let log = std::fs::read(to.join("log.json")).unwrap();
        let server = Upstream::start(move |head, stream| {
            let body = match head.split(' ').nth(1).unwrap_or_default() {
                "/checkpoint" => claims.as_bytes(),
                "/log.json" => &log,
                "/cosigned" => {
                    return drop(stream.write_all(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
                }
                _ => answer,
            };
            let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            drop(stream.write_all(&[head.as_bytes(), body].concat()));
        });
        let address = format!("http://{}", server.address);
        for more in [&[][..], &["--key", &key]] {
            let said = run(home.path(), &[&["evidence", "verify", &address][..], more].concat()).exits(8);
            assert!(said.stderr.contains("checkpoint: "), "{}", said.stderr);
        }
        assert!(server.seen() < 10, "{} requests", server.seen());
    }
}

/// Cloudflare's client of the format, over the server.
struct Foreign<'f>(&'f Files);

impl TileReader for Foreign<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        // Its paths name the height, as Go's do; the standard's do not.
        Ok(tiles.iter().map(|tile| self.0.get(&tile.path().replacen("tile/8/", "tile/", 1))).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

#[test]
fn others_read_and_verify_a_log_of_ours() {
    let (mut dev, _) = written(140);
    let key = key(&dev);
    assert!(dev.stop().success());
    let home = tempfile::tempdir().unwrap();
    let to = home.path().join("export");
    dev.cli(&["evidence", "export", &dev.addresses.evidence, "--to", &to.display().to_string()]).exits(0);
    let files = Files::serve(&to);

    let note = Note::from_bytes(&files.get("checkpoint")).unwrap();
    let verifiers = VerifierList::new(vec![Box::new(StandardVerifier::new(&key).unwrap())]);
    let (signatures, _) = note.verify(&verifiers).unwrap();
    assert_eq!(signatures.len(), 1);
    let checkpoint = Checkpoint::from_bytes(note.text()).unwrap();
    let (size, root) = (checkpoint.size(), Hash(checkpoint.hash().0));
    let foreign = Foreign(&files);
    // Every tile that it reads it checks against the root.
    let reader = TileHashReader::new(size, root, &foreign);
    let schema = run(home.path(), &["config", "schema", "evidence"]).exits(0).json();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    let mut record = 0;
    for bundle in 0..size.div_ceil(256) {
        let width = (size - bundle * 256).min(256);
        let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
        let mut rest = &files.get(&format!("tile/entries/{bundle:03}{partial}"))[..];
        while let [high, low, after @ ..] = rest {
            let (entry, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            let value: Value = serde_json::from_slice(entry).unwrap();
            assert_eq!(value["seq"], record);
            assert!(schema.is_valid(&value), "{value}");
            if record % 41 == 0 || record + 1 == size {
                let proof = prove_record(size, record, &reader).unwrap();
                check_record(&proof, size, root, record, record_hash(entry)).unwrap();
            }
            record += 1;
            rest = after;
        }
    }
    assert_eq!(record, size);
    let old = tlog_tiles::tree_hash(200, &reader).unwrap();
    check_tree(&prove_tree(size, 200, &reader).unwrap(), size, root, 200, old).unwrap();
}

/// Go's packages for its checksum database, over the server.
fn read_by_go(program: &Path, address: &str, key: &str) -> crate::dev::Done {
    crate::dev::Done::of(Command::new(program).args([address, key]).output().unwrap())
}

#[test]
fn gos_checksum_database_client_reads_a_log_of_two_lives_and_refuses_any_other() {
    let (mut dev, _) = written(140);
    dev.kill();
    let mut dev = dev.restart(&[]);
    let key = key(&dev);
    assert!(dev.stop().success());
    let home = tempfile::tempdir().unwrap();
    let (to, program) = (home.path().join("export"), home.path().join("readlog"));
    let log = dev.addresses.evidence.clone();
    let done = dev.cli(&["-o", "json", "evidence", "export", &log, "--to", &to.display().to_string()]).exits(0).json();
    let records = done["records"].as_u64().unwrap();
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&program).arg(crate::clients::script("readlog.go"));
    // Where Debian's packages of Go libraries are.
    build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    let built = build.env("GOCACHE", crate::clients::clients().join("go")).output().expect("go");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let files = Files::serve(&to);
    let read = read_by_go(&program, &files.address, &key).exits(0);
    assert_eq!(read.stdout.trim(), records.to_string());
    let (last, more) = (records / 256, records % 256);
    let paths = [
        String::from("checkpoint"),
        "tile/0/000".into(),
        "tile/entries/000".into(),
        format!("tile/0/{last:03}.p/{more}"),
    ];
    for path in paths.map(|path| to.join(path)) {
        let before = std::fs::read(&path).unwrap();
        let mut changed = before.clone();
        // The last but one byte: of a note, of its signature.
        let at = changed.len() - 2;
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        std::fs::write(&path, changed).unwrap();
        let refused = read_by_go(&program, &files.address, &key).exits(1);
        assert!(!refused.stderr.is_empty(), "{}", path.display());
        std::fs::write(&path, before).unwrap();
    }
    read_by_go(&program, &files.address, &key).exits(0);
    let other = key.replacen(key.split('+').next().unwrap(), "gate.other/log", 1);
    read_by_go(&program, &files.address, &other).exits(1);
}

#[test]
fn a_witness_cosigns_what_grows_and_refuses_a_log_that_was_put_back() {
    let (dev, _) = written(20);
    let home = tempfile::tempdir().unwrap();
    let key = key(&dev);
    let start = || {
        let mut server = crate::dev::command(home.path())
            .args(["-o", "json", "evidence", "witness", "--listen", "127.0.0.1:0", "--name", "witness.example/w1"])
            .args(["--key", "witness.key", "--state", "witnessed", "--log", &key])
            .current_dir(home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.take().unwrap()), &mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = format!("http://{}", said["address"].as_str().unwrap());
        (Files { server, address }, said["key"].as_str().unwrap().to_owned())
    };
    let kept = home.path().join("kept").display().to_string();
    let cosign = |log: &str, address: &str, witness: &str| {
        dev.cli(&["-o", "json", "evidence", "cosign", log, "--witness", address, "--cosigner", witness, "--to", &kept])
    };
    let (server, witness) = start();
    let log = dev.addresses.evidence.clone();
    let before = home.path().join("before");
    let first = cosign(&log, &server.address, &witness).exits(0).json();
    assert!(first["size"].as_u64().unwrap() > 0 && first["cosigned"].is_string());
    run(home.path(), &["evidence", "verify", &log, "--key", &key, "--against", &kept]).exits(0);
    assert!(Command::new("cp").arg("-r").arg(&log).arg(&before).status().unwrap().success());

    (0..30).for_each(|n| drop(dev.call("billing", "GET", &format!("/v1/orders/more-{n}"))));
    eventually("what came since is signed, and then cosigned", PATIENCE, || {
        let size = cosign(&log, &server.address, &witness).exits(0).json()["size"].as_u64().unwrap();
        size >= first["size"].as_u64().unwrap() + 60
    });
    // It was killed, and knows still.
    drop(server);
    let (server, again) = start();
    assert_eq!(again, witness);
    let said = cosign(&before.display().to_string(), &server.address, &witness).exits(5);
    assert!(said.stderr.contains("an older copy of it put back"), "{}", said.stderr);
    cosign(&log, &server.address, &witness).exits(0);
    let other = Dev::start();
    let said = cosign(&other.addresses.evidence, &server.address, &witness);
    assert!(said.exits(5).stderr.contains("403"), "another log of the same name and another key");
}
