//! The names and help texts that dashboards rely on, and that what is counted is what is shown.

use super::*;
use crate::evidence::archive::Past;
use crate::evidence::journal::SyncLatency;

fn seen() -> Seen {
    Seen {
        running: 3,
        inspection_bytes: 4096,
        authority: Authority::Age(Duration::from_millis(1500)),
        grants: 10,
        token_hits_and_misses: (7, 2),
        revoked_tokens: 1,
        remote: Some(RemoteStatus {
            kept: 38,
            records: 3,
            age: Duration::from_millis(30),
            attached: true,
            refuses: None,
            error: None,
            failures: 2,
        }),
        archive: Some(LagStatus {
            archived: 90,
            records: 10,
            age: Duration::from_millis(2500),
            past: true,
            then: Past::Refuse,
            error: None,
            failures: 3,
            files: 4,
            pruned: 0,
        }),
        evidence: Some(JournalStatus {
            durable: 41,
            next: 42,
            queued_bytes: 5,
            open_intents: 3,
            broken: None,
            last_error: None,
            errors: 0,
            written_bytes: 4096,
            batches: 1,
            outcomes_lost: 0,
            sync: SyncLatency { buckets: [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3], ..SyncLatency::default() },
        }),
    }
}

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.render(&seen())).unwrap()
}

#[test]
fn names_and_help_are_as_in_the_golden_file() {
    let text = text(&Metrics::new(2));
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("# ")).collect();
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(lines, golden, "update src/gateway/metrics/golden.txt when the change is meant:\n{}", lines.join("\n"));
}

#[test]
fn workers_are_added_up() {
    let metrics = Metrics::new(2);
    for worker in 0..2 {
        let worker = metrics.worker(worker);
        worker.allowed();
        worker.denied(Reason::GrantMissing);
        worker.cut(Reason::GrantRevoked);
        worker.connection_opened();
        worker.connection_opened();
        worker.connection_closed();
        worker.call_took(Duration::from_millis(2));
        worker.call_took(Duration::from_secs(100));
        worker.decision_took(Duration::from_nanos(1_001));
    }
    let text = text(&metrics);
    for line in [
        r#"portcullis_calls_total{decision="allow",reason="granted"} 2"#,
        r#"portcullis_calls_total{decision="deny",reason="grant_missing"} 2"#,
        r#"portcullis_cuts_total{reason="grant_revoked"} 2"#,
        "portcullis_connections_open 2",
        r#"portcullis_call_seconds_bucket{le="0.001"} 0"#,
        r#"portcullis_call_seconds_bucket{le="0.0025"} 2"#,
        r#"portcullis_call_seconds_bucket{le="60"} 2"#,
        r#"portcullis_call_seconds_bucket{le="+Inf"} 4"#,
        "portcullis_call_seconds_sum 200.004",
        r#"portcullis_decision_seconds_bucket{le="0.000001"} 0"#,
        r#"portcullis_decision_seconds_bucket{le="0.000002"} 2"#,
        "portcullis_authority_age_seconds 1.5",
        r#"portcullis_evidence_fsync_seconds_bucket{le="0.00025"} 3"#,
        "portcullis_evidence_fsync_seconds_count 6",
        "portcullis_archive_lag_seconds 2.5",
        "portcullis_archive_past_max_lag 1",
        "portcullis_evidence_remote_lag_records 3",
        "portcullis_evidence_remote_lag_seconds 0.03",
        "portcullis_evidence_remote_failures_total 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn every_reason_is_a_label_value() {
    let text = text(&Metrics::new(1));
    for reason in Reason::ALL {
        assert!(text.contains(&format!(r#"decision="deny",reason="{reason}"}} 0"#)), "{reason}");
    }
}
