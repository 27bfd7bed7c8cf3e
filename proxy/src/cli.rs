//! The command line: commands, and a flag for every key of the configuration. Only reads words; `main.rs` acts on them.

use crate::config::schema::{GLOBAL, LISTS, SWITCHES, TABLE};
use crate::config::{Config, Problem, Problems, Sources};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::path::PathBuf;

/// What the user asked for, with the configuration it needs.
#[derive(Debug)]
pub enum Invocation {
    /// Start the proxy.
    Run(Box<Config>),
    /// Print the settings in effect.
    CheckConfig(Box<Config>),
    /// Create schema `ripen` upstream.
    Migrate(Box<Config>),
    /// Print the SQL that `Migrate` would run; needs no configuration.
    PrintMigrations,
    /// Look at or deal with dead letters.
    DeadLetters(Box<Config>, DeadLetters),
    /// Ask the node whose admin server is there.
    Node(String, NodeAsk),
    /// Let the node of the data folder go on alone; true: whatever may be lost.
    Recover(Box<Config>, bool),
}

/// A command to a running node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAsk {
    /// Show it and its cluster.
    Status,
    /// Let another lead.
    Drain,
    /// Go for good.
    Leave,
}

/// A command on dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetters {
    /// Show those not dealt with.
    List,
    /// Apply one again.
    Replay(i64),
    /// Mark one as dealt with.
    Discard(i64),
}

/// Why there is nothing to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A word that is no command or flag, or a call for help or the version.
    #[error(transparent)]
    Words(#[from] clap::Error),
    /// The configuration is not usable.
    #[error(transparent)]
    Config(#[from] Problems),
}

/// Reads the command line (`words[0]` is the program) and the environment, and the file that they name.
///
/// # Errors
/// See [`CliError`].
pub fn parse(words: Vec<String>, env: Vec<(String, String)>) -> Result<Invocation, CliError> {
    let matches = command().try_get_matches_from(words)?;
    match matches.subcommand() {
        Some(("migrate", sub)) if sub.get_flag("print") => Ok(Invocation::PrintMigrations),
        Some(("migrate", sub)) => Ok(Invocation::Migrate(config(sub, env)?)),
        Some(("recover", sub)) => {
            let accept_loss = sub.get_flag("accept-loss");
            Ok(Invocation::Recover(config(sub, env)?, accept_loss))
        }
        Some(("check-config", sub)) => Ok(Invocation::CheckConfig(config(sub, env)?)),
        Some(("dead-letters", sub)) => {
            let (name, sub) = sub.subcommand().expect("clap asks for a subcommand");
            let id = || *sub.get_one::<i64>("id").expect("clap asks for an id");
            let what = match name {
                "replay" => DeadLetters::Replay(id()),
                "discard" => DeadLetters::Discard(id()),
                _ => DeadLetters::List,
            };
            Ok(Invocation::DeadLetters(config(sub, env)?, what))
        }
        Some(("node", sub)) => {
            let (name, sub) = sub.subcommand().expect("clap asks for a subcommand");
            let ask = match name {
                "drain" => NodeAsk::Drain,
                "leave" => NodeAsk::Leave,
                _ => NodeAsk::Status,
            };
            Ok(Invocation::Node(admin(sub, env)?, ask))
        }
        _ => Ok(Invocation::Run(config(&matches, env)?)),
    }
}

/// The whole command line, for parsing and for help.
pub fn command() -> Command {
    let id = || {
        Arg::new("id")
            .required(true)
            .value_parser(value_parser!(i64))
            .help("id of the dead letter")
    };
    let dead_letters = Command::new("dead-letters")
        .about("Queued changes that Postgres refused")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("Show those not dealt with"))
        .subcommand(Command::new("replay").about("Apply one again").arg(id()))
        .subcommand(
            Command::new("discard")
                .about("Mark one as dealt with")
                .arg(id()),
        );
    let admin = Arg::new("admin")
        .long("admin")
        .value_name("HOST:PORT")
        .global(true)
        .help("Which node: its admin_listen [default: that of this configuration]");
    let node = Command::new("node")
        .about("A running node and its cluster")
        .subcommand_required(true)
        .arg(admin)
        .subcommand(
            Command::new("status").about("Show it, and the others as their leader sees them"),
        )
        .subcommand(
            Command::new("drain")
                .about("Let another node lead, and take no new clients: before a restart"),
        )
        .subcommand(
            Command::new("leave")
                .about("Go for good: the others go on without this node, and it stops"),
        );
    let accept_loss = Arg::new("accept-loss")
        .long("accept-loss")
        .action(ArgAction::SetTrue)
        .help("Do it, whatever only the lost nodes had");
    let recover = Command::new("recover")
        .about("After the loss of a majority of voters: let the node of this data folder, stopped, go on alone")
        .arg(accept_loss);
    let print = Arg::new("print")
        .long("print")
        .action(ArgAction::SetTrue)
        .help("Write the SQL for a DBA instead");
    Command::new("ripen")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Write-behind caching proxy for PostgreSQL")
        .after_help("Every flag can also be given as a variable (RIPEN_LISTEN) or in the file (listen = \"…\"). See docs/CONFIGURATION.md.")
        .args(settings())
        .subcommand(Command::new("check-config").about("Print the settings in effect, or every error"))
        .subcommand(Command::new("migrate").about("Create schema \"ripen\" in the system of record").arg(print))
        .subcommand(dead_letters)
        .subcommand(node)
        .subcommand(recover)
}

