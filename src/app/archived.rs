//! The archive of a log, for whoever prunes it by hand: read again before the last copy goes.

use std::path::Path;

use super::AppError;
use crate::archive;
use crate::evidence::archive::Place;
use crate::settings::{ControlSettings, FileKind, GatewaySettings, check_file};

/// Where the settings at `config` have the log of this name archived; `None` where they do not.
///
/// # Errors
/// When the settings are wrong, or the archive cannot be set up.
pub fn archive_of(config: &Path, log: &str) -> Result<Option<Box<dyn Place>>, AppError> {
    super::crypto();
    let evidence = match check_file(config)? {
        FileKind::Gateway => GatewaySettings::load(config)?.evidence,
        FileKind::Control => ControlSettings::load(config)?.evidence,
        FileKind::Catalog => {
            let what = format!("{}: settings of a gateway or a control plane are wanted", config.display());
            return Err(AppError::Usage(what));
        }
    };
    let place = evidence.archive.as_ref().map(|settings| archive::place(settings, log));
    place.transpose().map_err(AppError::io("the archive"))
}
