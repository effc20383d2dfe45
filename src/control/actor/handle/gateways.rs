//! Commands about gateways: how they join and leave, what they stand before, their logs, and the authorities that certify
//! them.

use std::sync::Arc;

use super::super::super::attested::{self, Attested};
use super::super::super::authorize::Caller;
use super::super::super::logs;
use super::super::super::plan::{Plan, Refused};
use super::super::super::record::{AuthorityRecord, GatewayRecord, TrustRecord};
use super::super::super::registry::{self, Invited, Joining};
use super::super::super::trust;
use super::super::super::uses::{self, Allotted, Claim};
use super::super::note;
use super::{ControlHandle, Done};
use crate::domain::name::{AllotmentId, GatewayName};
use crate::domain::scope::Scope;
use crate::evidence::checkpoint::Checkpoint;
use crate::settings::control::TemplateSettings;

impl ControlHandle {
    /// Records a gateway, or changes it.
    ///
    /// # Errors
    /// As [`registry::plan_gateway`].
    pub async fn put_gateway(&self, caller: &Caller, gateway: GatewayRecord) -> Result<Done<()>, Refused> {
        self.run(caller, "put_gateway", move |model, _, _| registry::plan_gateway(model, gateway)).await
    }

    /// Records a gateway that is to join.
    ///
    /// # Errors
    /// As [`registry::plan_invite`].
    pub(in super::super::super) async fn invite(&self, caller: &Caller, invited: Invited) -> Result<Done<()>, Refused> {
        self.run(caller, "invite", move |model, context, _| registry::plan_invite(model, context.now, invited)).await
    }

    /// Says what a gateway stands before.
    ///
    /// # Errors
    /// As [`registry::plan_scope`].
    pub(in super::super::super) async fn scope(
        &self,
        caller: &Caller,
        gateway: GatewayName,
        scope: Scope,
        reason: String,
    ) -> Result<Done<()>, Refused> {
        self.run(caller, "scope", move |model, _, _| registry::plan_scope(model, &gateway, scope, &reason)).await
    }

    /// A gateway joins.
    ///
    /// # Errors
    /// As [`registry::plan_join`].
    pub(in super::super::super) async fn join(&self, joining: Joining) -> Result<Done<()>, Refused> {
        let caller = Caller::Joining(joining.gateway.clone(), joining.token);
        self.run(&caller, "join", move |model, context, _| registry::plan_join(model, context.now, &joining)).await
    }

    /// A replica joins by attestation; answers its name.
    ///
    /// # Errors
    /// As [`attested::plan_join`].
    pub(in super::super::super) async fn attest(
        &self,
        who: Arc<Attested>,
        template: TemplateSettings,
        client_key: Vec<u8>,
        evidence_key: String,
    ) -> Result<Done<GatewayName>, Refused> {
        self.run(&Caller::Attested(who.clone()), "attest", move |model, context, _| {
            attested::plan_join(model, context.now, &template, &who, &client_key, &evidence_key)
        })
        .await
    }

    /// Lets replicas go that are gone.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super::super) async fn let_go(
        &self,
        templates: Vec<TemplateSettings>,
        gone: Vec<attested::Gone>,
    ) -> Result<Done<bool>, Refused> {
        self.run(&Caller::System, "let_go", move |model, context, _| {
            Ok(attested::plan_gone(model, context.now, &templates, &gone))
        })
        .await
    }

    /// Records that a gateway has its next certificate.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super::super) async fn note_certified(&self, gateway: GatewayName) -> Result<Done<()>, Refused> {
        let (object, why) = (format!("gateway/{gateway}"), "it asked for the next one".to_owned());
        self.run(&Caller::Gateway(gateway), "certify", move |_, _, _| Ok(note("gateway.certified", object, why))).await
    }

    /// Takes a step of a rotation of the CA.
    ///
    /// # Errors
    /// As [`trust::plan_step`].
    pub(in super::super::super) async fn step_trust(
        &self,
        caller: &Caller,
        step: trust::Step,
        first: Option<AuthorityRecord>,
        new: Option<AuthorityRecord>,
        reason: String,
    ) -> Result<Done<TrustRecord>, Refused> {
        self.run(caller, "step_trust", move |model, context, _| {
            trust::plan_step(model, context.now, step, first.as_ref(), new.as_ref(), &reason)
        })
        .await
    }

    /// Takes a gateway's authority for good.
    ///
    /// # Errors
    /// As [`registry::plan_expel`].
    pub async fn expel(&self, caller: &Caller, gateway: GatewayName, reason: String) -> Result<Done<()>, Refused> {
        self.run(caller, "expel", move |model, _, _| registry::plan_expel(model, &gateway, &reason)).await
    }

    /// Takes note of the log that a gateway comes with; answers how much of it is cosigned.
    ///
    /// # Errors
    /// [`Refused::Conflict`] when it is not the one that is known, nor one after it.
    pub async fn open_log(&self, gateway: GatewayName, key: String) -> Result<Done<u64>, Refused> {
        self.run(&Caller::Gateway(gateway.clone()), "open_log", move |model, context, _| {
            logs::plan_open(model, context.now, &gateway, &key)
        })
        .await
    }

    /// Stores what the answer to a renewal says, all or none: that a checkpoint of the gateway's log, proven from its first
    /// so many records, is cosigned, and what is taken back and given out of counted grants, with how many gateways may want
    /// the same.
    ///
    /// # Errors
    /// [`Refused::Conflict`] when more was cosigned meanwhile.
    pub(in super::super::super) async fn answer(
        &self,
        gateway: GatewayName,
        cosign: Option<(u64, Checkpoint)>,
        claim: Option<(u64, Claim)>,
    ) -> Result<Done<Vec<Allotted>>, Refused> {
        self.run(&Caller::Gateway(gateway.clone()), "answer", move |model, context, identifiers| {
            let now = context.now;
            let cosigned = match &cosign {
                Some((from, checkpoint)) => logs::plan_cosign(model, now, &gateway, *from, checkpoint)?.map(drop),
                None => Plan::nothing(()),
            };
            let id = || AllotmentId::from_bits(identifiers.draw(now).bits());
            let allotted = match &claim {
                Some((gateways, claim)) => uses::plan_claim(model, now, &gateway, *gateways, claim, id),
                None => Plan::nothing(Vec::new()),
            };
            Ok(cosigned.and(allotted).map(|((), allotted)| allotted))
        })
        .await
    }

    /// Lets a gateway that lost its state come with a new key and log.
    ///
    /// # Errors
    /// [`Refused::NotFound`] for a gateway without a log.
    pub async fn readmit(&self, caller: &Caller, gateway: GatewayName, reason: String) -> Result<Done<()>, Refused> {
        self.run(caller, "readmit", move |model, context, _| logs::plan_readmit(model, context.now, &gateway, &reason))
            .await
    }

    /// Records that a gateway's log is not what it was; `parted`: another process has its keys.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super::super) async fn note_log(
        &self,
        gateway: GatewayName,
        fault: String,
        parted: bool,
    ) -> Result<Done<()>, Refused> {
        self.run(&Caller::System, "note_log", move |model, context, _| {
            Ok(logs::plan_note(model, context.now, &gateway, fault, parted))
        })
        .await
    }
}
