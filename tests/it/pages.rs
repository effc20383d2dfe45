//! Pages that are replayed: the commands of their console blocks run as they stand there, beside a running `dev`.
//!
//! In a block that opens with `console`, a line that begins with `$ ` is a command. What follows it, up to the next one, is
//! what it says, in parts and in order: each line must be found within a line of the output, `…` stands for anything, and
//! runs of blanks are one. `# exit 3` is the exit code where it is not 0; any other line that begins with `#` is for readers.
//! Addresses are those that `dev` listens on by default, and are replaced by those in use.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::dev::{BINARY, Dev};

/// Longest run of one page, in seconds: a loop that asks until something holds must not go on forever.
const LONGEST_SECONDS: &str = "150";

/// A command of a page, and what the page says of it.
#[derive(Debug, PartialEq)]
pub(crate) struct Step {
    /// Where it stands.
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) says: Vec<String>,
    pub(crate) exit: i32,
}

/// What a command did: both its outputs, and its exit code. One that was sent to the background has none.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) output: String,
    pub(crate) code: Option<i32>,
}

/// Whether a page is left at the first exit code that is not the one it names.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Codes {
    Hold,
    Ignore,
}

/// The steps of a page's console blocks.
pub(crate) fn steps(page: &str) -> Vec<Step> {
    let (mut steps, mut inside): (Vec<Step>, bool) = (Vec::new(), false);
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), line.strip_prefix("$ "), steps.last_mut()) {
            (Some(kind), _, _) => inside = kind == "console",
            _ if !inside || line.trim().is_empty() => {}
            (None, Some(command), _) => {
                steps.push(Step { line: number + 1, command: command.to_owned(), says: Vec::new(), exit: 0 });
            }
            (None, None, Some(step)) => match (line.strip_prefix("# exit "), line.starts_with('#')) {
                (Some(code), _) => step.exit = code.trim().parse().expect("an exit code"),
                (None, true) => {}
                (None, false) => step.says.push(line.to_owned()),
            },
            (None, None, None) => assert!(line.starts_with('#'), "line {}: before any command", number + 1),
        }
    }
    steps
}

/// Runs the steps in one bash, in the directory that `dev` has its state in, and answers what each did; with
/// [`Codes::Hold`] those up to the first whose exit code is not as its page says.
pub(crate) fn run(dev: &Dev, steps: &[Step], codes: Codes) -> Vec<Ran> {
    let folder = Path::new(BINARY).parent().unwrap().to_str().unwrap();
    let home = dev.home.path();
    for (name, target) in [(".portcullis", dev.dir()), ("config", Path::new(env!("CARGO_MANIFEST_DIR")).join("config"))]
    {
        std::os::unix::fs::symlink(target, home.join(name)).unwrap();
    }
    let mut script = String::from("set -u\nexec 2>&1\n");
    for step in steps {
        script.push_str(&format!(
            "echo '== step'\n{}\n",
            in_use(dev, &step.command).replace("$PWD/target/release", folder)
        ));
        if !step.command.ends_with('&') {
            let leave =
                if codes == Codes::Hold { format!("[ $code = {} ] || exit 0", step.exit) } else { String::new() };
            script.push_str(&format!("code=$?; printf '\\n== exit %s\\n' $code\n{leave}\n"));
        }
    }
    script.push_str("wait\n");
    let output = Command::new("timeout")
        .args([LONGEST_SECONDS, "bash", "-c", &script])
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{folder}:/usr/bin:/bin"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split("== step\n").skip(1).map(ran).collect()
}

fn ran(part: &str) -> Ran {
    let (output, rest) = part.split_once("\n== exit ").unwrap_or((part, ""));
    let (code, later) = rest.split_once('\n').unwrap_or((rest, ""));
    Ran { output: format!("{output}\n{later}"), code: code.trim().parse().ok() }
}

/// A text with the addresses that are in use.
fn in_use(dev: &Dev, text: &str) -> String {
    let of = &dev.addresses;
    [
        ("http://127.0.0.1:8080", &of.gateway),
        ("https://127.0.0.1:8443", &of.gateway_tls),
        ("http://127.0.0.1:7080", &of.http),
    ]
    .iter()
    .fold(text.to_owned(), |text, (page, used)| text.replace(page, used))
}

/// Replays a whole page; fails the test at the first step that is not as the page says.
#[track_caller]
pub(crate) fn replay(dev: &Dev, page: &Path) {
    let text = std::fs::read_to_string(page).unwrap();
    let steps = steps(&text);
    let ran = run(dev, &steps, Codes::Hold);
    for (at, step) in steps.iter().enumerate() {
        let place = format!("{}:{}: $ {}", page.display(), step.line, step.command);
        let Some(done) = ran.get(at) else { panic!("{place}\nwas not reached") };
        let before = at.checked_sub(1).and_then(|before| ran.get(before));
        let told = || format!("{}\nbefore it: {}", done.output, before.map_or("", |ran| &ran.output));
        if let Some(missing) = missing(&step.says, &done.output) {
            panic!("{place}\nthe page says: {missing}\nit exits {:?} and says: {}", done.code, told());
        }
        if !step.command.ends_with('&') {
            assert_eq!(done.code, Some(step.exit), "{place}\nit says: {}", told());
        }
    }
}

/// The first line that the output does not have, behind the ones before it.
fn missing<'s>(says: &'s [String], output: &str) -> Option<&'s str> {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = output.lines().map(plain);
    let has = |line: &str, said: &str| {
        let mut rest = Some(line);
        for piece in said.split('…').map(str::trim) {
            rest = rest.and_then(|rest| rest.split_once(piece).map(|(_, after)| after));
        }
        rest.is_some()
    };
    says.iter().map(String::as_str).find(|said| !lines.any(|line| has(&line, &plain(said))))
}

#[test]
fn a_page_is_read_as_its_notation_says() {
    let page =
        "Text\n$ no command\n```console\n# A remark.\n$ one\nsays this\n\n# exit 3\n$ two\n```\n```sh\n$ three\n```\n";
    let step = |line, command: &str, says: &[&str], exit| Step {
        line,
        command: command.to_owned(),
        says: says.iter().map(|it| (*it).to_owned()).collect(),
        exit,
    };
    assert_eq!(steps(page), [step(5, "one", &["says this"], 3), step(9, "two", &[], 0)]);
}

#[test]
fn what_a_page_says_is_held_in_order_line_by_line() {
    let missing = |says: &[&str], output: &str| {
        let says: Vec<String> = says.iter().map(|it| (*it).to_owned()).collect();
        missing(&says, output).map(str::to_owned)
    };
    let output = "state    granted\nby alice, now\n{\"a\":1,\"b\":2}\n";
    assert_eq!(missing(&["state granted", "by …, now", "\"a\":1…\"b\":2"], output), None);
    assert_eq!(missing(&["by alice", "state granted"], output), Some("state granted".to_owned()));
    assert_eq!(missing(&["\"b\":2…\"a\":1"], output), Some("\"b\":2…\"a\":1".to_owned()));
    assert_eq!(missing(&["granted … alice"], output), Some("granted … alice".to_owned()));
    assert_eq!(missing(&["state granted", "state granted"], output), Some("state granted".to_owned()));
}
