//! Who may do what, as a table.

use super::*;

fn person(roles: &[PersonRole]) -> Caller {
    Caller::Person(Arc::new(Person {
        name: "bob".parse().unwrap(),
        roles: roles.to_vec(),
        speaks_for: vec!["orders".parse().unwrap()],
        token: Digest::of("t"),
        signed_in: None,
    }))
}

/// Written out apart from the code: + everything, o what one owns, - nothing.
const TABLE: &str = "
    apply                + - - - - - - -
    read_catalog         + + + + - - - -
    quarantine           + + - - - - - -
    release_or_offboard  + - - - - - - -
    create_grant         + - - - - - - -
    read_grants          + + + + - - - -
    revoke_grant         + + o o - - - -
    watch_grants         + + + + - - - -
    can_i                + + + + - - - -
    evaluate             + + + + - - - +
    revoke_token         + + - - + - - -
    who_am_i             + + + + + - + +
    attach               - - - - + - - -
    read_fleet           + + + + - - - -
    expel_gateway        + + - - - - - -
    readmit_gateway      + - - - - - - -
    halt                 + + o o - - - -
    resume               + - - - - - - -
    drill                + + - - - - - -
    invite_gateway       + - - - - - - -
    scope_gateway        + - - - - - - -
    rotate_authority     + - - - - - - -
    certify              - - - - + + - -
    create_request       + + + + - - + +
    read_requests        + + + + - - + +
    decide_request       + + + + - - - -
    cancel_request       + + + + - - + +
    delegate             + + + + - - - -
    read_changes         + + + + - - - -
    decide_change        + + + + - - - -
    renew_exception      + o o o - - - -
    break_glass          + + + + - - - -
    read_break_glass     + + + + - - - -
    close_break_glass    + + + + - - - -
    review_break_glass   + + + + - - - -
    read_policy          + + + + - - - -
    publish_policy       + - - - - - - -
    query_evidence       + + - - - - - -
    serve_evidence       - - - - + - - -
    describe             + + + + - - + +
";

#[test]
fn every_operation_and_role_stands_as_the_table_says() {
    let callers = [
        person(&[PersonRole::Administrator]),
        person(&[PersonRole::Security]),
        person(&[PersonRole::Owner]),
        person(&[PersonRole::Developer]),
        Caller::Gateway("edge".parse().unwrap()),
        Caller::Joining("edge".parse().unwrap(), Digest::of("t")),
        Caller::Identity("billing".parse().unwrap()),
    ];
    let rows: Vec<Vec<&str>> =
        TABLE.lines().map(|l| l.split_whitespace().collect()).filter(|r: &Vec<_>| !r.is_empty()).collect();
    assert_eq!(rows.len(), Operation::ALL.len());
    for (operation, row) in Operation::ALL.into_iter().zip(rows) {
        assert_eq!(operation.as_str(), row[0]);
        for (caller, cell) in callers.iter().zip(&row[1..]) {
            let ours = "orders".parse().unwrap();
            let other = "billing".parse().unwrap();
            let found = [None, Some(&ours), Some(&other)].map(|o| authorize(caller, operation, o).is_ok());
            let expected = match *cell {
                "+" => [true, true, true],
                "o" => [false, true, false],
                _ => [false, false, false],
            };
            assert_eq!(found, expected, "{} for {caller}", operation.as_str());
        }
        assert_eq!(may_enforcement_point(operation), row[8] == "+", "{}", operation.as_str());
    }
}

#[test]
fn a_person_without_roles_may_nothing_and_the_best_role_counts() {
    for operation in Operation::ALL {
        assert!(authorize(&person(&[]), operation, None).is_err(), "{}", operation.as_str());
    }
    let both = person(&[PersonRole::Developer, PersonRole::Security]);
    assert!(authorize(&both, Operation::RevokeGrant, None).is_ok());
}

#[test]
fn a_denial_says_what_is_needed() {
    let denied = authorize(&person(&[PersonRole::Developer]), Operation::RevokeGrant, None).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "bob may not revoke_grant: it takes administrator or security or the owner of the resource or of the identity"
    );
}
