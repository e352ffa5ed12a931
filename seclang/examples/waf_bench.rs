//! Holds the fast plan to the plain interpreter, and measures it: `waf_bench [--paranoia N] DIR [TESTS]`.
//!
//! Measures thousands of distinct generated requests, request phases only, one thread, each request timed on its own, the
//! second pass over all of them. Numbers from one request in a loop are not worth printing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use seclang::conformance::{self, Request, corpus};
use seclang::{Engine, EngineMode, Program, Settings, Source, Transaction};

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(n) => {
            println!("{n} DIFFERENCES");
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<usize, String> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let only = args.iter().position(|a| a == "--paranoia").map(|i| args.drain(i..(i + 2).min(args.len())).next_back());
    let levels = match only.flatten() {
        Some(level) => vec![level.parse().map_err(|_| format!("paranoia {level:?}: expected 1 to 4"))?],
        None => vec![1, 2, 4],
    };
    let folder = PathBuf::from(args.first().ok_or("usage: waf_bench [--paranoia N] DIR [TESTS]")?);
    let start = Instant::now();
    let mut source = Source::new();
    conformance::read_directory(&mut source, &folder).map_err(|e| e.to_string())?;
    let program = Arc::new(Program::link(source).map_err(|e| e.to_string())?);
    println!("{} rules loaded in {:.0?}", program.rules.len(), start.elapsed());
    let mut differences = 0;
    if let Some(tests) = args.get(1) {
        let suite = conformance::requests(&conformance::load(&PathBuf::from(tests))?);
        differences += compare_all(&program, &suite);
    }
    for paranoia in levels {
        measure(&program, paranoia);
    }
    Ok(differences)
}

fn engine(program: &Arc<Program>, paranoia: u8, mode: EngineMode, plain: bool) -> Arc<Engine> {
    let settings = Settings { mode: Some(mode), response_body: Some(true), plain, ..Settings::default() };
    Arc::new(Engine::new(program.clone(), &settings.paranoia(paranoia, paranoia)))
}

fn compare_all(program: &Arc<Program>, suite: &[Request]) -> usize {
    let mut generated = Vec::new();
    let mut dice = corpus::Dice::new(7);
    for _ in 0..3000 {
        generated.push(corpus::hostile(&mut dice));
        generated.push(corpus::benign(&mut dice));
    }
    let mut total = 0;
    for (paranoia, mode) in [(4, EngineMode::DetectionOnly), (1, EngineMode::On), (2, EngineMode::DetectionOnly)] {
        let mut plain = Transaction::new(engine(program, paranoia, mode, true));
        let mut fast = Transaction::new(engine(program, paranoia, mode, false));
        let mut differences = 0;
        let mut matches = 0;
        for request in suite.iter().chain(&generated) {
            let expected = conformance::see(&mut plain, request);
            let found = conformance::see(&mut fast, request);
            matches += expected.matches.len();
            if expected != found {
                differences += 1;
                if differences <= 5 {
                    let ids = |s: &conformance::Seen| s.matches.iter().map(|m| m.0).collect::<Vec<_>>();
                    println!(
                        "{:?}\n  plain {:?} {:?}",
                        String::from_utf8_lossy(&request.target),
                        ids(&expected),
                        expected.scores
                    );
                    println!("  fast  {:?} {:?}", ids(&found), found.scores);
                }
            }
        }
        let n = suite.len() + generated.len();
        println!("PL{paranoia} {mode:?}: {n} requests, {matches} matches, {differences} differences");
        total += differences;
    }
    total
}

fn measure(program: &Arc<Program>, paranoia: u8) {
    let start = Instant::now();
    let engine = engine(program, paranoia, EngineMode::DetectionOnly, false);
    println!("PL{paranoia}: plan in {:.0?}, automata {} KiB", start.elapsed(), engine.plan_memory() >> 10);
    for line in engine.describe_plan() {
        println!("    {line}");
    }
    let mut dice = corpus::Dice::new(42);
    let benign: Vec<Request> = (0..4000).map(|_| corpus::benign(&mut dice)).collect();
    let hostile: Vec<Request> = (0..1000).map(|_| corpus::hostile(&mut dice)).collect();
    let small: Vec<Request> = benign.iter().filter(|r| r.headers.len() <= 4 && r.body.len() < 200).cloned().collect();
    for (name, list) in [("benign", &benign), ("small", &small), ("hostile", &hostile)] {
        let mut tx = Transaction::new(engine.clone());
        pass(&mut tx, list);
        let (mut times, scanned, found) = pass(&mut tx, list);
        times.sort_unstable();
        let mean = times.iter().sum::<u64>() / times.len() as u64;
        let at = |q: usize| times[(times.len() - 1) * q / 1000] as f64 / 1000.0;
        println!(
            "  {name:>8} {:>5} requests: mean {:>6.1} us  p50 {:>6.1}  p90 {:>6.1}  p99 {:>7.1}  max {:>8.1}   {:.1} values, {:.2} candidates",
            list.len(),
            mean as f64 / 1000.0,
            at(500),
            at(900),
            at(990),
            at(1000),
            scanned as f64 / list.len() as f64,
            found as f64 / list.len() as f64,
        );
        println!("           candidates per request: {}", busiest(&mut tx, list));
    }
}

/// The rules that are candidates most often.
fn busiest(tx: &mut Transaction, list: &[Request]) -> String {
    let mut count = std::collections::BTreeMap::new();
    for request in list {
        tx.reset();
        conformance::feed_request(tx, request);
        for (rule, n) in tx.candidates() {
            *count.entry(rule).or_insert(0usize) += n;
        }
    }
    let mut order: Vec<(u64, usize)> = count.into_iter().collect();
    order.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let per = |n: usize| n as f64 / list.len() as f64;
    order.iter().take(40).map(|(rule, n)| format!("{rule}:{:.2} ", per(*n))).collect()
}

fn pass(tx: &mut Transaction, list: &[Request]) -> (Vec<u64>, usize, usize) {
    let (mut scanned, mut found) = (0, 0);
    let times = list
        .iter()
        .map(|request| {
            let start = Instant::now();
            tx.reset();
            conformance::feed_request(tx, request);
            let time = start.elapsed().as_nanos() as u64;
            scanned += tx.scanned().0;
            found += tx.scanned().1;
            time
        })
        .collect();
    (times, scanned, found)
}
