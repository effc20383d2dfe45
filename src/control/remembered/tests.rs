//! Older copies of a store, put back without a word.

use std::path::Path;
use std::sync::Arc;

use super::super::actor::ControlHandle;
use super::super::authorize::Caller;
use super::super::plan::{ChangeEvent, Refused};
use super::super::record::{GatewayRecord, Standing};
use super::super::sample::{NOW, documents, request};
use super::super::uses::{Allotted, Claim};
use super::super::{Core, StartError};
use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::grant::Limits;
use crate::domain::name::{AllotmentId, GatewayName, GrantId};
use crate::settings::ControlSettings;

const USES: u64 = 15;

fn settings(dir: &Path) -> ControlSettings {
    let text = format!(
        "role: control\ntrust_domain: example.org\nstate_dir: {}\ngrpc_address: 127.0.0.1:0\nhttp_address: 127.0.0.1:0\n\
         tls: {{certificate_file: x, key_file: x, client_ca_file: x}}\n",
        dir.display()
    );
    ControlSettings::parse("control.yaml", &text).unwrap()
}

struct House {
    dir: tempfile::TempDir,
    core: Option<Core>,
}

impl House {
    /// With a grant that counts.
    async fn new() -> (Self, GrantId) {
        let mut house = Self { dir: tempfile::tempdir().unwrap(), core: None };
        house.start().await.unwrap();
        house.handle().apply(&Caller::System, documents(), false).await.unwrap();
        let counted = Limits { uses: Some(USES), ..Limits::default() };
        let request = super::super::grant::GrantRequest { limits: counted, ..request() };
        let made = house.handle().create_grants(&Caller::System, request).await.unwrap();
        (house, made.answer[0].id)
    }

    async fn start(&mut self) -> Result<(), StartError> {
        let clock = Arc::new(ManualClock::at(NOW));
        self.core = Some(Core::open(&settings(self.dir.path()), clock).await?);
        Ok(())
    }

    fn handle(&self) -> &ControlHandle {
        self.core.as_ref().unwrap().handle()
    }

    async fn stop(&mut self) {
        self.core.take().unwrap().shutdown().await;
    }

    fn store(&self) -> Vec<PathBuf> {
        ["control.db", "control.db-wal", "control.db-shm"].map(|name| self.dir.path().join(name)).to_vec()
    }

    /// A copy of the store, of a writer that is stopped for it.
    async fn back_up(&mut self) {
        self.stop().await;
        for file in self.store() {
            let _ = std::fs::copy(&file, file.with_extension("copy"));
        }
        self.start().await.unwrap();
    }

