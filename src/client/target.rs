//! Where the control plane is and who is asking: flags, then the environment, then the user's context, then `dev`.
//!
//! The one place outside settings that reads the environment. A target is complete before anything is connected: an
//! address, the CA that its certificate must come from, and a token or a client certificate. What it refuses: system
//! trust, and a person's name that is a path.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::context;
use super::sign_in::SignedIn;
use crate::domain::name::OwnerName;

/// Where `portcullis dev` keeps its state unless told otherwise.
pub const DEFAULT_DIR: &str = ".portcullis";
/// Who the command line is beside `dev` unless told otherwise.
pub const DEFAULT_PERSON: &str = "administrator";
/// Largest file of those read here.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why no server can be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TargetError {
    message: String,
    /// Nothing was configured wrongly: there is just nobody there.
    absent: bool,
}

impl TargetError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), absent: false }
    }

    fn absent(message: String) -> Self {
        Self { message, absent: true }
    }

    /// Whether there is nobody to ask, rather than a fault in what was said about them.
    pub fn is_absent(&self) -> bool {
        self.absent
    }
}

/// What the command line's flags say.
#[derive(Clone, Debug, Default)]
pub struct Pointers {
    /// State directory of a `dev`.
    pub dir: Option<PathBuf>,
    /// Address of the control plane.
    pub address: Option<String>,
    /// File with the bearer token.
    pub token_file: Option<PathBuf>,
    /// File with the pinned CA.
    pub ca_file: Option<PathBuf>,
    /// File with the client certificate's chain.
    pub cert_file: Option<PathBuf>,
    /// File with the client certificate's key.
    pub key_file: Option<PathBuf>,
    /// Context to use instead of the current one.
    pub context: Option<String>,
    /// Person of the `dev` directory to be.
    pub as_person: Option<String>,
}

