//! The copy before the effect, as the kernel saw it: one trace of a gateway and of its control plane.

use std::process::{Command, Stdio};

use super::{House, json};
use crate::dev::{PATIENCE, curl, eventually};
use crate::durability::order::{TRACED, before_effect, parse};

const CALLS: usize = 20;

#[test]
fn the_control_plane_has_the_record_on_disk_before_the_first_byte_goes_upstream() {
    let house = House::start(json!({}));
    house.fleet.grant("");
    let gate = house.gateway();
    let file = house.home().join("trace");
    let pids = [&gate.process, &house.fleet.control].map(|it| it.child.as_ref().unwrap().id().to_string());
    let mut strace = Command::new("strace");
    strace.args(["-f", "-yy", "-ttt", "-s", "262144", "-e", TRACED, "-p", &pids[0], "-p", &pids[1], "-o"]).arg(&file);
    let mut strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
    let trace = || String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
    eventually("both are traced", PATIENCE, || {
        house.call(&gate, "/v1/orders/begin").is(200);
        let seen = trace();
        let writes = |log: &str| seen.lines().any(|line| line.contains("pwrite64(") && line.contains(log));
        writes("/edge/evidence/journal/") && writes("/control/copies/edge/")
    });
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (bearer, url) = (house.fleet.bearer(), gate.url.clone());
            let one = move |m| drop(curl(&["-H", &bearer, &format!("{url}/v1/orders/traced/{n}-{m}")]).is(200));
            scope.spawn(move || (0..CALLS / 4).for_each(one));
        }
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&strace), rustix::process::Signal::INT).unwrap();
    strace.wait().unwrap();
    let heads = house.upstream.heads();
    let traced = heads.iter().filter(|head| head.contains("/traced/"));
    let ids: Vec<String> = traced
        .filter_map(|head| head.lines().find(|line| line.to_ascii_lowercase().starts_with("portcullis-call-id:")))
        .map(|line| line.split_once(':').unwrap().1.trim().to_owned())
        .collect();
    assert_eq!(ids.len(), CALLS);
    let (trace, to) = (trace(), format!("->{}]", house.upstream.address));
    let calls = parse(&trace);
    let wrong = |log: &str| -> Vec<String> {
        ids.iter().filter_map(|call| before_effect(&calls, call, &to, log).err()).collect()
    };
    assert!(wrong("/control/copies/edge/").is_empty(), "{:#?}", wrong("/control/copies/edge/"));
    // Its own disk is not waited for: the same question about it must not pass, but for the few calls that were on their way
    // when a checkpoint, once a second, had it synced.
    let not_waited_for = wrong("/edge/evidence/journal/").len();
    assert!(not_waited_for > CALLS / 2, "{not_waited_for} of {CALLS}");
}
