//! What follows from the authorities that are kept: who issues, what gateways and clients are to trust, what listeners take
//! and show, and the files that others pin.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::actor::ControlHandle;
use super::super::authorize::Caller;
use super::super::enrol::{self, CA_FILE, CaKeys, CertificateAuthority, EnrolError, FIRST_LABEL};
use super::super::model::Model;
use super::super::plan::Refused;
use super::super::record::{AuthorityRecord, AuthorityStanding, TrustRecord};
use super::{Step, next_label};
use crate::domain::Clock;
use crate::files;
use crate::serve::LiveTls;
use crate::serve::tls::Material;
use crate::settings::ControlSettings;
use crate::settings::read_secret;

/// Certificates of authorities that were retired, beside the CA's: a store that was put back from a backup brings none of
/// them back.
const RETIRED_FILE: &str = "retired.pem";

/// How often bundles of trust domains are looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the authorities cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A key or a certificate.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] crate::settings::SecretError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What listeners are to show cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
}

/// The authorities at work.
#[derive(Debug)]
pub(in super::super) struct Held {
    settings: ControlSettings,
    keys: Arc<dyn CaKeys>,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Current>,
    /// Who issues, once it was needed: whoever keeps its key may be away for a while.
    issuing: ArcSwapOption<CertificateAuthority>,
    tls: Arc<LiveTls>,
    /// One step at a time.
    stepping: tokio::sync::Mutex<()>,
}

/// What is trusted just now.
#[derive(Debug, Default)]
struct Current {
    /// As it is kept, without what was retired before a backup was put back; `None` before the first rotation.
    trust: Option<TrustRecord>,
    /// What gateways compare with what they hold; empty before the first rotation.
    told: Vec<u8>,
}