/// What the environment says.
#[derive(Clone, Default)]
pub struct Environment {
    /// `PORTCULLIS_DIR`
    pub dir: Option<PathBuf>,
    /// `PORTCULLIS_ADDRESS`
    pub address: Option<String>,
    /// `PORTCULLIS_TOKEN`
    pub token: Option<Zeroizing<String>>,
    /// `PORTCULLIS_CA`, a file
    pub ca: Option<PathBuf>,
    /// The user's config directory: `XDG_CONFIG_HOME`, else `~/.config`.
    pub config: Option<PathBuf>,
    /// `NO_COLOR` is set.
    pub no_color: bool,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("dir", &self.dir).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Environment {
    /// Reads the environment of this process. A variable that is empty counts as not set.
    #[expect(clippy::disallowed_methods, reason = "the command line's one look at the environment")]
    pub fn read() -> Self {
        let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| of(name).and_then(|value| value.into_string().ok());
        let config = of("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| of("HOME").map(|home| PathBuf::from(home).join(".config")));
        Self {
            dir: of("PORTCULLIS_DIR").map(PathBuf::from),
            address: text("PORTCULLIS_ADDRESS"),
            token: text("PORTCULLIS_TOKEN").map(Zeroizing::new),
            ca: of("PORTCULLIS_CA").map(PathBuf::from),
            config,
            no_color: of("NO_COLOR").is_some(),
        }
    }
}

/// A control plane, and who asks it.
pub struct Target {
    /// `https://HOST:PORT`
    pub address: String,
    /// The CA that its certificate must come from.
    pub ca_pem: Vec<u8>,
    /// Who asks, by token.
    pub token: Option<Zeroizing<String>>,
    /// Who asks, by certificate.
    pub certificate: Option<ClientCertificate>,
    /// Who asks, by having signed in; where there is no token and no certificate.
    pub signed_in: Option<SignedIn>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A client certificate with its key.
pub struct ClientCertificate {
    /// The chain, PEM, leaf first.
    pub chain_pem: Vec<u8>,
    /// The key, PEM.
    pub key_pem: Zeroizing<String>,
}

/// Where the address comes from: the token and the CA then come from there too, unless they are named.
enum Source {
    Named,
    Context(String, Box<context::Context>),
    Dir,
}

impl Target {
    /// Finds the server.
    ///
    /// # Errors
    /// When nothing names one, or what is named cannot be read.
    pub fn find(pointers: &Pointers, environment: &Environment) -> Result<Self, TargetError> {
        let dir = state_dir(pointers, environment);
        let (address, source) = address(pointers, environment, &dir)?;
        let (context_ca, context_token, context_certificate, signed_in) = match &source {
            Source::Context(name, c) => {
                let signed_in = c.sign_in.clone().zip(environment.config.as_deref().map(|dir| signed_in(dir, name)));
                let certificate = c.cert_file.clone().zip(c.key_file.clone());
                (c.ca_file.clone(), c.token_file.clone(), certificate, signed_in)
            }
            Source::Named | Source::Dir => (None, None, None, None),
        };
        let signed_in = signed_in.map(|(at, file)| SignedIn { at, file });
        let ca_file = pointers.ca_file.clone().or_else(|| environment.ca.clone()).or(context_ca);
        let ca_pem = read(&ca_file.unwrap_or_else(|| dir.join("ca.pem")), "the CA certificate (--ca-file)")?;
        let certificate = match (&pointers.cert_file, &pointers.key_file) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => context_certificate,
            _ => return Err(TargetError::new("--cert-file and --key-file go together")),
        };
        let certificate = certificate.map(|(cert, key)| client_certificate(&cert, &key)).transpose()?;
        let token = match (&pointers.token_file, &pointers.as_person) {
            (Some(file), _) => Some(client_token(file)?),
            (None, Some(person)) => Some(client_token(&person_file(&dir, person)?)?),
            (None, None) => match (&environment.token, context_token) {
                (Some(token), _) => Some(token.clone()),
                (None, Some(file)) => Some(client_token(&file)?),
                (None, None) if certificate.is_some() || signed_in.is_some() => None,
                (None, None) => Some(client_token(&person_file(&dir, DEFAULT_PERSON)?)?),
            },
        };
        let signed_in = signed_in.filter(|_| token.is_none() && certificate.is_none());
        Ok(Self { address, ca_pem, token, certificate, signed_in })
    }
}

/// The state directory that is meant: the flag's, the environment's, or the default one.
pub fn state_dir(pointers: &Pointers, environment: &Environment) -> PathBuf {
    pointers.dir.clone().or_else(|| environment.dir.clone()).unwrap_or_else(|| PathBuf::from(DEFAULT_DIR))
}

/// Where it is kept that somebody signed in by the context `name`.
fn signed_in(config: &Path, name: &str) -> PathBuf {
    // A name is a key of a YAML file and may be anything: what is kept lies where its digest says.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let short: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    config.join("portcullis/signed-in").join(format!("{short}.json"))
}

fn address(pointers: &Pointers, env: &Environment, dir: &Path) -> Result<(String, Source), TargetError> {
    if let Some(address) = &pointers.address {
        return Ok((url(address)?, Source::Named));
    }
    if pointers.dir.is_some() || pointers.as_person.is_some() && pointers.context.is_none() && env.address.is_none() {
        return Ok((DevFile::read(dir)?.control, Source::Dir));
    }
    if pointers.context.is_none() {
        if let Some(address) = &env.address {
            return Ok((url(address)?, Source::Named));
        }
        if env.dir.is_some() {
            return Ok((DevFile::read(dir)?.control, Source::Dir));
        }
    }
    match context::load(env.config.as_deref(), pointers.context.as_deref())? {
        Some((name, context)) => Ok((url(&context.address)?, Source::Context(name, Box::new(context)))),
        None => Ok((DevFile::read(dir)?.control, Source::Dir)),
    }
}

fn url(address: &str) -> Result<String, TargetError> {
    if address.starts_with("http://") {
        return Err(TargetError::new(format!("`{address}` is not encrypted: a control plane is reached by https://")));
    }
    let url = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    match url.parse::<http::Uri>() {
        Ok(uri) if uri.scheme_str() == Some("https") && uri.port().is_some() => Ok(url),
        _ => Err(TargetError::new(format!("`{address}` is not a control plane's address: https://HOST:PORT"))),
    }
}

/// The file with the token of a person of a `dev` directory.
fn person_file(dir: &Path, person: &str) -> Result<PathBuf, TargetError> {
    let person: OwnerName = person.parse().map_err(|e| TargetError::new(format!("--as-person: {e}")))?;
    let file = dir.join("people").join(person.as_str());
    if !file.exists() {
        let shown = dir.display();
        return Err(TargetError::new(match person.as_str() {
            DEFAULT_PERSON => {
                format!("nobody to be: name a token with --token-file or PORTCULLIS_TOKEN ({shown} has no people)")
            }
            name => format!("`{name}` is none of the people in {shown}/people"),
        }));
    }
    Ok(file)
}

/// A token from a file, without the white space around it.
///
/// # Errors
/// When the file cannot be read or holds anything but one line of visible ASCII.
pub fn client_token(path: &Path) -> Result<Zeroizing<String>, TargetError> {
    let bytes = Zeroizing::new(read(path, "the token")?);
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(TargetError::new(format!("{}: holds no token", path.display())));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// A client certificate and its key from their files.
///
/// # Errors
/// When one cannot be read.
pub fn client_certificate(cert: &Path, key: &Path) -> Result<ClientCertificate, TargetError> {
    let chain_pem = read(cert, "the client certificate")?;
    let key_bytes = Zeroizing::new(read(key, "the client certificate's key")?);
    let key_pem = std::str::from_utf8(&key_bytes)
        .map_err(|_| TargetError::new(format!("{}: is not a PEM file", key.display())))?
        .to_owned();
    Ok(ClientCertificate { chain_pem, key_pem: Zeroizing::new(key_pem) })
}

/// Reads a bounded file; `what` says what it was to be.
///
/// # Errors
/// When it cannot be read or is over 1 MiB.
pub fn read(path: &Path, what: &str) -> Result<Vec<u8>, TargetError> {
    use std::io::Read as _;
    let fail = |why: &dyn fmt::Display| TargetError::new(format!("cannot read {what} from {}: {why}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| fail(&e))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| fail(&e))?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(fail(&"it is larger than 1 MiB")) } else { Ok(bytes) }
}

/// `DIR/dev.json`: where the parts of a running `dev` are. Field names are relied on by scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevFile {
    /// The gateway, plain.
    pub gateway: String,
    /// The gateway, mutual TLS.
    pub gateway_tls: String,
    /// The gateway's admin listener.
    pub admin: String,
    /// The control plane's gRPC.
    pub control: String,
    /// The control plane's HTTP.
    pub http: String,
    /// The gateway's evidence directory.
    pub evidence: String,
}

impl DevFile {
    /// Reads `DIR/dev.json`.
    ///
    /// # Errors
    /// When there is none, which means that no `dev` runs there, or it is not one.
    pub fn read(dir: &Path) -> Result<Self, TargetError> {
        let path = dir.join("dev.json");
        if !path.exists() {
            return Err(TargetError::absent(format!(
                "no control plane is named, and {} is not there: is `portcullis dev` running? \
                 Otherwise name one: --address, PORTCULLIS_ADDRESS or a context",
                path.display()
            )));
        }
        let bytes = read(&path, "the addresses of dev")?;
        serde_json::from_slice(&bytes).map_err(|e| TargetError::new(format!("{}: {e}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(dir: &Path, control: &str) {
        let file = DevFile {
            gateway: "http://127.0.0.1:1".into(),
            gateway_tls: "https://127.0.0.1:2".into(),
            admin: "http://127.0.0.1:3".into(),
            control: control.into(),
            http: "http://127.0.0.1:4".into(),
            evidence: dir.join("evidence").display().to_string(),
        };
        std::fs::create_dir_all(dir.join("people")).unwrap();
        put(&dir.join("dev.json"), &serde_json::to_string(&file).unwrap());
        put(&dir.join("ca.pem"), "the CA");
        put(&dir.join("people/administrator"), "root-token\n");
        put(&dir.join("people/carol"), "carol-token\n");
    }

    fn put(path: &Path, text: &str) {
        use std::io::Write as _;
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn flags_go_before_environment_before_context_before_dev() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        dev(&a, "https://127.0.0.1:10");
        dev(&b, "https://127.0.0.1:20");
        let config = root.path().join("config");
        std::fs::create_dir_all(config.join("portcullis")).unwrap();
        let ca = b.join("ca.pem").display().to_string();
        let token = b.join("people/carol").display().to_string();
        put(
            &config.join("portcullis/config.yaml"),
            &format!(
                "current: prod\ncontexts:\n  prod: {{ address: 'https://control.example:7443', ca_file: '{ca}', \
                 token_file: '{token}' }}\n"
            ),
        );
        let found = |pointers: &Pointers, env: &Environment| {
            let target = Target::find(pointers, env).unwrap();
            (target.address, target.token.map(|t| t.as_str().to_owned()).unwrap_or_default())
        };
        let with_config = Environment { config: Some(config), ..Environment::default() };
        let none = Pointers::default();
        assert_eq!(found(&none, &with_config), ("https://control.example:7443".into(), "carol-token".into()));

        let with_dir = Environment { dir: Some(a.clone()), ..with_config.clone() };
        assert_eq!(found(&none, &with_dir), ("https://127.0.0.1:10".into(), "root-token".into()));

        let token = Some(Zeroizing::new("env-token".to_owned()));
        let with_all = Environment { address: Some("127.0.0.1:30".into()), token, ..with_dir };
        assert_eq!(found(&none, &with_all), ("https://127.0.0.1:30".into(), "env-token".into()));

        let by_flag = Pointers { dir: Some(b), as_person: Some("carol".into()), ..Pointers::default() };
        assert_eq!(found(&by_flag, &with_all), ("https://127.0.0.1:20".into(), "carol-token".into()));
    }

    #[test]
    fn a_person_is_a_name_and_never_a_path() {
        let root = tempfile::tempdir().unwrap();
        dev(root.path(), "https://127.0.0.1:10");
        let pointers =
            Pointers { dir: Some(root.path().into()), as_person: Some("../ca.pem".into()), ..Pointers::default() };
        assert!(Target::find(&pointers, &Environment::default()).is_err());
    }

    #[test]
    fn plain_http_and_nonsense_are_no_addresses() {
        for bad in ["http://127.0.0.1:1", "ftp://a:1", "https://a", "https://", "a b:1"] {
            assert!(url(bad).is_err(), "{bad}");
        }
        assert_eq!(url("[::1]:7443").unwrap(), "https://[::1]:7443");
    }

    #[test]
    fn without_a_dev_there_is_nobody() {
        let root = tempfile::tempdir().unwrap();
        let pointers = Pointers { dir: Some(root.path().into()), ..Pointers::default() };
        assert!(Target::find(&pointers, &Environment::default()).unwrap_err().is_absent());
    }
}
