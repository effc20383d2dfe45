//! The command line: noun, verb, answer.
//!
//! One file per noun. Everything that concerns a control plane goes through `crate::client`; what runs a part of
//! Portcullis goes through `crate::app`. Nothing here decides about access, and nothing else parses arguments.

mod apply;
mod breakglass;
mod can_i;
mod change;
mod completion;
mod config;
mod control;
mod delegation;
mod dev;
mod evidence;
mod exception;
mod failure;
mod fleet;
mod gateway;
mod grant;
mod identity;
mod limits;
mod login;
mod output;
mod policy;
mod receipt;
mod request;
mod time;
mod token;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::client::{Client, Environment, Pointers, Target};
use failure::{Exit, Failure};
use output::{Format, Output};

/// Widest line of help: what an 80-column terminal has, and a little more for those that are wider.
const HELP_WIDTH: usize = 100;

/// An inline access gate for machine callers: every call against a live grant, with evidence
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    max_term_width = HELP_WIDTH,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0 done  1 failed  2 usage or configuration  3 denied  4 not found  5 conflict
  6 unauthenticated  7 unavailable or timed out  8 verification failed";

#[derive(Debug, Args)]
struct Global {
    /// How answers are printed. With json, standard output is exactly one document (one per line of a stream) and
    /// errors are JSON on standard error
    #[arg(short, long, value_enum, default_value_t, global = true, value_name = "FORMAT", help_heading = "Output")]
    output: Format,
    /// Tables without their first line
    #[arg(long, global = true, help_heading = "Output")]
    no_headers: bool,
    /// State directory of `portcullis dev` [env: PORTCULLIS_DIR] [default: .portcullis]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Control plane")]
    dir: Option<PathBuf>,
    /// Address of the control plane, https://HOST:PORT [env: PORTCULLIS_ADDRESS]
    #[arg(long, global = true, value_name = "URL", help_heading = "Control plane")]
    address: Option<String>,
    /// File with the bearer token [env: PORTCULLIS_TOKEN, the token itself]
    #[arg(long = "auth-token-file", global = true, value_name = "FILE", help_heading = "Control plane")]
    auth_token_file: Option<PathBuf>,
    /// File with the CA that the control plane's certificate must come from [env: PORTCULLIS_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Control plane")]
    ca_file: Option<PathBuf>,
    /// File with a client certificate, in place of a token
    #[arg(long = "auth-cert-file", global = true, value_name = "FILE", help_heading = "Control plane")]
    auth_cert_file: Option<PathBuf>,
    /// File with its key
    #[arg(long = "auth-key-file", global = true, value_name = "FILE", help_heading = "Control plane")]
    auth_key_file: Option<PathBuf>,
    /// Context of ~/.config/portcullis/config.yaml, in place of its current one
    #[arg(long, global = true, value_name = "NAME", help_heading = "Control plane")]
    context: Option<String>,
    /// Be this person of the dev directory, in place of its administrator
    #[arg(long, global = true, value_name = "NAME", help_heading = "Control plane")]
    as_person: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a control plane, a gateway and a sample upstream on loopback
    Dev(dev::Dev),
    /// Run a control plane
    #[command(subcommand)]
    Control(control::Control),
    /// Run a gateway
    #[command(subcommand)]
    Gateway(gateway::Gateway),
    /// Check files, and print what they may hold
    #[command(subcommand)]
    Config(config::Config),
    /// Put catalog documents into force, all or none
    Apply(apply::Apply),
    /// Machine callers of the inventory
    #[command(subcommand)]
    Identity(identity::Identity),
    /// Ask for access, and decide about what is asked
    #[command(subcommand)]
    Request(request::Request),
    /// Sign in where the context says, as a person
    Login(login::Login),
    /// Sign out there
    Logout(login::Logout),
    /// Who may ask for what, and whose word it takes
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Changes of catalog and policy that wait for another person
    #[command(subcommand)]
    Change(change::Change),
    /// Who approves in whose place, for a time
    #[command(subcommand)]
    Delegation(delegation::Delegation),
    /// Leave from rules: by age, and later ends
    #[command(subcommand)]
    Exception(exception::Exception),
    /// Access at once in an emergency, and its reviews
    #[command(subcommand, name = "breakglass", visible_alias = "break-glass")]
    BreakGlass(breakglass::BreakGlass),
    /// Live, time-boxed permissions
    #[command(subcommand)]
    Grant(grant::Grant),
    /// Ask what the gate would say: 0 allowed, 3 denied
    #[command(name = "can-i")]
    CanI(can_i::CanI),
    /// The gateways: how far each enforces, and who may have authority
    #[command(subcommand)]
    Fleet(fleet::Fleet),
    /// Tokens of callers
    #[command(subcommand)]
    Token(token::Token),
    /// The signed log of every decision
    #[command(subcommand)]
    Evidence(evidence::Evidence),
    /// Print a completion script for a shell
    Completion(completion::Completion),
    /// Print the version
    Version,
}

