//! Records that say the right thing in another spelling, written and signed by somebody who has the log's key.
//!
//! Everything else holds: frames, hashes, tree, signature. Two readers could still take such a record for two things, so
//! verification names it.

use std::path::Path;

use rustix::process::Signal;

use crate::dev::run;
use crate::world::{Fleet, Upstream};

/// Bytes of a segment's frames: of those that `change` gives a new record for, with that.
fn rewritten(segment: &[u8], change: impl Fn(&str) -> Option<String>) -> (Vec<u8>, Vec<u64>) {
    let (magic, version, numbers) = (8, 4, 16);
    let name = magic + version + numbers;
    let origin = usize::from(u16::from_le_bytes([segment[name], segment[name + 1]]));
    let mut at = name + 2 + origin + 4;
    let (mut out, mut changed) = (segment[..at].to_vec(), Vec::new());
    while at + 8 <= segment.len() {
        let length = usize::from(u16::from_le_bytes([segment[at], segment[at + 1]]));
        if length == 0 {
            break;
        }
        let mut payload = segment[at + 8..at + 8 + length].to_vec();
        let text = String::from_utf8_lossy(&payload).into_owned();
        if let Some(other) = text.starts_with('{').then(|| change(&text)).flatten() {
            let seq = text.rsplit_once("\"seq\":").unwrap().1.split(',').next().unwrap().parse().unwrap();
            changed.push(seq);
            payload = other.into_bytes();
        }
        let framed = u16::try_from(payload.len()).unwrap();
        out.extend_from_slice(&framed.to_le_bytes());
        out.extend_from_slice(&(!framed).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        out.extend_from_slice(&payload);
        at += 8 + length;
    }
    (out, changed)
}

/// Has the gateway sign its log anew, as it stands: what it signed before is taken away.
fn signed_anew(fleet: &Fleet, log: &Path) {
    for file in ["checkpoint", "signed", "cosigned"] {
        let _ = std::fs::remove_file(log.join(file));
    }
    std::fs::remove_dir_all(log.join("tile")).unwrap();
    let mut gate = fleet.gateway(|_| {});
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(), Some(0));
}

fn swapped(text: &str) -> String {
    // `data` is first, whatever is in it.
    let (rest, after) = text.rsplit_once(",\"seq\":").unwrap();
    let (data, kind) = rest.rsplit_once(",\"kind\":").unwrap();
    let (kind, log) = kind.split_once(",\"log\":").unwrap();
    format!("{data},\"log\":{log},\"kind\":{kind},\"seq\":{after}")
}

#[test]
fn a_signed_record_in_another_spelling_is_named() {
    let mut fleet = Fleet::start(Upstream::ok().address);
    let mut gate = fleet.gateway(|_| {}).ready();
    let denied = gate.get(&fleet.bearer(), "/v1/orders/7");
    let call = denied.is(403).header("portcullis-call-id").unwrap().to_owned();
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(), Some(0));
    // Nobody is to say that the log is another one than it cosigned.
    fleet.control.kill();
    let log = fleet.home.path().join("edge/evidence");
    let kept = fleet.home.path().join("kept");
    std::fs::rename(&log, &kept).unwrap();
    let again = |change: &dyn Fn(&str) -> String| {
        let _ = std::fs::remove_dir_all(&log);
        assert!(std::process::Command::new("cp").arg("-a").args([&kept, &log]).status().unwrap().success());
        let mut all = Vec::new();
        for file in std::fs::read_dir(log.join("journal")).unwrap() {
            let path = file.unwrap().path();
            let of_call = |text: &str| text.contains(&call).then(|| change(text));
            let (bytes, changed) = rewritten(&std::fs::read(&path).unwrap(), of_call);
            std::fs::write(&path, bytes).unwrap();
            all.extend(changed);
        }
        assert_eq!(all.len(), 1, "one record is of the call");
        signed_anew(&fleet, &log);
        (run(fleet.home.path(), &["evidence", "verify", log.to_str().unwrap()]), all[0])
    };
    let (same, _) = again(&|text| text.to_owned());
    same.exits(0);
    type Change = dyn Fn(&str) -> String;
    let ways: [(&str, &Change); 8] = [
        ("members in another order", &swapped),
        ("white space", &|text| text.replacen("\"data\":{", "\"data\": {", 1)),
        ("white space before the end", &|text| text.replacen(",\"kind\":", " ,\"kind\":", 1)),
        ("a member twice", &|text| text.replacen("\"method\":", "\"method\":\"GET\",\"method\":", 1)),
        ("an outer member twice", &|text| text.replacen(",\"kind\":", ",\"kind\":\"denial\",\"kind\":", 1)),
        ("1.0 for 1", &|text| text.replacen("\"epoch\":1,", "\"epoch\":1.0,", 1)),
        ("1e0 for 1", &|text| text.replacen("\"epoch\":1,", "\"epoch\":1e0,", 1)),
        ("an escape", &|text| text.replacen("billing", "\\u0062illing", 1)),
    ];
    for (what, change) in ways {
        let (done, seq) = again(&|text| {
            let other = change(text);
            assert_ne!(other, text, "{what}: nothing to change in {text}");
            other
        });
        let done = done.exits(8);
        assert!(done.stderr.contains(&format!("record {seq} ")), "{what}: {done:?}");
    }
}