    /// Puts the copy back, and nothing else.
    async fn put_back(&mut self) {
        self.stop().await;
        for file in self.store() {
            let _ = std::fs::remove_file(&file);
            let _ = std::fs::copy(file.with_extension("copy"), &file);
        }
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Allotted>, Refused> {
        let gateway: GatewayName = "one".parse().unwrap();
        Ok(self.handle().answer(gateway, None, Some((1, claim))).await?.answer)
    }
}

fn wanting(grant: GrantId, uses: u64) -> Claim {
    Claim { process: "p".into(), stream: 1, wanted: [(grant, (uses, 0))].into(), ..Claim::default() }
}

fn given(answer: &[Allotted]) -> Option<(AllotmentId, u64)> {
    answer[0].allotment
}

#[tokio::test]
async fn no_use_is_given_again_by_an_older_copy() {
    let (mut house, grant) = House::new().await;
    house.back_up().await;
    assert_eq!(given(&house.claim(wanting(grant, USES)).await.unwrap()).unwrap().1, USES);
    house.put_back().await;
    // No event tells of them. The gateway that has them may be out of reach, and another one asks.
    let refused = house.start().await.unwrap_err();
    assert!(matches!(refused, StartError::Forgetful(_)), "{refused}");
    assert!(refused.to_string().contains("control restored"), "{refused}");
    let again = house.start().await;
    assert!(again.is_err(), "a refused start leaves it as it was");
}

#[tokio::test]
async fn what_was_given_back_is_not_given_back_again_to_an_older_copy() {
    let (mut house, grant) = House::new().await;
    let (id, uses) = given(&house.claim(wanting(grant, 5)).await.unwrap()).unwrap();
    house.back_up().await;
    // It spent all but one. A copy that does not know it takes what the gateway no longer has for what never came.
    let returned = [((grant, id), uses - 1)].into();
    house.claim(Claim { returned, wanted: [].into(), ..wanting(grant, 0) }).await.unwrap();
    house.put_back().await;
    assert!(matches!(house.start().await, Err(StartError::Forgetful(_))));
}

#[tokio::test]
async fn a_revocation_that_was_told_is_missed_also_before_the_evidence_tells_of_it() {
    let (mut house, grant) = House::new().await;
    house.back_up().await;
    house.handle().revoke_grant(&Caller::System, grant, "leaked".into()).await.unwrap();
    house.put_back().await;
    assert!(matches!(house.start().await, Err(StartError::Forgetful(_))));
}

#[tokio::test]
async fn what_ended_is_remembered_until_the_evidence_tells_of_it() {
    let (mut house, grant) = House::new().await;
    let other = house.handle().create_grants(&Caller::System, request()).await.unwrap().answer[0].id;
    house.back_up().await;
    // Nothing takes the outbox to the evidence here.
    house.handle().revoke_grant(&Caller::System, grant, "leaked".into()).await.unwrap();
    let told = house.handle().revoke_grant(&Caller::System, other, "over".into()).await.unwrap().revision;
    let untold = || {
        let ended = Remembered::open(house.dir.path()).unwrap().ended();
        ended.iter().map(|one| one.told().event.object).collect::<Vec<_>>()
    };
    assert_eq!(untold(), [grant, other].map(|id| format!("grant/{id}")));
    // The evidence has come to it: with the next commit it is forgotten.
    house.handle().shared().told.send_replace(told);
    let next = house.handle().create_grants(&Caller::System, request()).await.unwrap().answer[0].id;
    assert_eq!(untold(), [] as [String; 0]);
    house.handle().revoke_grant(&Caller::System, next, "leaked".into()).await.unwrap();
    house.put_back().await;
    assert!(matches!(house.start().await, Err(StartError::Forgetful(_))));
    let clock = Arc::new(ManualClock::at(NOW));
    let (core, ended) = Core::open_restored(&settings(house.dir.path()), clock).await.unwrap();
    let ended: Vec<_> = ended.iter().map(Untold::told).collect();
    assert_eq!(ended.len(), 1);
    let event = &ended[0].event;
    assert_eq!((event.operation.as_str(), event.object.clone()), ("grant.revoked", format!("grant/{next}")));
    core.shutdown().await;
}

#[tokio::test]
async fn an_expulsion_is_remembered_though_no_gateway_is_told_of_it() {
    let (mut house, _) = House::new().await;
    let gateway: GatewayName = "one".parse().unwrap();
    let record = GatewayRecord {
        name: gateway.clone(),
        standing: Standing::Good,
        registered: NOW,
        hosts: Vec::new(),
        token: None,
        client_key: None,
        scope: Default::default(),
        attested: None,
    };
    house.handle().put_gateway(&Caller::System, record).await.unwrap();
    house.handle().expel(&Caller::System, gateway.clone(), "stolen".into()).await.unwrap();
    let ended = Remembered::open(house.dir.path()).unwrap().ended();
    assert_eq!(ended.last().map(|one| one.told().event.object), Some(format!("gateway/{gateway}")));
    // And an older copy is known for one.
    house.stop().await;
    let at = Remembered::open(house.dir.path()).unwrap();
    let heard = *at.0.written.lock();
    assert!(at.check(Committed { revision: heard.revision - 1, ..heard }).is_err());
}

#[tokio::test]
async fn what_a_killed_process_committed_and_did_not_remember_is_in_the_outbox() {
    let (mut house, grant) = House::new().await;
    let before = std::fs::read(house.dir.path().join(FILE)).unwrap();
    house.handle().revoke_grant(&Caller::System, grant, "leaked".into()).await.unwrap();
    house.stop().await;
    // It was killed between the two.
    crate::files::write(&house.dir.path().join(FILE), &before, crate::files::PRIVATE).unwrap();
    house.start().await.unwrap();
    let ended = Remembered::open(house.dir.path()).unwrap().ended();
    assert_eq!(ended.iter().map(|one| one.told().event.object).collect::<Vec<_>>(), [format!("grant/{grant}")]);
}

#[tokio::test]
async fn what_ended_in_a_life_that_is_over_is_forgotten_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let remembered = Remembered::open(dir.path()).unwrap();
    let halt = |revision| {
        let (operation, object) = ("halt.begun".to_owned(), format!("halt/resource/api/{revision}"));
        Untold::of(&ChangeEvent { operation, object, before: None, after: None, reason: None }, revision).unwrap()
    };
    remembered.note([halt(105)]);
    remembered.write(Committed { epoch: 1, revision: 105 }).await.unwrap();
    // Put back to 50, and what had ended was ended again in 51.
    let remembered = Remembered::open(dir.path()).unwrap();
    remembered.note([halt(51), halt(51)]);
    remembered.write(Committed { epoch: 2, revision: 52 }).await.unwrap();
    assert_eq!(Remembered::open(dir.path()).unwrap().ended(), [halt(51)], "once");
}

