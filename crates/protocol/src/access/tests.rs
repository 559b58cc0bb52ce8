use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

// Keys made for these tests; they open nothing.
const SECRET: &str = "secret-secret-secret-secret-secret";
const NEW_SECRET: &str = "new-secret-new-secret-new-secret-n";
const RSA: (&str, &str) = (include_str!("keys/rsa.pem"), include_str!("keys/rsa.pub.pem"));
const EC: (&str, &str) = (include_str!("keys/ec.pem"), include_str!("keys/ec.pub.pem"));
const ED: (&str, &str) = (include_str!("keys/ed.pem"), include_str!("keys/ed.pub.pem"));
const NOW: i64 = 1_000_000;
const NOW_SECS: UnixSecs = UnixSecs(NOW);

fn claims() -> Value {
    json!({"sub":"u","sessionId":"s","exp":NOW + 60})
}

fn sign(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    sign(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn authorize(token: &str) -> Result<Grant, Denied> {
    TokenKeys::from_secret(SECRET).unwrap().authorize(token, Some("s"), &ClaimRules::default(), NOW_SECS)
}

fn with(change: &Value) -> Value {
    let mut all = claims();
    for (key, value) in change.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(key);
        } else {
            all[key] = value.clone();
        }
    }
    all
}

#[test]
fn a_valid_token_grants_its_user_and_session() {
    let grant = authorize(&hs256(&with(&json!({"readOnly":true,"username":"Ann"})))).unwrap();
    assert_eq!(
        grant,
        Grant {
            session_id: "s".into(),
            user_id: "u".into(),
            username: Some("Ann".into()),
            read_only: true,
            names_session: true,
            expires_at: UnixSecs(NOW + 60),
            token_id: None,
        }
    );
    assert_eq!(authorize(&hs256(&with(&json!({"sub":null,"userId":"v"})))).unwrap().user_id, "v".into());
    let minted = authorize(&hs256(&with(&json!({"shellbridgeId":"g.t"})))).unwrap();
    assert_eq!(minted.token_id.as_deref(), Some("g.t"));
}

#[test]
fn every_claim_is_checked() {
    for (change, denied) in [
        (json!({"exp":null}), Denied::Malformed),
        (json!({"exp":"soon"}), Denied::Malformed),
        (json!({"exp":NOW - 31}), Denied::Expired),
        (json!({"nbf":NOW + 31}), Denied::Early),
        (json!({"sub":null}), Denied::Malformed),
        (json!({"sub":""}), Denied::Malformed),
        (json!({"sub":7}), Denied::Malformed),
        (json!({"sessionId":"other"}), Denied::OtherSession),
        (json!({"readOnly":"yes"}), Denied::Malformed),
        (json!({"shellbridgeId":7}), Denied::Malformed),
    ] {
        assert_eq!(authorize(&hs256(&with(&change))), Err(denied), "{change}");
    }
    for change in
        [json!({"exp":NOW - 30}), json!({"nbf":NOW + 30}), json!({"exp":1e18}), json!({"sessionId":null})]
    {
        assert!(authorize(&hs256(&with(&change))).is_ok(), "{change}");
    }
}

#[test]
fn regression_every_check_of_expiry_allows_the_leeway() {
    let exp = UnixSecs(NOW - TOKEN_LEEWAY);
    assert!(authorize(&hs256(&with(&json!({"exp":exp})))).is_ok());
    assert!(NOW_SECS.ms() < valid_until(exp), "what the door lets in is good for the rest of the second");
    assert_eq!(valid_until(exp), UnixSecs(NOW + 1).ms());
    assert_eq!(valid_until(UnixSecs(i64::MAX)), UnixMs::MAX);
}

#[test]
fn each_denial_has_a_code_that_names_its_cause() {
    for (denied, code) in [
        (Denied::Missing, ErrorCode::MissingAuth),
        (Denied::Malformed, ErrorCode::Unauthorized),
        (Denied::Signature, ErrorCode::Unauthorized),
        (Denied::Expired, ErrorCode::TokenExpired),
        (Denied::OtherSession, ErrorCode::Forbidden),
    ] {
        assert_eq!(denied.code(), code, "{denied:?}");
    }
}

#[test]
fn issuer_and_audience_count_when_configured() {
    let keys = TokenKeys::from_secret(SECRET).unwrap();
    let rules = ClaimRules { issuer: Some("i".into()), audience: Some("a".into()) };
    let check = |change: Value| keys.authorize(&hs256(&with(&change)), Some("s"), &rules, NOW_SECS).err();
    assert_eq!(check(json!({"iss":"i","aud":"a"})), None);
    assert_eq!(check(json!({"iss":"i","aud":["b","a"]})), None);
    for wrong in [
        json!({}),
        json!({"iss":"i"}),
        json!({"aud":"a"}),
        json!({"iss":"x","aud":"a"}),
        json!({"iss":"i","aud":[]}),
    ] {
        assert_eq!(check(wrong.clone()), Some(Denied::Elsewhere), "{wrong}");
    }
}

#[test]
fn the_session_may_be_named_by_request_or_token() {
    let keys = TokenKeys::from_secret(SECRET).unwrap();
    let ask =
        |token: &Value, session| keys.authorize(&hs256(token), session, &ClaimRules::default(), NOW_SECS);
    assert_eq!(ask(&claims(), None).unwrap().session_id, "s".into());
    let unbound = with(&json!({"sessionId":null}));
    assert!(!ask(&unbound, Some("t")).unwrap().names_session);
    assert_eq!(ask(&unbound, None), Err(Denied::NoSession));
    assert_eq!(ask(&unbound, Some("")), Err(Denied::NoSession));
    assert_eq!(ask(&unbound, Some(&"x".repeat(129))), Err(Denied::NoSession));
}

