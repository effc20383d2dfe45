//! Fields of messages that ask for access, each fault noted beside the others.

use crate::domain::grant::Limits;
use crate::wire::v1;

/// A name or the like; `None` with its fault noted.
pub(super) fn parsed<T: std::str::FromStr>(field: &str, text: &str, faults: &mut Vec<String>) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| faults.push(format!("{field}: {error}"))).ok()
}

/// The limits, none where they are not said; with a fault, the message is refused.
pub(super) fn limits(message: Option<v1::Limits>, faults: &mut Vec<String>) -> Limits {
    match message.map(Limits::try_from).transpose() {
        Ok(limits) => limits.unwrap_or_default(),
        Err(error) => {
            faults.push(format!("limits: {error}"));
            Limits::default()
        }
    }
}
