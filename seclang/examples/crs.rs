//! Runs the regression suite of the Core Rule Set: `crs DIR [DIR/tests]`, where DIR holds `rules/` and the setup file.
//! Prints passed of total per paranoia level, and every test that fails with the reason.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use seclang::{Settings, conformance};

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<usize, String> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let plain = args.iter().position(|a| a == "--plain").map(|i| args.remove(i)).is_some();
    let folder = PathBuf::from(args.first().ok_or("usage: crs [--plain] DIR [TESTS]")?);
    let tests = args.get(1).map_or_else(|| folder.join("tests"), PathBuf::from);
    let start = Instant::now();
    let program = conformance::program(&folder).map_err(|e| e.to_string())?;
    println!("{} rules in {:.0?}", program.rules.len(), start.elapsed());
    for warning in &program.warnings {
        println!("warning: {warning}");
    }
    let tests = conformance::load(&tests)?;
    let settings = Settings { mode: Some(conformance::MODE), plain, ..Settings::default() };
    let start = Instant::now();
    let outcomes = conformance::run(Arc::new(program), &tests, &settings);
    for outcome in &outcomes {
        if let Some(reason) = &outcome.failure {
            println!("FAIL {} (PL{}): {reason}", outcome.name, outcome.paranoia);
        }
    }
    let mut all = conformance::Tally::default();
    for (paranoia, tally) in conformance::tally(&outcomes) {
        let name = if paranoia == 0 { "other".to_owned() } else { format!("PL{paranoia}") };
        println!("{name:>5}: {:>5} of {:>5}", tally.passed, tally.total);
        all.passed += tally.passed;
        all.total += tally.total;
    }
    println!("{:>5}: {:>5} of {:>5}  in {:.1?}", "all", all.passed, all.total, start.elapsed());
    Ok(all.total - all.passed)
}