#[tokio::test]
async fn more_that_ended_than_finds_room_waits_for_the_evidence_and_not_without_end() {
    let (house, _) = House::new().await;
    let remembered = Remembered::open(house.dir.path()).unwrap();
    let ended = |n: u64| {
        let (operation, object) = ("halt.begun".to_owned(), format!("halt/resource/api/{n:0>50}"));
        Untold::of(&ChangeEvent { operation, object, before: None, after: None, reason: None }, n).unwrap()
    };
    remembered.note((1..=200).map(ended));
    assert!(!remembered.is_told(0), "more than a slot holds");
    remembered.write(Committed { epoch: 9, revision: 200 }).await.unwrap();
    let kept = Remembered::open(house.dir.path()).unwrap().ended();
    assert!(kept.len() > 30 && kept.last() == Some(&ended(200)), "the latest are kept: {}", kept.len());
    assert!(remembered.is_told(190));
    assert_eq!(remembered.ended(), (191..=200).map(ended).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_store_that_nobody_put_back_starts_again_and_a_copy_that_forgot_nothing_does() {
    let (mut house, grant) = House::new().await;
    house.claim(wanting(grant, 2)).await.unwrap();
    house.back_up().await;
    house.put_back().await;
    house.start().await.unwrap();
    assert_eq!(given(&house.claim(wanting(grant, USES)).await.unwrap()).unwrap().1, USES - 2);
    house.stop().await;
    house.start().await.unwrap();
}

#[tokio::test]
async fn a_declared_copy_goes_on_in_a_new_epoch_and_one_of_the_old_epoch_does_not() {
    let (mut house, grant) = House::new().await;
    house.back_up().await;
    house.claim(wanting(grant, USES)).await.unwrap();
    house.put_back().await;
    let clock = Arc::new(ManualClock::at(NOW));
    house.core = Some(Core::open_restored(&settings(house.dir.path()), clock).await.unwrap().0);
    let begun = house.handle().begin_epoch(&Caller::System, 2, NOW, "the disk broke".into());
    begun.await.unwrap();
    house.stop().await;
    house.start().await.unwrap();
    assert_eq!(given(&house.claim(wanting(grant, 1)).await.unwrap()), None, "nothing is left of it");
    house.put_back().await;
    assert!(matches!(house.start().await, Err(StartError::Forgetful(_))));
}

#[tokio::test]
async fn nobody_hears_of_what_is_not_remembered() {
    let (house, grant) = House::new().await;
    let (file, revision) = (house.dir.path().join(FILE), house.handle().model().revision);
    // Something is in its way, as a full disk would be.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert_eq!(house.claim(wanting(grant, 1)).await.unwrap_err(), Refused::Unavailable);
    let refused = house.handle().create_grants(&Caller::System, request()).await.unwrap_err();
    assert_eq!(refused, Refused::Unavailable);
    assert_eq!((house.handle().model().revision, house.handle().model().ledgers.len()), (revision, 0));
    std::fs::remove_dir(&file).unwrap();
    // What was given then is given: it was committed, and no gateway has it.
    assert_eq!(given(&house.claim(wanting(grant, USES)).await.unwrap()).unwrap().1, USES - 1);
}

#[tokio::test]
async fn it_never_goes_back_and_what_is_not_ours_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let remembered = Remembered::open(dir.path()).unwrap();
    let at = |epoch, revision| Committed { epoch, revision };
    remembered.check(at(1, 2)).unwrap();
    remembered.write(at(2, 7)).await.unwrap();
    remembered.write(at(1, 900)).await.unwrap();
    let again = Remembered::open(dir.path()).unwrap();
    assert_eq!(again.check(at(1, 901)), Err(Forgetful { told: at(2, 7), current: at(1, 901) }));
    again.check(at(2, 7)).unwrap();
    crate::files::write(&dir.path().join(FILE), b"", crate::files::PRIVATE).unwrap();
    let empty = Remembered::open(dir.path()).unwrap_err();
    assert!(empty.to_string().contains("remove it only when"), "{empty}");
    crate::files::write(&dir.path().join(FILE), b"{", crate::files::PRIVATE).unwrap();
    assert!(matches!(Remembered::open(dir.path()), Err(RememberedError::Content { .. })));
}
