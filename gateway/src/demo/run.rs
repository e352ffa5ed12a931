//! `portcullis demo`: starts the example services, writes the configuration out, shows both and serves.

use super::{Ports, Services, config, services, tour_text};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io, process};
use tokio::runtime::Runtime;

/// Serves until interrupted; `port` is the gateway's, or a free one if it is taken.
pub fn run(port: u16) -> ExitCode {
    match Demo::start(port) {
        Ok(demo) => crate::run::run(&demo.dir.join(FILE)),
        Err(e) => {
            eprintln!("the demonstration could not start: {e}");
            ExitCode::FAILURE
        }
    }
}

const FILE: &str = "portcullis.toml";

/// The services and the file; both are gone when this is dropped.
struct Demo {
    dir: PathBuf,
    _services: Services,
    /// The services live on a runtime of their own, as they would in another process.
    _runtime: Runtime,
}

impl Demo {
    fn start(port: u16) -> io::Result<Demo> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("demo").enable_all().build()?;
        let services = runtime.block_on(services())?;
        let ports = Ports::near(port)?;
        let text = config(&services, ports);
        let dir = std::env::temp_dir().join(format!("portcullis-demo-{}", process::id()));
        // Fails if it is there already: in a shared directory nobody else's file is ever taken for ours.
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let demo = Demo { dir, _services: services, _runtime: runtime };
        let file = demo.dir.join(FILE);
        fs::write(&file, &text)?;
        println!("{text}");
        println!("# This configuration is {}: edit it, then run: kill -HUP {}", file.display(), process::id());
        println!("\n# Try these in another terminal:\n\n{}", tour_text(ports));
        Ok(demo)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
