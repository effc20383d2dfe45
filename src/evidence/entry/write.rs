//! How each kind of record is written: its members, in the order of their keys.
//!
//! Written by hand because it stands on the path of each call. Every text that a stranger chose goes through
//! [`Object::text`], which bounds its encoded length.

use super::call::{Basis, CredentialOut, Denial, Denials, Intent, Outcome, Refusals};
use super::event::{
    Change, Enforced, Event, IssueKind, Kind, LogOpened, MAX_HOST_BYTES, MAX_LABEL_BYTES, MAX_METHOD_BYTES,
    MAX_NOTE_BYTES, MAX_PATH_BYTES, MAX_PRINCIPAL_BYTES, MAX_SAMPLE_PATH_BYTES, MAX_SAMPLES, Pruned, Recovered,
    TokenIssued, TokenRevoked,
};
use super::hashed::{Hashed, MAX_QUERY_VALUES, QueryHashes};
use super::json::{Object, canonical_json, escaped, key, list, quoted, signed, ulid, unsigned};
use super::parameters::{ParameterValue, Parameters};

/// Something that a record can say.
pub trait Encode {
    /// Its kind.
    fn kind(&self) -> Kind;

    /// Appends its canonical JSON.
    fn encode_data(&self, out: &mut Vec<u8>);
}

macro_rules! encode {
    ($($type:ty => $kind:ident, $write:ident;)*) => {
        $(impl Encode for $type {
            fn kind(&self) -> Kind {
                Kind::$kind
            }
            fn encode_data(&self, out: &mut Vec<u8>) {
                $write(self, out);
            }
        })*
    };
}

encode! {
    LogOpened<'_> => LogOpened, log_opened;
    Intent<'_> => Intent, intent;
    Outcome => Outcome, outcome;
    Denial<'_> => Denial, denial;
    Denials<'_> => Denials, denials;
    Refusals<'_> => Refusals, refusals;
    TokenIssued<'_> => TokenIssued, token_issued;
    TokenRevoked<'_> => TokenRevoked, token_revoked;
    Enforced => Enforced, enforced;
    Change<'_> => Change, change;
    Recovered<'_> => Recovered, recovered;
    Pruned<'_> => Pruned, pruned;
}

impl Encode for Event<'_> {
    fn kind(&self) -> Kind {
        Event::kind(self)
    }

    fn encode_data(&self, out: &mut Vec<u8>) {
        match self {
            Self::LogOpened(it) => log_opened(it, out),
            Self::Intent(it) => intent(it, out),
            Self::Outcome(it) => outcome(it, out),
            Self::Denial(it) => denial(it, out),
            Self::Denials(it) => denials(it, out),
            Self::Refusals(it) => refusals(it, out),
            Self::TokenIssued(it) => token_issued(it, out),
            Self::TokenRevoked(it) => token_revoked(it, out),
            Self::Enforced(it) => enforced(it, out),
            Self::Change(it) => change(it, out),
            Self::Recovered(it) => recovered(it, out),
            Self::Pruned(it) => pruned(it, out),
        }
    }
}

/// Everything of an entry up to its position: `{"data":{…},"kind":"…","log":"…"`. `origin` needs no escapes.
pub(crate) fn encode_body(event: &(impl Encode + ?Sized), origin: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"data\":");
    event.encode_data(out);
    out.extend_from_slice(b",\"kind\":\"");
    out.extend_from_slice(event.kind().as_str().as_bytes());
    out.extend_from_slice(b"\",\"log\":\"");
    out.extend_from_slice(origin.as_bytes());
    out.push(b'"');
}

/// The rest of an entry: position, time and version.
pub(crate) fn encode_suffix(seq: u64, time: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"seq\":");
    unsigned(seq, out);
    out.extend_from_slice(b",\"time\":");
    signed(time, out);
    out.extend_from_slice(b",\"v\":1}");
}

fn log_opened(it: &LogOpened<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text(key!("boot_id"), &it.boot_id, MAX_LABEL_BYTES);
    object.number(key!("incarnation"), it.incarnation);
    object.text(key!("program"), &it.program, MAX_LABEL_BYTES);
    object.number(key!("resumed_from"), it.resumed_from);
    object.end();
}

