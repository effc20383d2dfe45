//! More to acknowledge than a stream takes at once.

use super::*;

const REVOKED: u128 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlasts_any_number_of_acknowledgements_that_wait() {
    let house = house().await;
    let attached = house.started().await;
    let (now, grants) = (house.parts.clock.wall(), 3..3 + REVOKED);
    attached.send(Down::Snapshot(part(8, catalog(), grants.clone().map(grant).collect()))).await;
    // Of each grant an upstream holds a token: its acknowledgement tells of that, and no other one says it.
    for id in grants.clone() {
        house.parts.registry.handed().note(GrantId::from_bits(id), now.saturating_add(3 * PATIENCE), now);
    }
    let recorded = house.parts.log.journal().durable_seq();
    let last = 8 + u64::try_from(REVOKED).unwrap();
    for (id, revision) in grants.zip(9..) {
        attached.send(Down::Delta(delta(revision, vec![ended(id)]))).await;
    }
    let is_recorded = || house.parts.log.journal().durable_seq() - recorded >= u64::try_from(REVOKED).unwrap();
    eventually("all are enforced", is_recorded).await;
    // Nobody has read a word of it; and all of it goes on one stream, to who reads slowly.
    drop(attached);
    let mut again = house.attached().await;
    let mut told = 0;
    loop {
        tokio::task::yield_now().await;
        let applied = again.applied().await;
        told += applied.residual.len();
        if applied.revision == last {
            break;
        }
    }
    assert_eq!(told, usize::try_from(REVOKED).unwrap(), "each on the one stream");
}
