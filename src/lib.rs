//! Portcullis: an inline access gate for machine callers.
//!
//! Services, pipelines and AI agents outnumber people, nearly all of them hold more rights than they use, and access that
//! was approved in one system is enforced, or forgotten, in another. Portcullis closes that gap on the request path: a
//! small proxy asks of every call *is there a live grant for exactly this?*, answers from memory, swaps the caller's
//! credential for a short-lived one, and writes the evidence before the call goes on. A control plane turns decisions about
//! access into grants and pushes them to every gateway; what it ends, they end, running streams included.
//!
//! ```text
//!  caller ──(mTLS / token)──▶ GATEWAY ──(minted credential)──▶ upstream
//!                              │    ▲
//!               evidence       │    │ one gRPC stream: routes, grants, revocations down;
//!               (local log) ◀──┘    │ renewals and acknowledgements up
//!                                   ▼
//!                              CONTROL PLANE ◀── command line, API
//!                                   │
//!                              store (SQLite)
//! ```
//!
//! One binary holds the gateway (the data plane), the control plane and the command line.
//!
//! # The way of a call
//!
//! [`gateway`] reads in this order; each stage is a function from the previous stage's result to the next one's, or a
//! refusal. The screen that shows it is `gateway/pipeline.rs`.
//!
//! 1. **accept**: limits, deadlines, one canonical form. What has two readings is refused, never repaired.
//! 2. **identify**: certificate or token, to a principal, to an identity of the inventory.
//! 3. **match**: a route says which resource, action and parameters a request means.
//! 4. **decide**: pure, in [`decision`]: allow with a permit, deny with a reason, or hold until something is known.
//! 5. **register**: the running call is entered under its grant; then the snapshot is read again, so that no revocation
//!    slips between.
//! 6. **credential**: the caller's is removed; the upstream gets a token minted under the grant, or nothing.
//! 7. **record**: the intent is on disk before the first byte goes upstream. Authority is checked a last time.
//! 8. **forward**: streamed both ways, raced against the call's cut.
//! 9. **outcome**: recorded by a drop, so that a cut and a panic are recorded too.
//!
//! Revoking is: publish the snapshot, fire the registered calls, wait until they are gone, acknowledge.
//!
//! # The way of a grant
//!
//! [`control`]: a command is authenticated and authorised, read against the model, committed to the store together with the
//! event that describes it, and pushed as a delta. The gateways acknowledge each revision once it is enforced, with the
//! calls that were cut for it.
//!
//! Once a policy is in force, a grant is made by a request alone: asked, analysed as a pure function of what is known,
//! approved by people who saw that analysis, and granted in the transaction that ends the request.
//!
//! # Commit order
//!
//! There are two truths and nothing is written to both. The truth of a gateway is its journal ([`evidence`]): append, group
//! commit, `fdatasync`; Merkle tiles and checkpoints are derived from it. The truth of the control plane is its store's
//! transaction; its evidence is derived from the outbox in that transaction, by revision.
//!
//! # Threads
//!
//! Each worker is a thread with a runtime, listeners (`SO_REUSEPORT`) and a pool of upstream connections of its own; nothing
//! is stolen. gRPC, admin endpoints and signals run on a second runtime. The journal and the store have a thread each.
//!
//! # Who imports whom
//!
//! [`domain`] imports nothing of ours. [`decision`], [`token`], [`evidence`], [`settings`] and [`wire`] import the domain.
//! [`issuers`] adds to [`token`] where keys come from, [`archive`] to [`evidence`] a network, `asking` what is asked of it over one. [`gateway`] and [`control`]
//! never each other. [`cli`] neither: it goes through [`client`]; [`app`] wires. A test keeps
//! this.

pub mod app;
pub mod archive;
mod asking;
pub mod cli;
pub mod client;
pub mod clock;
pub mod control;
pub mod decision;
pub mod domain;
pub mod evidence;
pub mod files;
pub mod gateway;
pub mod issuers;
mod serve;
pub mod settings;
pub mod telemetry;
pub mod token;
pub mod wire;
