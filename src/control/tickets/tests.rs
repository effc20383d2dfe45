//! What is bound to tickets, what closes them, and what is said twice or too late.

use super::super::catalog::plan_apply;
use super::super::grant::{GrantRequest, plan_create};
use super::super::sample::{NOW, carried_out, context, document, model, request};
use super::*;
use crate::domain::name::GrantId;

fn sources() -> Model {
    let source = |shape: &str| format!(r#"{{"shape":"{shape}","owner":"orders","secret_file":"{shape}"}}"#);
    let documents = [
        document("TicketSource", "jira", &source("jira")),
        document("TicketSource", "gh", &source("github")),
        document("TicketSource", "own", &source("generic")),
    ];
    let model = model();
    let plan = plan_apply(&model, &context(NOW), &documents).unwrap();
    carried_out(&model, &plan)
}

fn bound(ticket: &str) -> GrantRequest {
    GrantRequest { ticket: Some(ticket.to_owned()), ..request() }
}

fn granted(model: &Model, asked: &GrantRequest, n: u128) -> Model {
    let mut n = n;
    let plan = plan_create(model, &context(NOW), asked, || {
        n += 1;
        GrantId::new(NOW, n)
    });
    carried_out(model, &plan.unwrap())
}

fn said(ticket: &str, closed: bool, seconds: i64) -> Said {
    let since = Timestamp::from_unix_seconds(NOW.unix_seconds() + seconds);
    Said { ticket: ticket.parse().unwrap(), closed, since, by: "webhook x, delivery 1".to_owned() }
}

fn heard(model: &Model, what: &Said) -> Result<(Model, Heard), Refused> {
    let plan = plan_heard(model, &context(NOW), what)?;
    Ok((carried_out(model, &plan), plan.answer))
}

#[test]
fn a_ticket_that_closes_ends_what_is_bound_to_it_and_nothing_else() {
    let mut model = sources();
    model = granted(&model, &bound("jira:ops-7"), 0);
    model = granted(&model, &bound("jira:OPS-8"), 10);
    model = granted(&model, &bound("CHG-7"), 20);
    let until = vec!["gh:Acme/Shop/job/5".parse().unwrap()];
    model = granted(&model, &GrantRequest { until, ..bound("jira:OPS-7") }, 30);
    assert_eq!(model.grants.len(), 4);
    let plan = plan_heard(&model, &context(NOW), &said("jira:OPS-7", true, 0)).unwrap();
    let told: Vec<&str> = plan.events.iter().map(|event| event.operation.as_str()).collect();
    assert_eq!(told, ["ticket.closed", "grant.revoked", "grant.revoked"]);
    let reason = plan.events[1].reason.as_deref().unwrap();
    assert_eq!(reason, "jira:OPS-7 was closed: webhook x, delivery 1");
    let after = carried_out(&model, &plan);
    assert_eq!(after.grants.len(), 2);
    assert!(after.tickets.owed().is_empty());
    // The job alone ends it too.
    let (after, answer) = heard(&model, &said("gh:acme/shop/job/5", true, 0)).unwrap();
    assert!(matches!(answer, Heard::Closed(ended) if ended.len() == 1));
    assert_eq!(after.grants.len(), 3);
}

#[test]
fn nothing_is_granted_on_a_closed_ticket_and_nothing_that_is_misspelt_is_bound_to_nothing() {
    let (closed, _) = heard(&sources(), &said("jira:OPS-7", true, 0)).unwrap();
    let create =
        |model: &Model, asked: &GrantRequest| plan_create(model, &context(NOW), asked, || GrantId::new(NOW, 1));
    let refused = create(&closed, &bound("jira:OPS-7")).unwrap_err();
    assert!(matches!(&refused, Refused::Conflict(why) if why.contains("is closed since")), "{refused:?}");
    let (open, answer) = heard(&closed, &said("jira:OPS-7", false, 1)).unwrap();
    assert_eq!(answer, Heard::Reopened);
    assert!(create(&open, &bound("jira:OPS-7")).is_ok());
    assert!(matches!(create(&open, &bound("jria:OPS-7")), Err(Refused::NotFound(_))));
    assert!(matches!(create(&open, &bound("gh:7")), Err(Refused::Invalid(_))));
    assert!(matches!(create(&open, &bound("jira:")), Err(Refused::Invalid(_))));
    let link = create(&open, &bound("https://jira.example/browse/OPS-7")).unwrap();
    assert!(link.answer[0].lineage.until.is_empty());
    // Where there is no source, a ticket is words, as before.
    assert!(create(&model(), &bound("jira:OPS-7")).unwrap().answer[0].lineage.until.is_empty());
    let many = (0..=MAX_UNTIL).map(|n| format!("own:{n}").parse().unwrap()).collect();
    assert!(matches!(create(&open, &GrantRequest { until: many, ..request() }), Err(Refused::Invalid(_))));
}

#[test]
fn what_was_said_before_is_not_taken_again_whatever_it_says() {
    let steps = [said("jira:OPS-7", true, 0), said("jira:OPS-7", false, 10), said("jira:OPS-7", true, 20)];
    let mut model = sources();
    for step in &steps {
        model = heard(&model, step).unwrap().0;
    }
    for (step, known) in steps.iter().zip([false, false, true]) {
        let again = heard(&model, step);
        assert_eq!(matches!(again, Ok((_, Heard::Known))), known, "{step:?}");
        assert_eq!(matches!(again, Err(Refused::Conflict(_))), !known, "{step:?}");
    }
    // In one instant, closed stands, in whatever order they come.
    assert!(matches!(heard(&model, &said("jira:OPS-7", false, 20)), Ok((_, Heard::Known))));
    // What only confirms what is known moves the time before which nothing is taken.
    model = heard(&model, &said("jira:OPS-7", true, 30)).unwrap().0;
    assert!(matches!(heard(&model, &said("jira:OPS-7", false, 25)), Err(Refused::Conflict(_))));
    let day = 86_400;
    assert!(matches!(heard(&model, &said("jira:OPS-9", true, -3 * day - 1)), Err(Refused::Conflict(_))));
    assert!(matches!(heard(&model, &said("jira:OPS-9", true, 301)), Err(Refused::Invalid(_))));
    assert!(matches!(heard(&model, &said("jira:OPS-9", false, 0)), Ok((_, Heard::Ignored))));
}

#[test]
fn what_one_transaction_does_not_hold_is_owed_and_ends_after() {
    let mut model = sources();
    for n in 0..250 {
        model = granted(&model, &bound("own:INC-1"), n * 10);
    }
    model = granted(&model, &request(), 99_999);
    let (after, answer) = heard(&model, &said("own:INC-1", true, 0)).unwrap();
    assert!(matches!(answer, Heard::Closed(ended) if ended.len() == 250));
    assert!(after.grants.len() > 1 && after.tickets.owed().len() == 1);
    // As after a start: the same is owed, in whatever order records are read.
    let mut again = Model { epoch: 1, revision: 1, ..Model::default() };
    for kept in after.grants.values() {
        let grant = kept.value.as_ref().clone();
        let record = super::super::record::GrantRecord { grant, expiry_noted: false };
        again.apply(&Change::Put(Record::Grant(record)), 1);
    }
    let known = after.tickets.get(&"own:INC-1".parse().unwrap()).unwrap();
    again.apply(&Change::Put(Record::Ticket(known.value.as_ref().clone())), 1);
    assert_eq!(again.tickets.owed(), after.tickets.owed());
    let mut left = after;
    loop {
        let plan = plan_owed(&left, NOW);
        assert!(plan.changes.len() <= super::super::plan::MAX_CHANGES);
        let more = plan.answer;
        left = carried_out(&left, &plan);
        if !more {
            break;
        }
    }
    assert_eq!((left.grants.len(), left.tickets.owed().len()), (1, 0));
}

#[test]
fn tickets_are_forgotten_when_nothing_that_was_said_of_them_could_be_taken_again() {
    let (model, _) = heard(&sources(), &said("jira:OPS-7", true, 0)).unwrap();
    let later = |days: u64| NOW.saturating_add(Duration::from_secs(days * 86_400));
    assert!(plan_forget(&model, later(29)).is_empty());
    let after = carried_out(&model, &plan_forget(&model, later(30)));
    assert!(after.tickets.is_empty() && after.tickets.ages().is_empty());
    let replayed = plan_heard(&after, &context(later(30)), &said("jira:OPS-7", true, 0));
    assert!(matches!(replayed, Err(Refused::Conflict(_))), "{replayed:?}");
    // Too many of them: the oldest go first.
    let mut many = model;
    for n in 0..MAX_TICKETS {
        let record = TicketRecord {
            heard: later(1),
            ..many.tickets.get(&"jira:OPS-7".parse().unwrap()).unwrap().value.as_ref().clone()
        };
        let record = TicketRecord { ticket: format!("own:{n}").parse().unwrap(), ..record };
        many.apply(&Change::Put(Record::Ticket(record)), 2);
    }
    let plan = plan_forget(&many, later(1));
    assert_eq!(plan.changes.len(), 1);
    assert!(plan.changes[0].record().key().ends_with("ticket/jira:OPS-7"));
}

#[test]
fn a_source_whose_word_cannot_be_known_to_be_true_is_refused() {
    let fault = |spec: &str| {
        plan_apply(&model(), &context(NOW), &[document("TicketSource", "x", spec)]).unwrap_err().to_string()
    };
    let read = |shape: &str, url: &str| format!(r#"{{"shape":"{shape}","owner":"orders","read":{{"url":"{url}"}}}}"#);
    assert!(fault(r#"{"shape":"jira","owner":"orders"}"#).contains("anybody could say"));
    for (shape, url) in [
        ("jira", "http://example.org"),
        ("jira", "http://127.0.0.1@example.org"),
        ("jira", "http://127.0.0.1.example.org"),
        ("jira", "https://user@example.org"),
        ("jira", "file:///etc/passwd"),
        ("generic", "https://example.org/tickets"),
        ("generic", "https://{key}/tickets"),
        ("generic", "https://{key}.example.org/"),
        ("generic", "https://example.org?{key}/"),
        ("github", "https://api.github.com/{key}"),
    ] {
        assert!(fault(&read(shape, url)).contains("read.url"), "{url}");
    }
    assert!(fault(r#"{"shape":"jira","owner":"orders","secret_file":"../seal.key"}"#).contains("no path"));
    // Whoever is read would learn what signs another's webhooks.
    let thief =
        r#"{"shape":"generic","owner":"orders","read":{"url":"https://evil.example/{key}","token_file":"jira"}}"#;
    let faults =
        plan_apply(&sources(), &context(NOW), &[document("TicketSource", "x", thief)]).unwrap_err().to_string();
    assert!(faults.contains("is secret_file of jira already"), "{faults}");
    let good = read("generic", "https://example.org/tickets/{key}");
    assert!(plan_apply(&model(), &context(NOW), &[document("TicketSource", "x", &good)]).is_ok());
}

#[test]
fn a_source_that_tells_of_all_that_it_has_makes_no_other_be_forgotten() {
    let mut model = granted(&sources(), &bound("own:0"), 0);
    model = heard(&model, &said("jira:OPS-7", true, 0)).unwrap().0;
    let long = |n: usize| Timestamp::from_unix_seconds(NOW.unix_seconds() + n as i64);
    let mut deleted = Vec::new();
    for n in 1..=MAX_EACH + 50 {
        let what = said(&format!("own:{n}"), true, n as i64);
        let plan = plan_heard(&model, &context(long(n)), &what).unwrap();
        let gone = plan.changes.iter().filter(|change| matches!(change, Change::Delete(_)));
        deleted.extend(gone.map(|change| change.record().key()));
        model = carried_out(&model, &plan);
        assert!(model.tickets.of_source(&"own".parse().unwrap()).len() <= MAX_EACH);
    }
    assert_eq!(deleted.len(), 50);
    assert!(deleted[0].ends_with("ticket/own:1") && deleted[49].ends_with("ticket/own:50"), "the oldest first");
    assert!(model.tickets.closed(&"jira:OPS-7".parse().unwrap()).is_some(), "what another said is known as ever");
    // What is waited for ends, however many others were told of.
    let (after, answer) = heard(&model, &said("own:0", true, 0)).unwrap();
    assert!(matches!(answer, Heard::Closed(ended) if ended.len() == 1) && after.grants.is_empty());
    assert_eq!(after.tickets.of_source(&"own".parse().unwrap()).len(), MAX_EACH);
    // A source that is no more leaves nothing behind.
    let mut left = model.clone();
    left.ticket_sources.remove(&"own".parse::<TicketSourceName>().unwrap());
    loop {
        let plan = plan_forget(&left, NOW);
        if plan.is_empty() {
            break;
        }
        left = carried_out(&left, &plan);
    }
    assert_eq!(left.tickets.len(), 1);
}

#[test]
fn a_closed_ticket_that_an_open_request_would_end_with_is_not_forgotten() {
    let (mut model, _) = heard(&sources(), &said("own:0", true, 0)).unwrap();
    model = heard(&model, &said("own:00", true, 0)).unwrap().0;
    let json = serde_json::json!({
        "id": "01KAJ8XB80AKBCXCMTF9YMA0NR", "requester": { "person": "alice" },
        "ask": { "identity": "billing", "access": { "role": "orders-reader" }, "duration": "1h", "reason": "r",
                 "ticket": "own:0" },
        "created": NOW, "expires": NOW, "state": "pending",
        "analysis": { "verdict": "approve", "permissions": [], "policy": 1, "digest": "", "stages": [] },
    });
    let request: Request = serde_json::from_value(json).unwrap();
    model.apply(&Change::Put(Record::Request(Box::new(request.clone()))), 2);
    let old = NOW.saturating_add(KEPT);
    let forgotten = |model: &Model| carried_out(model, &plan_forget(model, old));
    let is_closed = |model: &Model, ticket: &str| model.tickets.closed(&ticket.parse().unwrap()).is_some();
    assert!(is_closed(&forgotten(&model), "own:0") && !is_closed(&forgotten(&model), "own:00"));
    for n in 1..=MAX_EACH {
        model = heard(&model, &said(&format!("own:{n}"), true, 1)).unwrap().0;
    }
    assert!(is_closed(&model, "own:0") && !is_closed(&model, "own:00"));
    assert!(bound_of(&model, &request.ask).is_err(), "nobody approves it");
    let model = carried_out(&model, &plan_cancel_waiting(&model, &context(NOW), &"own:0".parse().unwrap()).unwrap());
    assert!(!is_closed(&forgotten(&model), "own:0"));
}