fn settings() -> Vec<Arg> {
    let defaults = Config::default();
    let global = GLOBAL
        .iter()
        .map(|key| (key.name, key.help, (key.show)(&defaults)));
    let table = TABLE
        .iter()
        .map(|key| (key.name, key.help, (key.show)(&defaults.table_defaults)));
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .global(true)
        .help("TOML file [RIPEN_CONFIG]");
    let keys = global.chain(table).map(|(name, help, default)| {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!(" [default: {default}]")
        };
        let flag = Arg::new(name)
            .long(name.replace('_', "-"))
            .value_name("VALUE")
            .global(true)
            .allow_hyphen_values(true)
            .help(format!("{help}{default}"));
        match name {
            // With a "=", so that the next word is not taken for its value.
            _ if SWITCHES.contains(&name) => flag
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            _ if LISTS.contains(&name) => flag.action(ArgAction::Append),
            _ => flag,
        }
    });
    std::iter::once(config).chain(keys).collect()
}

fn config(matches: &ArgMatches, env: Vec<(String, String)>) -> Result<Box<Config>, Problems> {
    Config::load(&sources(matches, env)?).map(Box::new)
}

/// Where the node's admin server is. The rest of the configuration is the node's matter, and need not be there.
fn admin(matches: &ArgMatches, env: Vec<(String, String)>) -> Result<String, Problems> {
    match matches.get_one::<String>("admin") {
        Some(given) => Ok(given.clone()),
        None => Config::admin_address(&sources(matches, env)?),
    }
}

fn sources(matches: &ArgMatches, env: Vec<(String, String)>) -> Result<Sources, Problems> {
    let names = GLOBAL
        .iter()
        .map(|key| key.name)
        .chain(TABLE.iter().map(|key| key.name));
    let flags = names.filter_map(|name| {
        let values: Vec<&str> = matches
            .get_many::<String>(name)?
            .map(String::as_str)
            .collect();
        Some((name.to_owned(), values.join(",")))
    });
    let variable = env
        .iter()
        .find(|(name, _)| name == "RIPEN_CONFIG")
        .map(|(_, path)| path);
    let path = matches.get_one::<String>("config").or(variable);
    let file = path.map(|path| read(path)).transpose()?;
    Ok(Sources {
        file,
        flags: flags.collect(),
        env,
    })
}

