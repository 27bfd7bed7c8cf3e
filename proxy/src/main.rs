//! The binary `ripen`: reads the command line, starts logging and the runtime, ends with a status. Decides nothing about statements or rows.

use ripen_proxy::cli::{self, CliError, Invocation};
use ripen_proxy::config::{Config, LogFormat};
use ripen_proxy::{commands, server};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args().collect(), environment()) {
        Ok(invocation) => act(invocation),
        Err(CliError::Words(words)) => words.exit(),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Variables that are not UTF-8 are none of ours.
fn environment() -> Vec<(String, String)> {
    let pairs = std::env::vars_os();
    pairs
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn act(invocation: Invocation) -> anyhow::Result<()> {
    match invocation {
        Invocation::CheckConfig(config) => {
            print_settings(&config);
            Ok(())
        }
        Invocation::Run(config) => run(*config),
        Invocation::PrintMigrations => {
            print!("{}", ripen_cachestore::migrate::print());
            Ok(())
        }
        Invocation::Migrate(config) => runtime()?.block_on(commands::migrate(&config)),
        Invocation::Recover(config, accept_loss) => commands::recover(&config, accept_loss),
        Invocation::Node(admin, ask) => runtime()?.block_on(commands::node(&admin, ask)),
        Invocation::DeadLetters(config, what) => {
            runtime()?.block_on(commands::dead_letters(&config, what))
        }
    }
}

fn print_settings(config: &Config) {
    for (key, value, origin) in config.rows() {
        println!("{key} = {value}  # {origin}");
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    start_logging(&config);
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        server::run(config, stop).await?;
        tracing::info!("stopped");
        Ok(())
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

fn start_logging(config: &Config) {
    let filter = EnvFilter::new(&config.log_level);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// The first SIGTERM or SIGINT stops gracefully, the second at once: what is acknowledged is on disk either way.
fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stop.is_cancelled() {
                tracing::warn!(signal = name, "stopping at once");
                std::process::exit(1);
            }
            tracing::info!(signal = name, "stopping; once more stops at once");
            stop.cancel();
        }
    });
    Ok(())
}
