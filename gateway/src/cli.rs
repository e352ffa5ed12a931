//! The command line: what may be typed, and what each command prints and returns.
//!
//! 0 is success, 1 a configuration or a request that is wrong, 2 a command line that is wrong.

use crate::conf::{self, Faults};
use crate::{demo, explain, run, table};
use clap::{CommandFactory, Parser, Subcommand};
use clap_mangen::Man;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the configuration is if nobody says otherwise.
const DEFAULT: &str = "/etc/portcullis/portcullis.toml";

/// An edge proxy and API gateway: one binary, one TOML file, reloaded hot.
#[derive(Parser)]
#[command(name = "portcullis", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve, until told to end. SIGHUP reloads, SIGUSR1 reopens the log, SIGTERM drains and ends.
    Run {
        /// The configuration.
        #[arg(short, long, value_name = "FILE", default_value = DEFAULT)]
        config: PathBuf,
    },
    /// Say everything that is wrong with a configuration; 0 if it would start.
    Check {
        /// The configurations, each on its own.
        #[arg(value_name = "FILE", default_value = DEFAULT)]
        files: Vec<PathBuf>,
        /// Only test the form of references to secrets: for machines that lack the credentials.
        #[arg(long)]
        without_secrets: bool,
    },
    /// Show a route's merged settings with the line that wrote each, or which route a request takes and why.
    Explain {
        /// The configuration.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The route whose settings are shown; all routes if neither this nor a request is given.
        #[arg(value_name = "ROUTE", conflicts_with = "request")]
        route: Option<String>,
        /// A request such as "GET https://api.example.com/v1/users/7".
        #[arg(long, value_name = "METHOD URL")]
        request: Option<String>,
        /// A header of that request, such as "X-Beta: 1".
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "request")]
        headers: Vec<String>,
        /// The client's address of that request.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", requires = "request")]
        ip: std::net::IpAddr,
    },
    /// API keys for `[keys.NAME]`.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Run a gateway with everything on, in front of example services that it carries itself.
    Demo {
        /// The port of the gateway; the example services take free ones.
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Print the completions for a shell.
    Completions {
        /// Whose they are.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key: print it, this once, and the line for the file, which holds only its SHA-256.
    New {
        /// Whose key it is, as `key.id`. Default: a random one.
        #[arg(long)]
        id: Option<String>,
    },
}

/// Runs what was typed.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => run::run(&config),
        Command::Check { files, without_secrets } => check(&files, &conf::Options { without_secrets }),
        Command::Explain { file, route, request, headers, ip } => match (route, request) {
            (_, Some(request)) => shown(explain::request(&file, &request, &headers, ip)),
            (route, None) => shown(explain::settings(&file, route.as_deref())),
        },
        Command::Key { command: KeyCommand::New { id } } => shown(new_key(id)),
        Command::Schema => shown(Ok(format!("{:#}\n", conf::schema()))),
        Command::Demo { port } => demo::run(port),
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut script);
            shown(Ok(String::from_utf8_lossy(&script).into_owned()))
        }
        Command::Man => shown(manual().map_err(|e| e.to_string())),
    }
}

/// The command line as clap knows it, for the tests of the documentation.
pub fn command() -> clap::Command {
    Cli::command()
}

fn check(files: &[PathBuf], options: &conf::Options) -> ExitCode {
    let mut wrong = 0;
    for file in files {
        match examine(file, options) {
            Ok(said) => println!("{}: {said}", file.display()),
            Err(faults) => {
                wrong += 1;
                eprint!("{faults}");
            }
        }
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Loads and builds, binds nothing.
fn examine(file: &Path, options: &conf::Options) -> Result<String, Faults> {
    let parts = table::examine(conf::read(file, options))?;
    Ok(format!("good: {} listeners, {} services, {} routes", parts.listeners, parts.services, parts.routes))
}

/// One page for all commands: `portcullis-run(1)` and its like would be six more files to install.
fn manual() -> std::io::Result<String> {
    let mut all = Cli::command();
    all.build();
    let mut page = vec![];
    let whole = Man::new(all.clone());
    whole.render_title(&mut page)?;
    whole.render_name_section(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page += ".SH COMMANDS\n";
    for command in all.get_subcommands().filter(|c| c.get_name() != "help") {
        let mut part = vec![];
        let man = Man::new(command.clone().mut_arg("help", |arg| arg.hide(true)));
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        let part = String::from_utf8_lossy(&part).replace(".SH OPTIONS\n", "").replace(".SH DESCRIPTION\n", ".PP\n");
        page += &part.replace(".SH SYNOPSIS", &format!(".SS {}", command.get_name()));
    }
    Ok(page + REST)
}

/// What the command line does not know of itself.
const REST: &str = r#".SH FILES
.TP
/etc/portcullis/portcullis.toml
The configuration, unless another is named.
.SH SIGNALS
.TP
SIGHUP
Reads the configuration anew; if anything in it is wrong, nothing changes. Also opens the access log anew.
.TP
SIGUSR1
Opens the access log anew, after it was moved away.
.TP
SIGTERM, SIGINT
Accepts nothing new, lets running requests end for at most the configured time, and ends. A second one ends at once.
.SH EXIT STATUS
0 is success, 1 a configuration or a request that is wrong, 2 a command line that is wrong.
"#;

/// 256 random bits, recognisable as a key to scanners that look for leaked ones.
fn new_key(id: Option<String>) -> Result<String, String> {
    let random = |len: usize| {
        let mut bytes = vec![0; len];
        boring::rand::rand_bytes(&mut bytes).map_err(|e| format!("no randomness: {e}"))?;
        Ok::<_, String>(bytes.iter().fold(String::new(), |hex, b| format!("{hex}{b:02x}")))
    };
    let id = match id {
        Some(id) if !filters::auth::keys::is_word(&id) => {
            return Err(format!("id {id:?}: expected 1 to 128 printable characters, without : = , and #"));
        }
        Some(id) => id,
        None => random(6)?,
    };
    let key = format!("portcullis_{}", random(32)?);
    Ok(format!("key:  {key}\nline: {}\n", filters::auth::keys::line(&id, &key)))
}

/// Prints what a command has to say; a closed pipe is no failure.
fn shown(said: Result<String, String>) -> ExitCode {
    match said {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("{}", text.trim_end());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }

    #[test]
    fn one_page_has_every_command_and_option() {
        let page = super::manual().unwrap().replace("\\-", "-");
        for command in super::command().get_subcommands() {
            assert!(page.contains(&format!(".SS {}\n", command.get_name())), "{}", command.get_name());
            for option in command.get_opts().filter_map(|o| o.get_long()) {
                assert!(page.contains(&format!("--{option}")), "{option}");
            }
        }
    }
}
