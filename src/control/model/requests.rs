//! Requests: the open ones, what is known of the settled ones, and what they are found by.

use std::time::Duration;

use imbl::OrdSet;

use super::{Kept, Model, SettledRequest};
use crate::domain::Timestamp;
use crate::domain::name::RequestId;
use crate::domain::request::{Request, Requester};

/// How long a request is found again by the key that its maker gave it.
const REQUEST_KEY_LIFE: Duration = Duration::from_secs(86_400);
/// Keys that are remembered: past them the oldest is forgotten before its time.
const MAX_REQUEST_KEYS: usize = 100_000;

/// When the first of its stages has been silent for too long.
fn next_silence(request: &Request) -> Option<Timestamp> {
    request.silent().map(|(at, _)| at).min()
}

impl Model {
    pub(super) fn put_request(&mut self, request: &Request, revision: u64) {
        self.forget_request(request.id);
        self.put_request_key(request);
        if let Some(settled) = request.settled.as_ref().filter(|_| !request.is_open()) {
            let (requester, identity) = (request.requester.clone(), request.ask.identity.clone());
            self.settled.insert(request.id, SettledRequest { at: settled.at, revision, requester, identity });
            self.settled_ages.insert((settled.at, request.id));
        } else {
            self.request_ends.insert((request.expires, request.id));
            self.request_silences.extend(next_silence(request).map(|at| (at, request.id)));
            self.requests.insert(request.id, Kept::new(request, revision));
        }
    }

    fn put_request_key(&mut self, request: &Request) {
        let Some(key) = &request.key else { return };
        let last = self.keyed_last.map_or(request.created, |last| last.max(request.created));
        self.keyed_last = Some(last);
        let old = last.saturating_sub(REQUEST_KEY_LIFE);
        let place = (request.requester.clone(), key.clone());
        // One that is put again when it is settled takes no key back that has been given away since.
        let is_later = self.request_keys.get(&place).is_none_or(|id| *id <= request.id);
        if request.created >= old && is_later {
            if let Some(before) = self.request_keys.insert(place.clone(), request.id) {
                self.request_key_ages.remove(&(before, place.0.clone(), place.1.clone()));
            }
            self.request_key_ages.insert((request.id, place.0, place.1));
        }
        let old = RequestId::new(old, 0);
        let is_over = |ages: &OrdSet<(RequestId, Requester, String)>| {
            ages.get_min().filter(|(id, ..)| *id < old || ages.len() > MAX_REQUEST_KEYS).cloned()
        };
        while let Some((id, requester, key)) = is_over(&self.request_key_ages) {
            self.request_key_ages.remove(&(id, requester.clone(), key.clone()));
            self.request_keys.remove(&(requester, key));
        }
    }

    pub(super) fn forget_request(&mut self, id: RequestId) {
        if let Some(old) = self.requests.remove(&id) {
            self.request_ends.remove(&(old.value.expires, id));
            if let Some(at) = next_silence(&old.value) {
                self.request_silences.remove(&(at, id));
            }
        }
        if let Some(old) = self.settled.remove(&id) {
            self.settled_ages.remove(&(old.at, id));
        }
    }
}
