//! A real etcd behind the trait, as the judge of what the other implementations do. For tests: it speaks to etcd's
//! JSON gateway and starts a server of its own. Except for the limits that are ours (length of keys, size, time of a
//! lease), it leaves every check to etcd.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::limits::{MAX_REQUEST_BYTES, check_branch, check_key, check_lease};
use super::{
    CompareOp, CompareTarget, Event, KeyRange, KeyValue, Lease, LeaseId, Op, OpResult, RangeResult, Revision, Store,
    StoreError, Txn, TxnResult, WatchBatch, WatchStream,
};

const MISSING: &str = "etcd cannot be started; this test needs Debian's package etcd-server, which ./test installs";

/// A server with a directory of its own, ended with the value.
#[derive(Debug)]
pub(in super::super) struct EtcdStore {
    process: Child,
    base: String,
    client: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl EtcdStore {
    pub(in super::super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Both are held until both are known, so that they differ.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [base, peer] = free.map(|socket| format!("http://{}", socket.local_addr().unwrap()));
        let mut process = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &base, "--advertise-client-urls", &base])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect(MISSING);
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.contains("ready to serve client requests") {
            assert!(log.read_line(&mut seen).unwrap() > 0, "etcd ended: {seen}");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { process, base, client, _dir: dir }
    }

    async fn open(&self, path: &str, body: &Value) -> Result<reqwest::Response, StoreError> {
        let request = self.client.post(format!("{}/v3/{path}", self.base)).body(body.to_string());
        request.send().await.map_err(|error| StoreError::Unavailable { detail: error.to_string() })
    }

    async fn ask(&self, path: &str, body: Value) -> Result<Value, StoreError> {
        let response = self.open(path, &body).await?;
        let text = response.text().await.unwrap();
        let answer: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        match answer["error"].as_str() {
            None => Ok(answer),
            Some(error) => Err(self.refusal(error, &body).await),
        }
    }

    async fn refusal(&self, error: &str, body: &Value) -> StoreError {
        match error.trim_start_matches("etcdserver: ") {
            "mvcc: required revision has been compacted" => StoreError::Compacted { oldest: self.oldest().await },
            "mvcc: required revision is a future revision" => {
                StoreError::FutureRevision { current: Box::pin(self.current_revision()).await.unwrap() }
            }
            "duplicate key given in txn request" => StoreError::DuplicateKey,
            "too many operations in txn request" => {
                let length = |name: &str| body[name].as_array().map_or(0, Vec::len);
                let operations = length("compare").max(length("success")).max(length("failure"));
                StoreError::TooManyOperations { operations }
            }
            "requested lease not found" => StoreError::LeaseNotFound { lease: LeaseId(named_lease(body).unwrap()) },
            other => StoreError::Unavailable { detail: other.into() },
        }
    }