impl Held {
    /// Of what the model says.
    ///
    /// # Errors
    /// When a file cannot be read or written, or what listeners are to show cannot be used.
    pub(in super::super) async fn open(
        settings: &ControlSettings,
        model: &Model,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, TrustError> {
        let tls = LiveTls::new(&material(settings, None)?);
        let held = Self {
            settings: settings.clone(),
            keys: enrol::ca_keys(&settings.ca_dir, settings.ca_signer.as_ref()),
            clock,
            current: ArcSwap::default(),
            issuing: ArcSwapOption::default(),
            tls: tls.map_err(TrustError::Tls)?,
            stepping: tokio::sync::Mutex::new(()),
        };
        if let Some(kept) = &model.trust {
            held.follow(kept.value.as_ref().clone()).await?;
        } else if let Err(error) = held.issuing().await {
            tracing::error!(%error, "the CA cannot be used for now: gateways cannot join or renew");
        }
        Ok(Arc::new(held))
    }

    /// What listeners show and take.
    pub(in super::super) const fn tls(&self) -> &Arc<LiveTls> {
        &self.tls
    }

    /// Who issues; `None`: nobody does here.
    ///
    /// # Errors
    /// When whoever keeps its key cannot be asked.
    pub(in super::super) async fn issuing(&self) -> Result<Option<Arc<CertificateAuthority>>, EnrolError> {
        if let Some(known) = self.issuing.load_full() {
            return Ok(Some(known));
        }
        let opened = self.opened().await?.map(Arc::new);
        self.issuing.store(opened.clone());
        Ok(opened)
    }

    async fn opened(&self) -> Result<Option<CertificateAuthority>, EnrolError> {
        let (settings, current) = (&self.settings, self.current.load_full());
        let Some(trust) = &current.trust else {
            let signer = settings.ca_signer.as_ref();
            return CertificateAuthority::open(&settings.ca_dir, signer, &settings.trust_domain, &*self.clock).await;
        };
        match trust.of(AuthorityStanding::Issuing).next() {
            Some(it) => {
                CertificateAuthority::known(&self.keys, &it.label, &it.certificate, &settings.trust_domain).await
            }
            None => Ok(None),
        }
    }

    /// What is to be trusted, PEM.
    pub(in super::super) fn bundle(&self, issuing: &CertificateAuthority) -> String {
        self.current.load().trust.as_ref().map_or_else(|| issuing.pem().to_owned(), TrustRecord::bundle)
    }

    /// What gateways compare with what they hold, so that they know when to come for more.
    pub(in super::super) fn told(&self) -> Vec<u8> {
        self.current.load().told.clone()
    }

    /// The authorities, as they are kept: the one that issues alone before the first rotation.
    ///
    /// # Errors
    /// When whoever keeps its key cannot be asked.
    pub(in super::super) async fn authorities(&self) -> Result<Vec<AuthorityRecord>, EnrolError> {
        match &self.current.load_full().trust {
            Some(trust) => Ok(trust.authorities.clone()),
            None => Ok(self.first().await?.into_iter().collect()),
        }
    }

    /// The label of the authority that a certificate, DER, says it comes from.
    pub(in super::super) async fn label_of(&self, certificate: &[u8]) -> Option<String> {
        let issuer = enrol::issuer_of(&pem_of(certificate))?;
        let authorities = self.authorities().await.ok()?;
        let by = |it: &AuthorityRecord| enrol::identifier_of(&it.certificate).is_some_and(|key| key == issuer);
        authorities.iter().rev().find(|it| by(it)).map(|it| it.label.clone())
    }

    async fn first(&self) -> Result<Option<AuthorityRecord>, EnrolError> {
        if self.current.load().trust.is_some() {
            return Ok(None);
        }
        Ok(self.issuing().await?.map(|ca| AuthorityRecord {
            label: FIRST_LABEL.to_owned(),
            certificate: ca.pem().to_owned(),
            standing: AuthorityStanding::Issuing,
            since: self.clock.now(),
        }))
    }

    /// Takes a step of a rotation, and does what follows from it.
    ///
    /// # Errors
    /// When it is not the next one, a key cannot be made, or a file cannot be written; then the next start does what is left.
    pub(in super::super) async fn step(
        &self,
        handle: &ControlHandle,
        caller: &Caller,
        step: Step,
        reason: String,
    ) -> Result<TrustRecord, StepError> {
        let _alone = self.stepping.lock().await;
        let first = self.first().await?;
        if first.is_none() && self.current.load().trust.is_none() {
            return Err(StepError::NoCa);
        }
        // What would be refused makes no key.
        super::plan_step(&handle.model(), self.clock.now(), step, first.as_ref(), None, &reason)?;
        let new = match step {
            Step::Publish | Step::Replace => Some(self.made(handle).await?),
            Step::Issue | Step::Retire => None,
        };
        // A crash here leaves a key that nothing names; the next rotation takes it up.
        let done = handle.step_trust(caller, step, first, new, reason).await?;
        self.follow(done.answer.clone()).await?;
        Ok(done.answer)
    }

    async fn made(&self, handle: &ControlHandle) -> Result<AuthorityRecord, EnrolError> {
        let label = next_label(handle.model().trust.as_ref().map(|kept| kept.value.as_ref()));
        let ca = CertificateAuthority::make(&self.keys, &label, &self.settings.trust_domain, &*self.clock).await?;
        let (certificate, since) = (ca.pem().to_owned(), self.clock.now());
        Ok(AuthorityRecord { label, certificate, standing: AuthorityStanding::Published, since })
    }

    /// Does what follows from the authorities as they are kept. May be done again.
    async fn follow(&self, mut trust: TrustRecord) -> Result<(), TrustError> {
        let dir = &self.settings.ca_dir;
        let gone = self.retired(&mut trust)?;
        let told = told(&trust);
        self.current.store(Arc::new(Current { trust: Some(trust.clone()), told }));
        self.issuing.store(None);
        write(&dir.join(CA_FILE), trust.bundle().as_bytes())?;
        let tls = &self.settings.tls;
        let ids: Vec<_> = gone.iter().filter_map(|it| enrol::identifier_of(&it.certificate)).collect();
        match self.issuing().await {
            Ok(Some(ca)) => {
                let files = (tls.certificate_file.as_path(), tls.key_file.as_path());
                enrol::renew_server(&ca, files, &ids, &*self.clock).await?;
            }
            Ok(None) => tracing::error!("the key of the CA that issues is not there: gateways cannot join or renew"),
            // Whoever keeps it may be away while this starts; what is trusted hangs on nobody.
            Err(error) => tracing::error!(%error, "the CA cannot be used for now: gateways cannot join or renew"),
        }
        // From here on nobody is let in, or goes on, by what was retired.
        self.tls.replace(&material(&self.settings, Some(&trust))?).map_err(TrustError::Tls)?;
        for authority in gone {
            if let Err(error) = self.keys.destroy(&authority.label).await {
                tracing::error!(%error, "the key of a retired authority is still there: remove it");
            }
        }
        Ok(())
    }

    /// Follows the bundles of trust domains by which gateways join, until stopped: all that is shown and taken is read again
    /// when one changes, or nothing when one is bad.
    pub(in super::super) async fn keep_domains(self: Arc<Self>, mut stop: tokio::sync::watch::Receiver<bool>) {
        if self.settings.attestation.spiffe.is_empty() {
            return super::super::stopped(&mut stop).await;
        }
        let mut every = tokio::time::interval(LOOK_EVERY);
        let bundles = || domains(&self.settings).ok();
        let mut known = bundles();
        loop {
            tokio::select! {
                () = super::super::stopped(&mut stop) => return,
                _ = every.tick() => {}
            }
            let found = bundles();
            if found.is_none() || found == known {
                continue;
            }
            let _alone = self.stepping.lock().await;
            let current = self.current.load_full();
            let taken = material(&self.settings, current.trust.as_ref())
                .and_then(|material| self.tls.replace(&material).map_err(TrustError::Tls));
            match taken {
                Ok(()) => known = found,
                Err(error) => tracing::error!(%error, "a trust domain's bundle cannot be taken: the one before holds"),
            }
        }
    }

    /// Those that are retired, also when the store was put back from a time when they were not: written down first.
    fn retired(&self, trust: &mut TrustRecord) -> Result<Vec<AuthorityRecord>, TrustError> {
        let file = self.settings.ca_dir.join(RETIRED_FILE);
        let mut text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(TrustError::File { path: file, source }),
        };
        for authority in &mut trust.authorities {
            let certificate = authority.certificate.trim_end();
            let is_gone = text.contains(certificate);
            if is_gone && authority.standing != AuthorityStanding::Retired {
                tracing::error!(
                    label = authority.label,
                    "an authority was retired that this store trusts: it stays so"
                );
                authority.standing = AuthorityStanding::Retired;
            } else if authority.standing == AuthorityStanding::Retired && !is_gone {
                text.push_str(certificate);
                text.push('\n');
            }
        }
        write(&file, text.as_bytes())?;
        Ok(trust.of(AuthorityStanding::Retired).cloned().collect())
    }
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum StepError {
    /// There is no CA here.
    #[error("this control plane has no CA")]
    NoCa,
    /// It is not the next one, or the store does not take it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A key or a certificate.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// What follows from it could not be done.
    #[error("it is done, and what follows from it is not, so start this control plane again: {0}")]
    Follow(#[from] TrustError),
}

fn domains(settings: &ControlSettings) -> Result<Vec<(String, Vec<u8>)>, TrustError> {
    settings.attestation.spiffe.iter().map(|(domain, file)| Ok((domain.clone(), read(file)?))).collect()
}

/// What listeners show and take.
fn material(settings: &ControlSettings, trust: Option<&TrustRecord>) -> Result<Material, TrustError> {
    let tls = &settings.tls;
    let named = read(&tls.client_ca_file)?;
    Ok(Material {
        certificate: read(&tls.certificate_file)?,
        key: read_secret(&tls.key_file)?,
        authorities: trust.map_or(named.clone(), |trust| clients(&named, trust).into_bytes()),
        domains: domains(settings)?,
    })
}

/// Whose client certificates are taken: those that the file names, of our own authorities those that are trusted.
fn clients(file: &[u8], trust: &TrustRecord) -> String {
    let of = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let ours: Vec<_> = trust.authorities.iter().filter_map(|it| of(&it.certificate)).collect();
    let others = CertificateDer::pem_slice_iter(file).filter_map(Result::ok).filter(|it| !ours.contains(it));
    let mut text: String = others.map(|it| pem_of(&it)).collect();
    text.push_str(&trust.bundle());
    text
}

/// What gateways compare with what they hold: SHA-256 of the bundle and of the identifier of the key that issues.
fn told(trust: &TrustRecord) -> Vec<u8> {
    let issuing = trust.of(AuthorityStanding::Issuing).next();
    let issuer = issuing.and_then(|it| enrol::identifier_of(&it.certificate)).unwrap_or_default();
    crate::wire::trust_told(trust.bundle().as_bytes(), &issuer)
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|source| TrustError::File { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    files::write(path, bytes, files::PUBLIC).map_err(|source| TrustError::File { path: path.to_owned(), source })
}
