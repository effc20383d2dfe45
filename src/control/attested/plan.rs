//! Joining by attestation, and being let go. Planning only.

use std::time::Duration;

use super::super::fleet::SLACK;
use super::super::model::Model;
use super::super::plan::{Audience, ChangeEvent, Plan, Refused};
use super::super::record::{AttestedRecord, Change, Digest, GatewayRecord, Record, Standing};
use super::super::{logs, registry};
use super::Attested;
use crate::domain::Timestamp;
use crate::domain::name::GatewayName;
use crate::domain::resource::MAX_AUTHORITY;
use crate::settings::control::TemplateSettings;
use crate::wire::replica_name;

/// Replicas that are let go in one transaction.
const AT_ONCE: usize = 20;

/// A gateway that is not connected.
#[derive(Clone, Debug)]
pub(in super::super) struct Gone {
    /// Which.
    pub(in super::super) gateway: GatewayName,
    /// When it was last answered.
    pub(in super::super) heard: Timestamp,
}

/// Records a replica with the keys that it brings; answers its name. One that joins again for the same pod takes the place of
/// the one before.
///
/// # Errors
/// [`Refused::Conflict`] for a token that was used to join, or a replica that was expelled; [`Refused::TooMuch`] when there
/// are as many as the template lets be.
pub(in super::super) fn plan_join(
    model: &Model,
    now: Timestamp,
    template: &TemplateSettings,
    attested: &Attested,
    client_key: &[u8],
    evidence_key: &str,
) -> Result<Plan<GatewayName>, Refused> {
    let name = replica_name(template.name.as_str(), client_key);
    let name: GatewayName = name.parse().map_err(|_| Refused::invalid("template: no name can be made of it"))?;
    let client_key = Digest::of(client_key);
    if !attested.templates.contains(&template.name) {
        return Err(Refused::Denied(format!("`{}` is not meant by template {}", attested.subject, template.name)));
    }
    registry::known(model, &template.scope)?;
    let proof = attested.proof.as_ref();
    let all = || model.gateways.values().filter_map(|kept| Some((&kept.value, kept.value.attested.as_ref()?)));
    if all().any(|(_, it)| proof.is_some_and(|(proof, _)| it.proof.as_ref().is_some_and(|used| used.is(proof)))) {
        return Err(Refused::Conflict(
            "this token was used to join already: it is good once; the pod gets another one before this one ends"
                .to_owned(),
        ));
    }
    let before = model.gateways.get(&name).map(|kept| kept.value.as_ref());
    if before.is_some_and(|before| before.standing == Standing::Expelled) {
        return Err(Refused::Conflict(format!("gateway {name} was expelled: it takes other keys")));
    }
    if before.is_some_and(|before| before.attested.as_ref().is_none_or(|it| it.template != template.name)) {
        return Err(Refused::Conflict(format!("gateway {name} is there, and did not join by this template")));
    }
    // The same pod with other keys: its container began anew, and lost them.
    let replaced: Vec<_> = all()
        .filter(|(record, it)| {
            let is_same = attested.instance.is_some() && it.instance == attested.instance;
            is_same && it.template == template.name && record.name != name && record.standing == Standing::Good
        })
        .map(|(record, _)| record.name.clone())
        .collect();
    let is_other = |record: &GatewayRecord| record.name != name && record.standing == Standing::Good;
    let others = all().filter(|(record, it)| it.template == template.name && is_other(record)).count();
    if before.is_none() && others.saturating_sub(replaced.len()) >= template.most {
        let most = template.most;
        return Err(Refused::TooMuch(format!("there are {most} gateways of template {} already", template.name)));
    }
    if before.is_none() && model.gateways.len() >= registry::MAX_GATEWAYS {
        return Err(Refused::TooMuch("as many gateways are recorded as can be".to_owned()));
    }
    let record = GatewayRecord {
        name: name.clone(),
        standing: Standing::Good,
        registered: before.map_or(now, |before| before.registered),
        hosts: template.hosts.clone(),
        token: None,
        client_key: Some(client_key),
        scope: template.scope.clone(),
        attested: Some(AttestedRecord {
            template: template.name.clone(),
            subject: attested.subject.clone(),
            instance: attested.instance.clone(),
            proof: proof.map(|(proof, _)| *proof),
            proof_ends: proof.map(|(_, ends)| *ends),
        }),
    };
    // A new one is told its part as its stream begins; one that is there hears of another scope on the stream that it has.
    let has_moved = before.is_some_and(|before| before.scope != template.scope);
    let audience = if has_moved { Audience::Gateways } else { Audience::Control };
    let change = Change::Put(Record::Gateway(record));
    let why = format!("attested as {}", attested.subject);
    let before = before.cloned().map(Record::Gateway);
    let event = ChangeEvent::of("gateway.attested", before.as_ref(), &change, Some(&why));
    let log = logs::plan_bring(model, now, &name, evidence_key)?;
    let mut plan = Plan {
        changes: [vec![change], log.changes].concat(),
        events: [vec![event], log.events].concat(),
        audience,
        answer: name,
    };
    for gone in replaced {
        forget(model, &gone, "its pod joined anew", &mut plan);
    }
    Ok(plan)
}

/// Lets replicas go that are away for longer than their template says, and longer than anything could be allowed by them.
/// Whether there may be more.
pub(in super::super) fn plan_gone(
    model: &Model,
    now: Timestamp,
    templates: &[TemplateSettings],
    gone: &[Gone],
) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    plan.audience = Audience::Control;
    for Gone { gateway, heard } in gone {
        let Some(record) = model.gateways.get(gateway).map(|kept| kept.value.as_ref()) else { continue };
        let Some(attested) = record.attested.as_ref().filter(|_| record.standing == Standing::Good) else { continue };
        // Of a template that is gone itself, nothing is waited for but its authority's end.
        let patience = templates.iter().find(|it| it.name == attested.template).map(|it| it.gone_after);
        let longest = model.longest.values().max().map_or(Duration::ZERO, |it| it.duration());
        let longest = longest.min(MAX_AUTHORITY.duration()).saturating_add(SLACK);
        let is_over = now.saturating_since(*heard) > patience.unwrap_or_default().max(longest);
        // While its token is good, it is remembered that it was used.
        if !is_over || attested.proof_ends.is_some_and(|ends| now < ends) {
            continue;
        }
        if plan.changes.len() >= AT_ONCE * 2 {
            plan.answer = true;
            break;
        }
        forget(model, gateway, "it was away for too long", &mut plan);
    }
    plan
}

fn forget<T>(model: &Model, name: &GatewayName, why: &str, plan: &mut Plan<T>) {
    let Some(kept) = model.gateways.get(name) else { return };
    let record = Record::Gateway(kept.value.as_ref().clone());
    let change = Change::Delete(record.clone());
    let log = model.logs.get(name).map(|kept| kept.value.as_ref().clone());
    // What was cosigned last is told for good: its log can be held against it wherever it lies.
    let told = log.as_ref().map_or(String::new(), |log| {
        format!("; its log {} had {} records cosigned, root {}", log.key, log.size, log.root)
    });
    plan.events.push(ChangeEvent::of("gateway.let_go", Some(&record), &change, Some(&format!("{why}{told}"))));
    plan.changes.push(change);
    plan.changes.extend(log.map(|log| Change::Delete(Record::Log(log))));
}

#[cfg(test)]
mod tests;
