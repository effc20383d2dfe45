//! A process that writes is killed at a moment nobody chose, again and again. What it was told is written must be.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;

const TASKS: u64 = 4;
const ROUNDS: usize = 10;
const FILE: &str = "store.db";
/// Stands in the directory of the test, so that the child does nothing when somebody runs all ignored tests.
const MARK: &str = "writes-until-killed";

/// Writes until killed, and says on its output what was acknowledged. Not a test of its own: the one below starts it,
/// in the directory of the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of the test beside it"]
async fn writes_until_killed() {
    if !Path::new(MARK).exists() {
        return;
    }
    let store = Arc::new(open(Path::new(FILE)).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut count = counters(&store, task).await;
            loop {
                count += 1;
                // Several operations: a part of them must never be seen.
                let mut txn = Txn::new();
                for part in 0..5 {
                    txn = txn.then(Op::put(format!("{task}/{part}"), count.to_string()));
                }
                txn = txn.then(Op::delete(KeyRange::key(format!("{task}/last/{}", count - 1))));
                txn = txn.then(Op::put(format!("{task}/last/{count}"), vec![0; 3000]));
                store.txn(txn).await.unwrap();
                std::io::stdout().lock().write_all(format!("acknowledged {task} {count}\n").as_bytes()).unwrap();
            }
        });
    }
    tasks.join_all().await;
}

/// How far a task has come; all that its last transaction did must be there, and nothing of another one.
async fn counters(store: &SqliteStore, task: u64) -> u64 {
    let found = store.range(KeyRange::prefix(format!("{task}/")), None, None).await.unwrap().kvs;
    let Some(first) = found.first() else { return 0 };
    let count: u64 = std::str::from_utf8(&first.value).unwrap().parse().unwrap();
    let names: Vec<_> = found.iter().map(|kv| kv.key.clone()).collect();
    let expected = (0..5).map(|part| format!("{task}/{part}")).chain([format!("{task}/last/{count}")]);
    assert_eq!(names, expected.collect::<Vec<_>>());
    assert!(found.iter().all(|kv| kv.mod_revision == first.mod_revision));
    assert!(found[..5].iter().all(|kv| kv.value == first.value && kv.version == count));
    count
}

#[tokio::test]
async fn a_kill_loses_nothing_acknowledged_and_leaves_no_part() {
    let dir = tempfile::tempdir().unwrap();
    files::write(&dir.path().join(MARK), b"", files::PRIVATE).unwrap();
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    for round in 0..ROUNDS {
        // After a number of answers that differs from run to run, so at any point of a commit.
        let patience = RandomState::new().hash_one(round) % 300 + 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
            .arg(concat!(module_path!(), "::writes_until_killed").split_once("::").unwrap().1)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut answers = 0;
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            // The last line may be cut off; then nobody was told. The first one stands behind what the test's runner prints.
            if let Some((_, told)) = line.strip_suffix('\n').and_then(|line| line.split_once("acknowledged ")) {
                let (task, count) = told.split_once(' ').unwrap();
                acknowledged.insert(task.parse().unwrap(), count.parse().unwrap());
                answers += 1;
                if answers == patience {
                    child.kill().unwrap();
                }
            }
            line.clear();
        }
        assert!(answers >= patience, "the child ended by itself");
        child.wait().unwrap();

        let store = open(&dir.path().join(FILE)).unwrap();
        let mut total = 0;
        for task in 0..TASKS {
            let count = counters(&store, task).await;
            let told = acknowledged.get(&task).copied().unwrap_or(0);
            assert!((told..=told + 1).contains(&count), "round {round}: task {task} was told {told}, has {count}");
            acknowledged.insert(task, count);
            total += count;
        }
        // Each revision is one transaction, and the history has all of them.
        assert_eq!(store.current_revision().await.unwrap(), total + 1);
        let mut watch = store.watch(KeyRange::all(), 2).await.unwrap();
        for revision in 2..=total + 1 {
            let batch = watch.next().await.unwrap().unwrap();
            assert_eq!(batch.revision, revision);
            assert!((6..=7).contains(&batch.events.len()));
        }
    }
}
