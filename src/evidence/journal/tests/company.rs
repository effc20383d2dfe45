//! Records that share a batch: who waits for whom, and how often anybody is woken.

use super::*;

#[test]
fn a_worker_is_woken_once_per_batch() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { segment_bytes: 1 << 20, ..small() }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let waiters = runtime.block_on(async {
        let (waiters, driver) = WorkerWaiters::new(&journal);
        tokio::spawn(driver);
        for round in 1..=5 {
            // The first record goes to the disk and is held there; the twenty others make one batch.
            disk.hold(Operation::Sync);
            let first = journal.append(&note(0)).unwrap();
            while !disk.reboot(Some(0)).files().is_empty() && journal.status().queued_bytes > 0 {
                tokio::task::yield_now().await;
            }
            let tasks: Vec<_> = (0..20)
                .map(|n| {
                    let waiters = waiters.clone();
                    tokio::spawn(async move {
                        let ticket = waiters.journal().append(&note(n)).unwrap();
                        waiters.durable(ticket).await
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            let before = journal.status().batches;
            disk.release();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
            assert_eq!(journal.outcome_of(first), Some(Ok(())));
            let batches = journal.status().batches - before;
            assert!(batches <= 2, "{batches} batches");
            assert!(waiters.wakes() <= 2 * round, "{} wakes in round {round}", waiters.wakes());
        }
        waiters
    });
    assert!(waiters.wakes() >= 5);
}

#[test]
fn as_many_as_came_together_share_a_sync_again_and_a_lone_one_never_waits() {
    let disk = FakeStorage::new();
    let options = JournalOptions { gather: Duration::from_secs(3_600), ..JournalOptions::default() };
    let (journal, _) = open(&disk, options).unwrap();
    let gathering = || journal.shared.state.lock().activity == super::super::shared::Activity::Gathering;
    for n in 0..3 {
        let alone = journal.append(&note(n)).unwrap();
        journal.durable_blocking(alone).unwrap();
    }
    disk.hold(Operation::Sync);
    let first = journal.append(&note(10)).unwrap();
    eventually("taken", || journal.shared.state.lock().awaited == 0);
    let together: Vec<_> = (11..19).map(|n| journal.append(&note(n)).unwrap()).collect();
    disk.release();
    for ticket in together.into_iter().chain([first]) {
        journal.durable_blocking(ticket).unwrap();
    }
    let before = journal.status().batches;
    let two = [21, 22].map(|n| journal.append(&note(n)).unwrap());
    eventually("gathering", gathering);
    assert_eq!(two.map(|ticket| journal.outcome_of(ticket)), [None; 2]);
    let more: Vec<_> = (23..29).map(|n| journal.append(&note(n)).unwrap()).collect();
    for ticket in two.into_iter().chain(more) {
        journal.durable_blocking(ticket).unwrap();
    }
    assert_eq!(journal.status().batches, before + 1);
    // Whoever waits for the end does not wait for company.
    let last = [101, 102].map(|n| journal.append(&note(n)).unwrap());
    eventually("gathering", gathering);
    journal.close();
    assert_eq!(last.map(|ticket| journal.outcome_of(ticket)), [Some(Ok(())); 2]);
}
