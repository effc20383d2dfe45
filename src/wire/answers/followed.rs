//! How far whoever follows was told each gateway's log: of one log each, and never back in it.

use std::collections::BTreeMap;

use super::GatewayStanding;

/// Where each gateway's log goes on for somebody who follows it.
#[derive(Debug, Default)]
pub struct Followed(BTreeMap<String, Place>);

#[derive(Debug, Default)]
struct Place {
    log: Option<String>,
    key: Option<String>,
    reached: Option<u64>,
}

impl Place {
    fn is_of(&self, standing: &GatewayStanding) -> bool {
        let known =
            |one: &Option<String>, other: &Option<String>| one.as_ref().zip(other.as_ref()).map(|(a, b)| a == b);
        match (known(&self.log, &standing.log), known(&self.key, &standing.key)) {
            (Some(false), _) | (_, Some(false)) => false,
            (_, Some(true)) => true,
            // A gateway's log does not become shorter; a copy may be behind.
            (Some(true) | None, None) => standing.copy || standing.size.is_none_or(|size| Some(size) >= self.reached),
        }
    }
}

impl Followed {
    /// Somebody who was told so much before, by gateway.
    pub fn from(after: impl IntoIterator<Item = (String, u64)>) -> Self {
        let place = |reached| Place { reached: Some(reached), ..Place::default() };
        Self(after.into_iter().map(|(gateway, reached)| (gateway, place(reached))).collect())
    }

    /// Where to begin, by gateway.
    pub fn after(&self) -> impl Iterator<Item = (String, u64)> {
        self.0.iter().filter_map(|(gateway, place)| Some((gateway.clone(), place.reached?)))
    }

    /// How far a gateway's log was told.
    pub fn reached(&self, gateway: &str) -> Option<u64> {
        self.0.get(gateway)?.reached
    }

    /// Takes note of how far an answer goes, and says from which record on it is news. `None`: it is of another log than
    /// the one that was followed, which is to be asked from its beginning, and what was answered is not shown before.
    pub fn take(&mut self, standing: &GatewayStanding) -> Option<u64> {
        let place = self.0.entry(standing.gateway.clone()).or_default();
        if !place.is_of(standing) {
            *place = Place { log: standing.log.clone(), key: standing.key.clone(), reached: Some(0) };
            return None;
        }
        place.log = standing.log.clone().or_else(|| place.log.take());
        place.key = standing.key.clone().or_else(|| place.key.take());
        let before = place.reached;
        place.reached = before.max(standing.reached);
        Some(before.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1;

    fn standing(log: &str, key: &str, reached: u64, copy: bool) -> GatewayStanding {
        let (log, key, gateway) = (log.to_owned(), key.to_owned(), "edge".to_owned());
        let size = reached;
        GatewayStanding::of(&v1::GatewayEvidence { gateway, log, key, reached, size, copy, ..Default::default() })
    }

    #[test]
    fn a_new_log_is_told_from_its_beginning_whatever_its_size_and_one_log_never_twice() {
        // Another name; another key, shorter or longer; and with no key told, one that is shorter.
        let new = [("b", "k", 50), ("b", "l", 2000), ("a", "l", 50), ("a", "l", 2000), ("a", "", 50)];
        for (log, key, size) in new {
            let mut followed = Followed::default();
            assert_eq!(followed.take(&standing("a", "k", 1000, false)), Some(0));
            if key.is_empty() {
                followed = Followed::from([("edge".to_owned(), 1000)]);
            }
            assert_eq!(followed.take(&standing(log, key, size, false)), None, "{log} {key} {size}");
            assert_eq!(followed.after().collect::<Vec<_>>(), [("edge".to_owned(), 0)]);
            assert_eq!(followed.take(&standing(log, key, size, false)), Some(0));
            assert_eq!(followed.reached("edge"), Some(size));
        }
        // A copy that is behind, or a gateway that says so, takes nobody back.
        let mut followed = Followed::default();
        let _ = followed.take(&standing("a", "k", 1000, false));
        for copy in [true, false] {
            assert_eq!(followed.take(&standing("a", "k", 900, copy)), Some(1000));
            assert_eq!(followed.reached("edge"), Some(1000));
        }
        // A new log whose key is not known yet: that of the one before says nothing of it.
        let mut renamed = Followed::default();
        let _ = renamed.take(&standing("a", "k", 1000, false));
        assert_eq!(renamed.take(&standing("b", "", 20, false)), None);
        assert_eq!(renamed.take(&standing("b", "", 20, false)), Some(0));
        assert_eq!(renamed.take(&standing("b", "l", 30, false)), Some(20));
        assert_eq!(renamed.take(&standing("b", "k", 30, false)), None, "and a key that it has counts");
        // Who is missing says nothing of it.
        let missing = v1::GatewayEvidence { gateway: "edge".into(), missing: "away".into(), ..Default::default() };
        assert_eq!(followed.take(&GatewayStanding::of(&missing)), Some(1000));
        assert_eq!(followed.take(&standing("a", "k", 1001, false)), Some(1000));
    }
}