/// What every command gets: where answers go, and who to ask.
struct Context {
    output: Output,
    pointers: Pointers,
    environment: Environment,
}

impl Context {
    fn new(global: Global) -> Self {
        let environment = Environment::read();
        Self {
            output: Output::new(global.output, !global.no_headers, environment.no_color),
            pointers: Pointers {
                dir: global.dir,
                address: global.address,
                token_file: global.auth_token_file,
                ca_file: global.ca_file,
                cert_file: global.auth_cert_file,
                key_file: global.auth_key_file,
                context: global.context,
                as_person: global.as_person,
            },
            environment,
        }
    }

    /// The state directory that is meant.
    fn dir(&self) -> PathBuf {
        crate::client::target::state_dir(&self.pointers, &self.environment)
    }

    async fn client(&self) -> Result<Client, Failure> {
        let target = Target::find(&self.pointers, &self.environment)?;
        Ok(Client::connect(&target).await?)
    }
}

/// The whole grammar: for completion scripts and for the golden file of the help.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let format = cli.global.output;
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.quiet {
                report(&failure.render(format));
            }
            failure.exit.into()
        }
    }
}

fn report(text: &str) {
    use std::io::Write as _;
    // Nowhere is left to say that standard error is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Help, version and usage errors, before it is known how answers are wanted.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that closed the pipe has seen enough.
        let _ = error.print();
        return Exit::Done.into();
    }
    if wants_json(arguments) {
        let text = error.render().to_string();
        let message = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        report(&Failure::usage(message).render(Format::Json));
    } else {
        let _ = error.print();
    }
    Exit::Usage.into()
}

fn wants_json(arguments: &[OsString]) -> bool {
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    texts.iter().any(|t| matches!(t.as_ref(), "-ojson" | "-o=json" | "--output=json"))
        || texts
            .windows(2)
            .any(|pair| matches!(pair, [flag, value] if (flag == "-o" || flag == "--output") && value == "json"))
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let context = Context::new(cli.global);
    match cli.command {
        Command::Dev(command) => command.run(&context),
        Command::Control(command) => command.run(&context),
        Command::Gateway(command) => command.run(&context),
        Command::Config(command) => command.run(&context),
        Command::Apply(command) => asking(command.run(&context)),
        Command::Identity(command) => asking(command.run(&context)),
        Command::Request(command) => asking(command.run(&context)),
        Command::Login(command) => asking(command.run(&context)),
        Command::Logout(command) => asking(command.run(&context)),
        Command::Policy(command) => asking(command.run(&context)),
        Command::Change(command) => asking(command.run(&context)),
        Command::Delegation(command) => asking(command.run(&context)),
        Command::Exception(command) => asking(command.run(&context)),
        Command::BreakGlass(command) => asking(command.run(&context)),
        Command::Grant(command) => asking(command.run(&context)),
        Command::CanI(command) => asking(command.run(&context)),
        Command::Fleet(command) => asking(command.run(&context)),
        Command::Token(command) => asking(command.run(&context)),
        Command::Evidence(command) => asking(command.run(&context)),
        Command::Completion(command) => command.run(),
        Command::Version => completion::version(&context),
    }
}

/// Runs a command that waits for a server: one thread is enough for that. Ctrl-C ends it as the shell expects.
fn asking<F: Future<Output = Result<Exit, Failure>>>(command: F) -> Result<Exit, Failure> {
    crate::app::crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}
