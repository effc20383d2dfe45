//! Telling whoever asked, as the answers come: from a task of its own, which ends whether they read or not.
//!
//! The body of an answer is looked at only while its reader has room for it. So nothing that must end is left to it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::wire::v1;

/// How long whoever asks may take to read an answer: no longer than a gateway may take to give one.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// How long a question may take altogether, however many gateways are asked.
const WITHIN: Duration = Duration::from_secs(120);

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<v1::GatewayEvidence, Status>> + Send>>;

/// An answer until it is read, or nobody waits for that any more.
type Slot = Arc<Mutex<Option<v1::GatewayEvidence>>>;

/// Tells whoever asked. Who does not read, or is gone, has no answers any more, and no place that others wait for: what
/// `answers` holds is dropped when the last one was read, or its time is over.
pub(super) fn told(
    answers: impl Stream<Item = v1::GatewayEvidence> + Send + 'static,
    mut stop: watch::Receiver<bool>,
) -> Answers {
    let (tell, told) = mpsc::channel::<Slot>(1);
    let (done, whole) = oneshot::channel();
    tokio::spawn(async move {
        let mut answers = std::pin::pin!(answers);
        let mut unread = Slot::default();
        let pass = async {
            loop {
                let answer = answers.next().await;
                // Room means that the one before was read, also when there is no next one.
                let Ok(Ok(room)) = tokio::time::timeout(READ_PATIENCE, tell.reserve()).await else { return };
                let Some(answer) = answer else { break };
                unread = Slot::new(Mutex::new(Some(answer)));
                room.send(unread.clone());
            }
            // The reader has it in hand: it is not to be taken back.
            unread = Slot::default();
            // Whoever asked may be gone.
            let _ = done.send(());
        };
        tokio::select! {
            () = pass => {}
            () = tell.closed() => {}
            () = tokio::time::sleep(WITHIN) => {}
            () = super::super::super::stopped(&mut stop) => {}
        }
        // What was not read in time does not stay for as long as its reader likes.
        drop(unread.lock().take());
    });
    let read = |slot: Slot| std::future::ready(slot.lock().take().map(Ok));
    // INVARIANT: an answer that lacks gateways does not end as if it were whole.
    let cut = |whole: Result<(), oneshot::error::RecvError>| {
        let cut = || Err(Status::unavailable("the answer ended before every gateway was heard: ask again"));
        std::future::ready(whole.is_err().then(cut))
    };
    let end = futures_util::stream::once(whole).filter_map(cut);
    Box::pin(ReceiverStream::new(told).filter_map(read).chain(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers that hold a place until they are dropped.
    fn answers(count: usize, place: oneshot::Sender<()>) -> impl Stream<Item = v1::GatewayEvidence> + Send + 'static {
        futures_util::stream::iter(0..count).map(move |n| {
            let _ = &place;
            v1::GatewayEvidence { gateway: n.to_string(), ..v1::GatewayEvidence::default() }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_holds_no_place_and_no_answer_for_long() {
        let (_stop, stopped) = watch::channel(false);
        for count in [1, 2, 40] {
            let (place, freed) = oneshot::channel();
            let before = tokio::time::Instant::now();
            let mut told = told(answers(count, place), stopped.clone());
            assert!(freed.await.is_err(), "nobody polls it, and the place is free");
            assert!(before.elapsed() <= READ_PATIENCE + Duration::from_secs(1));
            // Whoever reads late is not told that this was all.
            let first = told.next().await.unwrap().unwrap_err();
            assert_eq!(first.code(), tonic::Code::Unavailable, "{count}: and has no answer that was kept for them");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_little_now_and_then_is_cut_in_the_end_and_who_reads_has_it_all() {
        let (_stop, stopped) = watch::channel(false);
        let (place, mut freed) = oneshot::channel();
        let (before, mut told_now) = (tokio::time::Instant::now(), told(answers(1000, place), stopped.clone()));
        while told_now.next().await.unwrap().is_ok() {
            tokio::time::advance(READ_PATIENCE - Duration::from_secs(1)).await;
        }
        // One that lay ready when the time was over may have been read before it was taken back.
        assert!(before.elapsed() <= WITHIN + 2 * READ_PATIENCE);
        assert!(freed.try_recv().is_err());
        assert!(told_now.next().await.is_none());

        let (place, freed) = oneshot::channel();
        let all: Vec<_> = told(answers(1000, place), stopped).collect().await;
        assert!(all.len() == 1000 && all.iter().all(Result::is_ok));
        assert!(freed.await.is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_reads_has_the_last_answer_too_however_threads_come_together() {
        let (_stop, stopped) = watch::channel(false);
        for _ in 0..2000 {
            let (place, _freed) = oneshot::channel();
            let all: Vec<_> = told(answers(1, place), stopped.clone()).collect().await;
            assert!(matches!(&all[..], [Ok(_)]), "{all:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_control_plane_and_with_whoever_asked() {
        let (stop, stopped) = watch::channel(false);
        let (place, freed) = oneshot::channel();
        let mut waits = told(answers(2, place).chain(futures_util::stream::pending()), stopped.clone());
        assert!(waits.next().await.unwrap().is_ok() && waits.next().await.unwrap().is_ok());
        stop.send_replace(true);
        assert_eq!(waits.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(freed.await.is_err());
        let (_stop, stopped) = watch::channel(false);
        let (place, freed) = oneshot::channel();
        drop(told(answers(2, place).chain(futures_util::stream::pending()), stopped));
        assert!(freed.await.is_err());
    }
}