    /// Only a refused watch tells it.
    async fn oldest(&self) -> Revision {
        match Box::pin(self.watch(KeyRange::all(), 1)).await {
            Ok(mut watch) => match futures_util::StreamExt::next(&mut watch).await {
                Some(Err(StoreError::Compacted { oldest })) => oldest,
                Some(Ok(_)) => 1,
                other => panic!("{other:?}"),
            },
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(
        &self,
        range: KeyRange,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<RangeResult, StoreError> {
        range.check()?;
        let mut body = range_json(&range);
        body["limit"] = json!(limit.unwrap_or(0));
        body["revision"] = json!(at.unwrap_or(0));
        let answer = self.ask("kv/range", body).await?;
        Ok(range_result(&answer, number(&answer["header"]["revision"])))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        for compare in &txn.compare {
            check_key(&compare.key)?;
        }
        for op in txn.then.iter().chain(&txn.or_else) {
            match op {
                Op::Put { key, .. } => check_key(key)?,
                Op::Delete { range } | Op::Get { range, .. } => range.check()?,
            }
        }
        if txn.bytes() > MAX_REQUEST_BYTES {
            return Err(StoreError::TooLarge { bytes: txn.bytes() });
        }
        for ops in [&txn.then, &txn.or_else] {
            // The one rule that is ours alone: etcd does not see that a deletion without an end meets a put.
            let endless = |op: &Op| matches!(op, Op::Delete { range } if range.bounds().1.is_none());
            if ops.iter().any(endless) {
                check_branch(ops)?;
            }
        }
        let answer = self.ask("kv/txn", txn_json(&txn)).await?;
        let revision = number(&answer["header"]["revision"]);
        let responses = answer["responses"].as_array().into_iter().flatten().map(|response| {
            if !response["response_put"].is_null() {
                OpResult::Put
            } else if !response["response_delete_range"].is_null() {
                OpResult::Delete { deleted: number(&response["response_delete_range"]["deleted"]) }
            } else {
                OpResult::Get(range_result(&response["response_range"], revision))
            }
        });
        let responses = responses.collect();
        Ok(TxnResult { succeeded: answer["succeeded"].as_bool().unwrap_or(false), revision, responses })
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        range.check()?;
        let mut create = range_json(&range);
        create["start_revision"] = json!(from);
        create["prev_kv"] = json!(true);
        let response = self.open("watch", &json!({ "create_request": create })).await?;
        let mut lines = Lines { response, rest: Vec::new() };
        assert_eq!(lines.next().await["result"]["created"], true);
        let state = (lines, VecDeque::new());
        Ok(Box::pin(stream::unfold(Some(state), |state| async move {
            let (mut lines, mut ready) = state?;
            loop {
                if let Some(batch) = ready.pop_front() {
                    return Some((Ok(batch), Some((lines, ready))));
                }
                let line = lines.next().await;
                if line["result"]["canceled"] == true {
                    let oldest = number(&line["result"]["compact_revision"]);
                    return Some((Err(StoreError::Compacted { oldest }), None));
                }
                ready = batches(&line["result"]["events"]);
            }
        })))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask("kv/compaction", json!({ "revision": revision, "physical": true })).await.map(drop)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let answer = self.ask("lease/grant", json!({ "TTL": check_lease(ttl)? })).await?;
        Ok(Lease { id: LeaseId(signed(&answer["ID"])), ttl: Duration::from_secs(number(&answer["TTL"])) })
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let answer = self.ask("lease/keepalive", json!({ "ID": lease.0 })).await?;
        match number(&answer["result"]["TTL"]) {
            0 => Err(StoreError::LeaseNotFound { lease }),
            _ => Ok(()),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask("lease/revoke", json!({ "ID": lease.0 })).await.map(drop)
    }

    async fn tick(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.range(KeyRange::key("any"), None, None).await?.revision)
    }
}

/// The lines of an answer that does not end.
struct Lines {
    response: reqwest::Response,
    rest: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            self.rest.extend_from_slice(&self.response.chunk().await.unwrap().expect("etcd ended a watch"));
        }
    }
}

/// etcd sends several revisions together, but none in parts.
fn batches(events: &Value) -> VecDeque<WatchBatch> {
    let mut batches: VecDeque<WatchBatch> = VecDeque::new();
    for event in events.as_array().into_iter().flatten() {
        let kv = key_value(&event["kv"]);
        let revision = kv.mod_revision;
        let previous = event["prev_kv"].is_object().then(|| number(&event["prev_kv"]["mod_revision"]));
        let event = if event["type"] == "DELETE" {
            Event::Delete { key: kv.key, previous }
        } else {
            Event::Put { kv, previous }
        };
        match batches.back_mut() {
            Some(batch) if batch.revision == revision => batch.events.push(event),
            _ => batches.push_back(WatchBatch { revision, events: vec![event] }),
        }
    }
    batches
}

fn txn_json(txn: &Txn) -> Value {
    let compare = txn.compare.iter().map(|compare| {
        let result = match compare.op {
            CompareOp::Equal => "EQUAL",
            CompareOp::NotEqual => "NOT_EQUAL",
            CompareOp::Greater => "GREATER",
            CompareOp::Less => "LESS",
        };
        let key = encode(&compare.key);
        match &compare.target {
            CompareTarget::ModRevision(to) => {
                json!({ "key": key, "result": result, "target": "MOD", "mod_revision": to })
            }
            CompareTarget::CreateRevision(to) => {
                json!({ "key": key, "result": result, "target": "CREATE", "create_revision": to })
            }
            CompareTarget::Version(to) => json!({ "key": key, "result": result, "target": "VERSION", "version": to }),
            CompareTarget::Value(to) => json!({ "key": key, "result": result, "target": "VALUE", "value": encode(to) }),
        }
    });
    let compare: Vec<Value> = compare.collect();
    let branch = |ops: &[Op]| -> Vec<Value> {
        let op = |op: &Op| match op {
            Op::Put { key, value, lease } => {
                let lease = lease.map_or(0, |lease| lease.0);
                json!({ "request_put": { "key": encode(key), "value": encode(value), "lease": lease } })
            }
            Op::Delete { range } => json!({ "request_delete_range": range_json(range) }),
            Op::Get { range, limit } => {
                let mut get = range_json(range);
                get["limit"] = json!(limit.unwrap_or(0));
                json!({ "request_range": get })
            }
        };
        ops.iter().map(op).collect()
    };
    json!({ "compare": compare, "success": branch(&txn.then), "failure": branch(&txn.or_else) })
}

/// In etcd a zero byte stands for the first key, and as an end for none.
fn range_json(range: &KeyRange) -> Value {
    if let KeyRange::Key(key) = range {
        return json!({ "key": encode(key) });
    }
    let (from, to) = range.bounds();
    let from = if from.is_empty() { Bytes::from_static(b"\0") } else { from };
    json!({ "key": encode(&from), "range_end": encode(&to.unwrap_or(Bytes::from_static(b"\0"))) })
}

fn range_result(answer: &Value, revision: Revision) -> RangeResult {
    let kvs = answer["kvs"].as_array().into_iter().flatten().map(key_value).collect();
    RangeResult { kvs, more: answer["more"].as_bool().unwrap_or(false), revision }
}

fn key_value(kv: &Value) -> KeyValue {
    let lease = signed(&kv["lease"]);
    KeyValue {
        key: decode(&kv["key"]),
        value: decode(&kv["value"]),
        create_revision: number(&kv["create_revision"]),
        mod_revision: number(&kv["mod_revision"]),
        version: number(&kv["version"]),
        lease: (lease != 0).then_some(LeaseId(lease)),
    }
}

fn named_lease(body: &Value) -> Option<i64> {
    let puts = ["success", "failure"].into_iter().flat_map(|branch| body[branch].as_array().into_iter().flatten());
    let put = puts.filter_map(|op| op["request_put"]["lease"].as_i64()).find(|lease| *lease != 0);
    body["ID"].as_i64().or(put)
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A field that is missing has its type's zero.
fn decode(value: &Value) -> Bytes {
    value.as_str().map_or_else(Bytes::new, |text| STANDARD.decode(text).unwrap().into())
}

fn number(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

fn signed(value: &Value) -> i64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}