fn read(path: &str) -> Result<(PathBuf, String), Problems> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let origin = crate::config::Origin::Flag("--config".to_owned());
        Problems(vec![Problem {
            key: path.to_owned(),
            origin,
            message: error.to_string(),
        }])
    })?;
    Ok((PathBuf::from(path), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    fn words(line: &str) -> Result<Invocation, CliError> {
        parse(line.split(' ').map(str::to_owned).collect(), Vec::new())
    }

    #[test]
    fn command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn five_flags_start_the_proxy() {
        let line = "ripen --upstream postgres://h/d --listen 127.0.0.1:1 --data-dir d --admin-listen 127.0.0.1:2 --write-behind public.sessions,app.*";
        let Ok(Invocation::Run(config)) = words(line) else {
            panic!("not a run");
        };
        assert_eq!(config.listen, "127.0.0.1:1");
        assert_eq!(config.admin_listen, "127.0.0.1:2");
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!(config.table("app", "x").mode, Mode::WriteBehind);
    }

    #[test]
    fn commands_take_the_same_flags_on_either_side() {
        assert!(matches!(
            words("ripen check-config --upstream postgres://h/d"),
            Ok(Invocation::CheckConfig(_))
        ));
        assert!(matches!(
            words("ripen --upstream postgres://h/d check-config"),
            Ok(Invocation::CheckConfig(_))
        ));
        let replay = words("ripen dead-letters replay 7 --upstream postgres://h/d");
        assert!(matches!(
            replay,
            Ok(Invocation::DeadLetters(_, DeadLetters::Replay(7)))
        ));
        assert!(matches!(
            words("ripen migrate --print"),
            Ok(Invocation::PrintMigrations)
        ));
        assert!(matches!(words("ripen migrate"), Err(CliError::Config(_))));
    }

    #[test]
    fn a_node_is_asked_where_its_admin_server_is() {
        let node = |line| match words(line) {
            Ok(Invocation::Node(admin, ask)) => (admin, ask),
            other => panic!("{other:?}"),
        };
        let (admin, ask) = node("ripen node status");
        assert_eq!((admin.as_str(), ask), ("127.0.0.1:6433", NodeAsk::Status));
        let (admin, ask) = node("ripen node drain --admin h:1");
        assert_eq!((admin.as_str(), ask), ("h:1", NodeAsk::Drain));
        let (admin, ask) = node("ripen node --admin h:1 leave");
        assert_eq!((admin.as_str(), ask), ("h:1", NodeAsk::Leave));
        // Of a configuration that is good for nothing else, and for clients of any address.
        let (admin, _) = node("ripen node status --join x --admin-listen 0.0.0.0:7");
        assert_eq!(admin, "127.0.0.1:7");
        let (admin, _) = node("ripen node status --admin-listen [::]:7");
        assert_eq!(admin, "[::1]:7");
        assert!(words("ripen node status --admin-listen nonsense").is_err());
        assert!(words("ripen node").is_err());
    }

    #[test]
    fn a_loss_is_accepted_by_word_only() {
        for (line, accepted) in [
            ("ripen recover", false),
            ("ripen recover --accept-loss", true),
        ] {
            let line = format!("{line} --upstream postgres://h/d");
            let invocation = words(&line);
            assert!(
                matches!(&invocation, Ok(Invocation::Recover(_, accept)) if *accept == accepted),
                "{invocation:?}"
            );
        }
        assert!(words("ripen --accept-loss --upstream postgres://h/d").is_err());
    }

    #[test]
    fn lists_may_be_repeated_and_switches_need_no_value() {
        let node = "ripen --upstream postgres://h/d --cluster-listen 127.0.0.1:1";
        let Ok(Invocation::CheckConfig(config)) =
            words(&format!("{node} --bootstrap check-config"))
        else {
            panic!("not a check");
        };
        assert!(config.cluster.bootstrap);
        let line =
            format!("{node} --bootstrap=false --join 127.0.0.1:2,127.0.0.1:3 --join 127.0.0.1:4");
        let Ok(Invocation::Run(config)) = words(&line) else {
            panic!("not a run");
        };
        assert!(!config.cluster.bootstrap);
        assert_eq!(
            config.cluster.join,
            ["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]
        );
        assert!(words(&format!("{node} --cluster-listen 127.0.0.1:9")).is_err());
    }

    #[test]
    fn wrong_words_are_refused() {
        assert!(matches!(words("ripen --nonsense"), Err(CliError::Words(_))));
        assert!(matches!(words("ripen frobnicate"), Err(CliError::Words(_))));
        assert!(matches!(
            words("ripen dead-letters"),
            Err(CliError::Words(_))
        ));
        let missing = words("ripen --config /nonexistent/ripen.toml --upstream postgres://h/d");
        assert!(matches!(missing, Err(CliError::Config(_))));
    }

    #[test]
    fn named_file_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ripen.toml");
        std::fs::write(&path, "upstream = \"postgres://h/d\"\nmax_clients = 7").expect("written");
        let env = vec![("RIPEN_CONFIG".to_owned(), path.display().to_string())];
        let Ok(Invocation::Run(config)) = parse(vec!["ripen".to_owned()], env) else {
            panic!("not a run");
        };
        assert_eq!(config.max_clients, 7);
    }
}