#[test]
fn a_view_only_token_opens_a_foreign_session_only_if_it_names_it() {
    assert!(may_open(&"u".into(), false, false, &"u".into()));
    assert!(may_open(&"viewer".into(), true, true, &"u".into()));
    assert!(!may_open(&"viewer".into(), true, false, &"u".into()));
    assert!(!may_open(&"viewer".into(), false, true, &"u".into()));
}

#[test]
fn unsigned_foreign_and_malformed_tokens_are_refused() {
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1Iiwic2Vzc2lvbklkIjoicyIsImV4cCI6OTk5OTk5OTk5OX0.";
    assert_eq!(authorize(none), Err(Denied::Malformed));
    let foreign = sign(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(b"other"));
    assert_eq!(authorize(&foreign), Err(Denied::Signature));
    let hs512 = sign(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert_eq!(authorize(&hs512), Err(Denied::Signature));
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["b64".into()]);
    let critical = sign(&critical, &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert_eq!(authorize(&critical), Err(Denied::Malformed));
    let good = hs256(&claims());
    assert_eq!(authorize(&good[..good.len() - 2]), Err(Denied::Signature));
    assert_eq!(authorize(&format!("{good}.x")), Err(Denied::Malformed));
    assert_eq!(authorize(""), Err(Denied::Missing));
    assert_eq!(authorize("a.b.c"), Err(Denied::Malformed));
    assert_eq!(authorize(&"x".repeat(MAX_TOKEN + 1)), Err(Denied::Malformed));
}

#[test]
fn each_public_key_verifies_its_own_algorithm_and_no_other() {
    let signers = [
        (Algorithm::RS256, EncodingKey::from_rsa_pem(RSA.0.as_bytes()).unwrap()),
        (Algorithm::ES256, EncodingKey::from_ec_pem(EC.0.as_bytes()).unwrap()),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(ED.0.as_bytes()).unwrap()),
    ];
    for (algorithm, public) in [(Algorithm::RS256, RSA.1), (Algorithm::ES256, EC.1), (Algorithm::EdDSA, ED.1)]
    {
        let keys = TokenKeys::from_pem(public).unwrap();
        for (signed_with, key) in &signers {
            let token = sign(&Header::new(*signed_with), &claims(), key);
            let verified = keys.authorize(&token, Some("s"), &ClaimRules::default(), NOW_SECS).is_ok();
            assert_eq!(verified, algorithm == *signed_with, "{signed_with:?} under {algorithm:?}");
        }
        // Algorithm confusion: the public key used as an HMAC secret.
        let confused =
            sign(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(public.as_bytes()));
        assert_eq!(
            keys.authorize(&confused, Some("s"), &ClaimRules::default(), NOW_SECS),
            Err(Denied::Signature)
        );
    }
}

/// Replacing `JWT_SECRET` used to end every session, because all tokens in use became invalid at once.
#[test]
fn regression_tokens_of_the_old_secret_open_sessions_during_rotation() {
    let rotating = TokenKeys::from_secret(&format!("{NEW_SECRET}, {SECRET}")).unwrap();
    let rotated = TokenKeys::from_secret(NEW_SECRET).unwrap();
    let new =
        sign(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(NEW_SECRET.as_bytes()));
    let check = |keys: &TokenKeys, token: &str| {
        keys.authorize(token, Some("s"), &ClaimRules::default(), NOW_SECS).err()
    };
    assert_eq!((check(&rotating, &hs256(&claims())), check(&rotating, &new)), (None, None));
    assert_eq!(check(&rotated, &hs256(&claims())), Some(Denied::Signature));
    let whole = EncodingKey::from_secret(format!("{NEW_SECRET}, {SECRET}").as_bytes());
    let whole = sign(&Header::new(Algorithm::HS256), &claims(), &whole);
    assert_eq!(check(&rotating, &whole), Some(Denied::Signature), "the two are no key together");
}

#[test]
fn one_line_pem_settings_are_read() {
    assert!(TokenKeys::from_pem(&ED.1.replace('\n', "\\n")).is_ok());
    assert!(matches!(TokenKeys::from_pem("x"), Err(KeyError::Pem)));
    assert!(matches!(TokenKeys::from_secret("short"), Err(KeyError::Secret(Unfit::Short))));
}

#[test]
fn a_key_set_verifies_by_kid_and_reports_an_unknown_one() {
    let mut jwk =
        Jwk::from_encoding_key(&EncodingKey::from_ed_pem(ED.0.as_bytes()).unwrap(), Algorithm::EdDSA)
            .unwrap();
    jwk.common.key_id = Some("k1".into());
    let symmetric = json!({"kty":"oct","k":"c2VjcmV0","kid":"k2"});
    let set = json!({"keys":[symmetric, jwk]}).to_string();
    let keys = TokenKeys::from_jwks(set.as_bytes()).unwrap();
    let key = EncodingKey::from_ed_pem(ED.0.as_bytes()).unwrap();
    let with_kid = |kid: Option<&str>| {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = kid.map(str::to_owned);
        keys.authorize(&sign(&header, &claims(), &key), Some("s"), &ClaimRules::default(), NOW_SECS).err()
    };
    assert_eq!(with_kid(Some("k1")), None);
    assert_eq!(with_kid(Some("k9")), Some(Denied::UnknownKey));
    assert_eq!(
        with_kid(Some("k2")),
        Some(Denied::UnknownKey),
        "a symmetric key in a public set is passed over"
    );
    assert!(matches!(TokenKeys::from_jwks(br#"{"keys":[]}"#), Err(KeyError::Jwks(_))));
    assert!(matches!(TokenKeys::from_jwks(b"<html>"), Err(KeyError::Jwks(_))));
}