fn intent(it: &Intent<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.plain(key!("action"), it.action.as_str());
    if let Some(allotment) = it.allotment {
        ulid(allotment.bits(), object.key(key!("allotment")));
    }
    object.number(key!("authority_age_ms"), it.authority_age_ms);
    let basis = object.key(key!("basis"));
    match &it.basis {
        Basis::Grant(grant) => {
            basis.extend_from_slice(b"{\"grant\":");
            ulid(grant.bits(), basis);
        }
        Basis::Exception(name) => {
            basis.extend_from_slice(b"{\"exception\":");
            quoted(name.as_str(), basis);
        }
    }
    basis.push(b'}');
    if let Some(body) = &it.body {
        hashed(body, object.key(key!("body")));
    }
    object.call(key!("call"), it.call);
    object.plain(key!("credential"), it.credential.as_str());
    object.plain(
        key!("credential_out"),
        match it.credential_out {
            CredentialOut::Mint => "mint",
            CredentialOut::None => "none",
        },
    );
    object.plain(key!("decision"), "allow");
    object.number(key!("epoch"), it.epoch);
    object.text(key!("host"), &it.host, MAX_HOST_BYTES);
    object.plain(key!("identity"), it.identity.as_str());
    object.text(key!("method"), &it.method, MAX_METHOD_BYTES);
    parameters(&it.parameters, object.key(key!("parameters")));
    object.text(key!("path"), &it.path, MAX_PATH_BYTES);
    object.address(key!("peer"), it.peer);
    object.text(key!("principal"), &it.principal, MAX_PRINCIPAL_BYTES);
    if let Some(it) = &it.query {
        query(it, object.key(key!("query")));
    }
    object.plain(key!("resource"), it.resource.as_str());
    object.number(key!("revision"), it.revision);
    object.plain(key!("route"), it.route.as_str());
    object.text(key!("upstream"), &it.upstream, MAX_HOST_BYTES);
    if let Some(reason) = it.would_refuse {
        object.plain(key!("would_refuse"), reason.code());
    }
    object.end();
}

fn parameters(it: &Parameters<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (place, (name, value)) in it.0.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        quoted(name.as_str(), out);
        out.push(b':');
        match value {
            ParameterValue::Text(text) => escaped(text, out),
            ParameterValue::Hashed(value) => hashed(value, out),
        }
    }
    out.push(b'}');
}

fn hashed(it: &Hashed, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    match it {
        Hashed::Keyed { bytes, hmac, key } => {
            object.number(key!("bytes"), *bytes);
            object.text(key!("hmac"), hmac, MAX_LABEL_BYTES);
            object.text(key!("key"), key, MAX_LABEL_BYTES);
        }
        Hashed::Plain { bytes, sha256 } => {
            object.number(key!("bytes"), *bytes);
            object.text(key!("sha256"), sha256, MAX_LABEL_BYTES);
        }
    }
    object.end();
}

fn query(it: &QueryHashes, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text(key!("key"), &it.key, MAX_LABEL_BYTES);
    if it.more > 0 {
        object.number(key!("more"), it.more);
    }
    list(object.key(key!("values")), it.values.iter().take(MAX_QUERY_VALUES), |value, out| {
        let mut object = Object::begin(out);
        object.text(key!("hmac"), &value.hmac, MAX_LABEL_BYTES);
        if let Some(name) = &value.name {
            object.text(key!("name"), name, MAX_LABEL_BYTES);
        }
        object.end();
    });
    object.end();
}

fn outcome(it: &Outcome, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.call(key!("call"), it.call);
    object.number(key!("duration_us"), it.ending.duration_us);
    object.plain(key!("ended"), it.ending.ended.as_str());
    object.number(key!("intent_seq"), it.intent_seq);
    if let Some(reason) = it.ending.reason {
        object.plain(key!("reason"), reason.code());
    }
    object.number(key!("request_bytes"), it.ending.request_bytes);
    object.number(key!("response_bytes"), it.ending.response_bytes);
    if let Some(status) = it.ending.status {
        object.number(key!("status"), status.into());
    }
    object.flag(key!("upstream_started"), it.ending.upstream_started);
    object.end();
}

fn denial(it: &Denial<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    if let Some(action) = &it.action {
        object.plain(key!("action"), action.as_str());
    }
    object.call(key!("call"), it.call);
    if let Some(credential) = it.credential {
        object.plain(key!("credential"), credential.as_str());
    }
    object.number(key!("epoch"), it.epoch);
    object.text(key!("host"), &it.host, MAX_HOST_BYTES);
    if let Some(identity) = &it.identity {
        object.plain(key!("identity"), identity.as_str());
    }
    object.text(key!("method"), &it.method, MAX_METHOD_BYTES);
    object.text(key!("path"), &it.path, MAX_PATH_BYTES);
    object.address(key!("peer"), it.peer);
    if let Some(principal) = &it.principal {
        object.text(key!("principal"), principal, MAX_PRINCIPAL_BYTES);
    }
    if let Some(it) = &it.query {
        query(it, object.key(key!("query")));
    }
    object.plain(key!("reason"), it.reason.code());
    if let Some(resource) = &it.resource {
        object.plain(key!("resource"), resource.as_str());
    }
    object.number(key!("revision"), it.revision);
    if let Some(route) = &it.route {
        object.plain(key!("route"), route.as_str());
    }
    object.end();
}

