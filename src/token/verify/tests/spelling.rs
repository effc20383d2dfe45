//! A token has one spelling, and what stands in it one reading.

use super::*;

#[test]
fn tokens_have_one_spelling() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let good = issuer.good();
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let last = |text: &str, c: char| format!("{}{c}", &text[..text.len() - 1]);
    // 64 bytes leave four unused bits in the last character.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(&signature[signature.len() - 1..]).unwrap();
    let trailing = last(signature, char::from(alphabet.as_bytes()[place | 1]));
    let padded = |text: &str| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(text).unwrap());
    let json_form = json!({"payload": payload, "protected": header, "signature": signature}).to_string();
    let general =
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string();
    let mut spellings = vec![
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}.{payload}.{trailing}"),
        format!("{header}.{payload}.{}", padded(signature)),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}=="),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        good.replace('.', " ."),
        format!("{}.{payload}.{signature}", padded(header)),
        format!("{header}.{payload}.é"),
        format!("{header}.{payload}.{}\0", signature),
        json_form,
        general,
        good.clone() + &"A".repeat(MAX_TOKEN_BYTES),
    ];
    let standard = STANDARD_NO_PAD.encode(URL_SAFE_NO_PAD.decode(signature).unwrap());
    if standard != signature {
        spellings.push(format!("{header}.{payload}.{standard}"));
    }
    for spelling in spellings {
        let error = issuer.verify(&spelling).unwrap_err();
        assert_eq!(error.reason().code(), "credential_malformed", "{spelling:?}");
    }
    for short in [&signature[..84], &signature[..43], "AAAA", &format!("{signature}A")] {
        assert!(issuer.verify(&format!("{header}.{payload}.{short}")).is_err());
    }
    // DER in place of the fixed form, and the all-zero signature (CVE-2022-21449).
    for bytes in [vec![0u8; 64], [&[0x30, 0x44, 2, 32], &[1; 32][..], &[2, 32], &[1; 32]].concat()] {
        refused(issuer.verify(&format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(bytes))), TokenError::Signature);
    }
}

#[test]
fn header_and_claims_have_one_reading() {
    let issuer = Issuer::new(KeyAlgorithm::Es256);
    let (header, claims) = (issuer.header().to_string(), claims().to_string());
    let more = |object: &str, members: &str| format!("{},{members}}}", &object[..object.len() - 1]);
    let headers = [
        more(&header, r#""alg":"ES256""#),
        more(&header, r#""\u0061lg":"ES256""#),
        more(&header, r#""x":{"a":1,"a":2}"#),
        "[]".into(),
        "\"x\"".into(),
        format!("{header}{header}"),
        format!("\u{feff}{header}"),
        "{}x".into(),
        more(&header, r#""x":"\ud800""#),
        format!("{}1{}", "[".repeat(99), "]".repeat(99)),
    ];
    for bad in headers {
        let error = issuer.verify(&issuer.key.any_token(&bad, &claims)).unwrap_err();
        assert!(matches!(error, TokenError::Malformed(_)), "{bad}: {error}");
    }
    let bodies = [
        more(&claims, r#""sub":"admin""#),
        more(&claims, r#""s\u0075b":"admin""#),
        more(&claims, r#""x":[{"a":1,"a":2}]"#),
        more(&claims, r#""x":1e400"#),
        format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40)),
        "null".into(),
        String::from("{"),
        format!("{claims}\0"),
    ];
    for bad in bodies {
        let error = issuer.verify(&issuer.key.any_token(&header, &bad)).unwrap_err();
        assert!(matches!(error, TokenError::Malformed(_)), "{bad}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,300}", dots in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,90}") {
        let issuer = Issuer::new(KeyAlgorithm::Ed25519);
        prop_assert!(issuer.verify(&text).is_err());
        prop_assert!(issuer.verify(&dots).is_err());
    }

    #[test]
    fn no_single_changed_byte_verifies(place in any::<prop::sample::Index>(), byte in 33u8..127) {
        let issuer = Issuer::new(KeyAlgorithm::Ed25519);
        let mut bytes = issuer.good().into_bytes();
        let place = place.index(bytes.len());
        prop_assume!(bytes[place] != byte);
        bytes[place] = byte;
        prop_assert!(issuer.verify(std::str::from_utf8(&bytes).unwrap()).is_err());
    }
}
