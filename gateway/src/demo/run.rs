//! `portcullis demo`: starts the example services, writes the configuration out, shows both and serves.

use super::{Ports, config, services, tour_text};
use std::path::PathBuf;
use std::process::ExitCode;

/// Serves until interrupted; `port` is the gateway's, or a free one if it is taken.
pub fn run(port: u16) -> ExitCode {
    match start(port) {
        // The services live on a runtime of their own, as they would in another process.
        Ok((file, _services)) => crate::run::run(&file),
        Err(e) => {
            eprintln!("the demonstration could not start: {e}");
            ExitCode::FAILURE
        }
    }
}

fn start(port: u16) -> std::io::Result<(PathBuf, (tokio::runtime::Runtime, super::Services))> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let services = runtime.block_on(services())?;
    let ports = Ports::near(port)?;
    let text = config(&services, ports);
    let folder = std::env::temp_dir().join(format!("portcullis-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("portcullis.toml");
    std::fs::write(&file, &text)?;
    println!("{text}");
    println!("# This configuration is {}: edit it, then run: kill -HUP {}", file.display(), std::process::id());
    println!("\n# Try these in another terminal:\n\n{}", tour_text(ports));
    Ok((file, (runtime, services)))
}
