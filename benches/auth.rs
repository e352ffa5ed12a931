//! What it costs to know who it is: a token that was seen before, one that was not, an API key, a condition.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use filters::Policy;
use filters::auth::jwt::Jwt;
use filters::auth::keys::{self, Keys};
use filters::auth::{Source, Sources};
use filters::cx::Cx;
use filters::filter::{BuildCx, BuildError};
use filters::head::RequestHead;
use filters::keep::Keep;
use filters::pipeline::{Pipeline, Run};
use serde_spanned::Spanned;
use std::hint::black_box;
use std::sync::Arc;

const NOW: u64 = 1_704_067_200_000;

fn token(name: &str) -> &'static str {
    let all = include_str!("../filters/src/auth/data/tokens.txt");
    all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).expect("a token")
}

fn read(file: &Spanned<String>, _: u64) -> Result<Vec<u8>, BuildError> {
    Ok(match file.get_ref().as_str() {
        "partners" => keys::line("acme", "gold-key").into_bytes(),
        _ => include_bytes!("../filters/src/auth/data/jwks.json").to_vec(),
    })
}

fn jwt(keep: &Keep) -> Jwt {
    let conf = "jwks = 'jwks'\naudience = 'api'\nissuer = 'https://idp.example.com/'\nclaims = { X-User = 'sub' }";
    Jwt::build("idp", &toml::from_str(conf).expect("a constant"), &read, keep).unwrap_or_else(|why| panic!("{why:?}"))
}

fn pipeline(policy: &str) -> Pipeline {
    let keep = Keep::default();
    let mut sources = Sources::default();
    sources.add("idp", Some(Source::Jwt(Arc::new(jwt(&keep)))));
    let partners = Keys::build("partners", &toml::from_str("file = 'partners'").expect("a constant"), &read);
    sources.add("partners", partners.ok().map(|keys| Source::Keys(Arc::new(keys))));
    let policy: Policy = toml::from_str(policy).expect("a constant");
    let cx = BuildCx { keep: &keep, origin: &|_| "bench".into(), route: "bench", captures: &[], sources: &sources };
    let mut faults = vec![];
    let pipeline = Pipeline::build(&policy, &cx, &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    pipeline
}

fn head(headers: &[(&'static str, String)]) -> RequestHead {
    let mut head = RequestHead::build("GET", b"/v1/users/7", None).expect("a constant");
    for (name, value) in headers {
        head.append_header(*name, value).expect("a constant");
    }
    head
}

fn steps(c: &mut Criterion) {
    let bearer = head(&[("authorization", format!("Bearer {}", token("ES256")))]);
    let key = head(&[("x-api-key", "gold-key".into())]);
    let scope = "auth = 'idp'\nallow = [\"jwt.scope has 'orders:read'\"]";
    for (name, policy, head) in [
        ("token/known", "auth = 'idp'", &bearer),
        ("token/known, allow", scope, &bearer),
        ("key", "auth = 'partners'", &key),
    ] {
        let pipeline = pipeline(policy);
        c.bench_function(name, |b| {
            let fresh = || (head.clone(), Cx::new(0, NOW, [10, 0, 0, 1].into()), Run::default());
            b.iter_batched_ref(
                fresh,
                |(head, cx, run)| assert!(black_box(pipeline.request(run, head, cx)).is_continue()),
                BatchSize::SmallInput,
            );
        });
    }
}

fn verify(c: &mut Criterion) {
    let jwt = jwt(&Keep::default());
    for name in ["ES256", "EdDSA", "RS256", "PS256"] {
        c.bench_function(&format!("token/new {name}"), |b| {
            b.iter(|| assert!(jwt.verify(black_box(token(name)), NOW).is_ok()));
        });
    }
}

criterion_group!(benches, steps, verify);
criterion_main!(benches);
