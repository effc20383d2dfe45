//! Every reason of the closed list is reached by a test; where no black-box test can, by the unit test that is named.

use std::collections::BTreeMap;
use std::path::Path;

use portcullis::domain::Reason;

/// Which test reaches a reason: `file: function`, from the top of the package.
const REACHED: &[(Reason, &str, &str)] = &[
    (Reason::RequestMalformed, "tests/it/call.rs", "what_can_be_read_in_two_ways_is_refused"),
    (Reason::RequestTimeout, "tests/it/call.rs", "a_slow_head_is_not_waited_for"),
    (Reason::HeadTooLarge, "tests/it/operate.rs", "limits_that_are_named_hold"),
    (
        Reason::BodyTooLarge,
        "tests/it/edge/inspected.rs",
        "a_body_that_cannot_be_had_whole_is_refused_and_nothing_goes_upstream",
    ),
    (
        Reason::BodyUnreadable,
        "tests/it/edge/inspected.rs",
        "a_body_that_cannot_be_had_whole_is_refused_and_nothing_goes_upstream",
    ),
    (
        Reason::BodyIncomplete,
        "tests/it/edge/inspected.rs",
        "a_body_that_cannot_be_had_whole_is_refused_and_nothing_goes_upstream",
    ),
    (Reason::InspectionFull, "tests/it/edge/inspected.rs", "bodies_have_their_time_and_their_memory"),
    (Reason::MethodNotAllowed, "tests/it/call.rs", "a_grant_opens_its_actions_its_resource_and_nothing_beside"),
    (Reason::Misdirected, "tests/it/tls.rs", "a_request_is_for_the_name_that_its_handshake_said"),
    // A hundred thousand tokens would have to be revoked.
    (Reason::Overloaded, "src/gateway/oauth/tests.rs", "a_revocation_that_has_no_room_is_refused"),
    (Reason::Draining, "tests/it/operate.rs", "what_still_runs_at_the_end_of_the_drain_is_cut_and_recorded_so"),
    (Reason::CredentialMissing, "tests/it/call.rs", "nobody_is_challenged_without_a_hint_about_others"),
    (Reason::CredentialMalformed, "tests/it/call.rs", "nobody_is_challenged_without_a_hint_about_others"),
    (Reason::IssuerUnknown, "tests/it/token.rs", "tokens_that_do_not_hold_are_refused_with_the_reason"),
    (Reason::IssuerUnavailable, "tests/it/token.rs", "an_issuer_without_keys_is_unavailable_and_lets_nobody_in"),
    (Reason::TokenInvalid, "tests/it/token.rs", "tokens_that_do_not_hold_are_refused_with_the_reason"),
    (Reason::TokenAudience, "tests/it/token.rs", "tokens_that_do_not_hold_are_refused_with_the_reason"),
    (Reason::CredentialExpired, "tests/it/token.rs", "tokens_that_do_not_hold_are_refused_with_the_reason"),
    (Reason::CredentialUntrusted, "tests/it/tls.rs", "trust_that_is_withdrawn_ends_calls_and_connections"),
    (Reason::TokenRevoked, "tests/it/token.rs", "a_revoked_token_is_dead_at_once_with_its_streams"),
    (
        Reason::CredentialHalted,
        "tests/it/halted.rs",
        "what_an_issuer_or_one_of_its_keys_vouched_for_is_cut_and_refused_also_after_an_exchange",
    ),
    (Reason::TokenBinding, "tests/it/token.rs", "a_client_certificate_gets_a_token_bound_to_it"),
    (Reason::IdentityUnknown, "tests/it/identify.rs", "only_a_workloads_certificate_of_the_trust_domain_is_anybody"),
    (Reason::IdentityInactive, "tests/it/cut.rs", "quarantine_cuts_every_stream_of_the_identity_and_nobody_elses"),
    (Reason::RouteUnknown, "tests/it/call.rs", "a_grant_opens_its_actions_its_resource_and_nothing_beside"),
    (Reason::ProtocolMismatch, "tests/it/grpc.rs", "a_route_carries_its_protocol_and_no_other"),
    (Reason::GrantMissing, "tests/it/call.rs", "a_denied_call_says_why_under_which_id_and_what_to_ask_for"),
    (Reason::ActionNotGranted, "tests/it/call.rs", "a_grant_opens_its_actions_its_resource_and_nothing_beside"),
    (Reason::ParameterNotGranted, "tests/it/grants.rs", "a_grant_is_limited_to_its_parameters"),
    (Reason::NetworkNotGranted, "tests/it/grants.rs", "a_grant_is_limited_to_its_networks"),
    (Reason::BindingNotGranted, "tests/it/grants.rs", "a_grant_is_bound_to_its_credential"),
    (Reason::GrantNotYetValid, "tests/it/grants.rs", "a_grant_begins_and_ends_by_itself"),
    (Reason::GrantExpired, "tests/it/cut.rs", "an_event_stream_ends_with_its_grants_time"),
    (
        Reason::GrantRevoked,
        "tests/it/cut.rs",
        "a_revoked_grant_cuts_an_idle_stream_and_the_receipt_says_where_the_proof_is",
    ),
    (Reason::UsesSpent, "tests/it/uses.rs", "a_single_use_works_once_over_all_gateways"),
    (Reason::UsesSpentForNow, "tests/it/uses.rs", "uses_are_counted_in_spans_of_time"),
    (Reason::UsesUnavailable, "tests/it/uses.rs", "without_the_control_plane_no_use_is_spent_beyond_what_was_given"),
    (Reason::ExceptionEnded, "tests/it/grants.rs", "observing_lets_through_without_a_credential_says_so_and_ends"),
    (Reason::Halted, "tests/it/fleet.rs", "the_red_button_stops_everything_and_lets_it_go_on"),
    (Reason::AuthorityMissing, "tests/it/operate.rs", "without_a_control_plane_a_new_gateway_allows_nothing"),
    (
        Reason::AuthorityStale,
        "tests/it/operate.rs",
        "a_control_plane_that_stands_still_stops_sensitive_calls_in_time_and_they_recover",
    ),
    (Reason::EvidenceUnavailable, "tests/it/operate.rs", "a_log_that_is_taken_away_stops_the_gate"),
    // A full disk needs a file system of its own, and rights that a test has not.
    (
        Reason::EvidenceFull,
        "src/evidence/journal/tests.rs",
        "a_full_disk_refuses_with_full_keeps_room_for_outcomes_and_recovers",
    ),
    (
        Reason::ArchiveBehind,
        "tests/it/archive.rs",
        "a_bucket_gets_all_through_an_outage_and_a_kill_and_a_stranger_verifies_it",
    ),
    (Reason::TokenRequestInvalid, "tests/it/token.rs", "a_token_request_that_is_not_one_is_refused_by_its_name"),
    (Reason::SubjectTokenInvalid, "tests/it/token.rs", "a_token_request_that_is_not_one_is_refused_by_its_name"),
    (Reason::TokenTargetInvalid, "tests/it/token.rs", "an_exchange_never_broadens_or_prolongs"),
    (Reason::TokenScopeInvalid, "tests/it/token.rs", "an_exchange_never_broadens_or_prolongs"),
    (Reason::TokenGrantTypeUnsupported, "tests/it/token.rs", "a_token_request_that_is_not_one_is_refused_by_its_name"),
    (Reason::UpstreamUnreachable, "tests/it/call.rs", "an_upstream_that_fails_is_said_to_have_failed"),
    (Reason::UpstreamAddressRefused, "tests/it/upstream.rs", "metadata_and_link_local_addresses_are_not_connected_to"),
    (Reason::UpstreamTimeout, "tests/it/operate.rs", "an_upstream_that_never_answers_is_not_waited_for"),
    (Reason::UpstreamFault, "tests/it/call.rs", "an_upstream_that_fails_is_said_to_have_failed"),
    // Nothing outside makes the gate panic, as far as is known.
    (Reason::InternalFault, "src/gateway/http/hooks.rs", "a_panic_in_a_hook_is_a_refusal"),
];

#[test]
fn every_reason_is_reached_by_a_test() {
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for reason in Reason::ALL {
        let (_, file, test) = REACHED
            .iter()
            .find(|(reached, ..)| reached == reason)
            .unwrap_or_else(|| panic!("no test reaches {reason}"));
        let source = sources
            .entry(file)
            .or_insert_with(|| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap());
        let start = source.find(&format!("fn {test}(")).unwrap_or_else(|| panic!("{file} has no test {test}"));
        // The test's own body speaks of the reason: by its code, or by its variant.
        let body = source[start..].split("\n}\n").next().unwrap();
        let (code, variant) = (reason.code(), format!("Reason::{}", camel(reason.code())));
        let helped = file.ends_with("operate.rs") && source.contains(code);
        assert!(body.contains(code) || body.contains(&variant) || helped, "{test} does not speak of {reason}");
    }
    assert_eq!(REACHED.len(), Reason::ALL.len(), "a reason stands here twice");
}

fn camel(code: &str) -> String {
    code.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}