fn denials(it: &Denials<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    if let Some(counted) = &it.counted {
        let mut object = Object::begin(object.key(key!("counted")));
        object.number(key!("count"), counted.count);
        object.number(key!("opened_seq"), counted.opened_seq);
        object.integer(key!("to"), counted.to.unix_micros());
        object.end();
    }
    object.integer(key!("from"), it.from.unix_micros());
    if let Some(identity) = &it.identity {
        object.plain(key!("identity"), identity.as_str());
    }
    object.plain(key!("reason"), it.reason.code());
    list(object.key(key!("samples")), it.samples.iter().take(MAX_SAMPLES), |sample, out| {
        let mut object = Object::begin(out);
        object.call(key!("call"), sample.call);
        object.text(key!("method"), &sample.method, MAX_METHOD_BYTES);
        object.text(key!("path"), &sample.path, MAX_SAMPLE_PATH_BYTES);
        object.address(key!("peer"), sample.peer);
        object.end();
    });
    object.end();
}

fn refusals(it: &Refusals<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    list(object.key(key!("counts")), it.counts.iter(), |count, out| {
        let mut object = Object::begin(out);
        object.number(key!("count"), count.count);
        object.plain(key!("reason"), count.reason.code());
        object.end();
    });
    object.integer(key!("from"), it.from.unix_micros());
    list(object.key(key!("samples")), it.samples.iter().take(MAX_SAMPLES), |sample, out| {
        let mut object = Object::begin(out);
        object.text(key!("method"), &sample.method, MAX_METHOD_BYTES);
        object.text(key!("path"), &sample.path, MAX_SAMPLE_PATH_BYTES);
        object.address(key!("peer"), sample.peer);
        object.end();
    });
    object.integer(key!("to"), it.to.unix_micros());
    object.end();
}

fn token_issued(it: &TokenIssued<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text(key!("audience"), &it.audience, MAX_PRINCIPAL_BYTES);
    object.call(key!("call"), it.call);
    object.integer(key!("expires"), it.expires.unix_micros());
    object.grant(key!("grant"), it.grant);
    object.plain(key!("identity"), it.identity.as_str());
    object.text(key!("jti"), &it.jti, MAX_LABEL_BYTES);
    object.plain(
        key!("kind"),
        match it.kind {
            IssueKind::Exchange => "exchange",
            IssueKind::Certificate => "certificate",
        },
    );
    if let Some(parent) = &it.parent_jti {
        object.text(key!("parent_jti"), parent, MAX_LABEL_BYTES);
    }
    object.end();
}

fn token_revoked(it: &TokenRevoked<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text(key!("by"), &it.by, MAX_PRINCIPAL_BYTES);
    object.call(key!("call"), it.call);
    object.text(key!("jti"), &it.jti, MAX_LABEL_BYTES);
    object.end();
}

fn enforced(it: &Enforced, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    list(object.key(key!("cut")), it.cut.iter(), |cut, out| {
        let mut object = Object::begin(out);
        object.call(key!("call"), cut.call);
        object.number(key!("intent_seq"), cut.intent_seq);
        object.plain(key!("reason"), cut.reason.code());
        object.end();
    });
    object.number(key!("epoch"), it.epoch);
    list(object.key(key!("grants_revoked")), it.grants_revoked.iter(), |grant, out| ulid(grant.bits(), out));
    object.number(key!("revision"), it.revision);
    object.number(key!("took_us"), it.took_us);
    object.end();
}

fn change(it: &Change<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text(key!("actor"), &it.actor, MAX_PRINCIPAL_BYTES);
    if let Some(after) = &it.after {
        canonical_json(after, object.key(key!("after")));
    }
    if let Some(before) = &it.before_digest {
        object.text(key!("before_digest"), before, MAX_LABEL_BYTES);
    }
    object.text(key!("object"), &it.object, MAX_LABEL_BYTES);
    object.text(key!("object_kind"), &it.object_kind, MAX_LABEL_BYTES);
    object.text(key!("operation"), &it.operation, MAX_LABEL_BYTES);
    if let Some(reason) = &it.reason {
        object.text(key!("reason"), reason, MAX_NOTE_BYTES);
    }
    object.number(key!("revision"), it.revision);
    object.end();
}

fn recovered(it: &Recovered<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.number(key!("discarded_frames"), it.discarded_frames);
    object.number(key!("lost_from"), it.lost_from);
    object.text(key!("note"), &it.note, MAX_NOTE_BYTES);
    object.end();
}

fn pruned(it: &Pruned<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    if let Some(archived) = it.archived {
        object.number(key!("archived"), archived);
    }
    object.number(key!("before"), it.before);
    object.number(key!("cosigned"), it.cosigned);
    object.number(key!("from"), it.from);
    object.text(key!("policy"), &it.policy, MAX_LABEL_BYTES);
    object.end();
}
