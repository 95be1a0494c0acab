use reeld::{
    app::{self, App},
    cli::{self, Command, LogFormat},
    telemetry::{LogStyle, init_logs},
};
use std::{process::ExitCode, time::Duration};

/// Heaps that glibc may open. Access units are allocated on the threads that receive and freed on those that write:
/// with a heap per thread the freed memory stays scattered (531 instead of 480 KiB a stream at 50 streams).
const MAX_HEAPS: libc::c_int = 2;

/// How long blocking work that nobody waits for any more may take at the end.
const STRAGGLERS_LIMIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet. That it fails costs memory, nothing else.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, MAX_HEAPS) };
    // The one that TLS is spoken with, towards clients and from here to others. An error: it is set already.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let cli = cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e),
    };
    match cli.command {
        Command::Client(command) => match runtime.block_on(cli::run_client(command, cli.config.as_deref())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e),
        },
        Command::Check(_) => match app::check(cli.config.as_deref()) {
            Ok(summary) => {
                println!("{summary}");
                ExitCode::SUCCESS
            }
            Err(problems) => {
                eprintln!("{problems}");
                ExitCode::FAILURE
            }
        },
        Command::Verify(args) => runtime.block_on(cli::run_verify(args, cli.config.as_deref())),
        Command::Record(args) => runtime.block_on(cli::run_record(args, cli.config.as_deref())),
        Command::Serve(args) => {
            let style = if args.log_format == LogFormat::Json { LogStyle::Json } else { LogStyle::Text };
            if let Err(e) = init_logs(style) {
                return fail(&e);
            }
            let ended = runtime.block_on(App::run(cli.config.as_deref()));
            // All is stored: a look-up of a name, or a disk, that does not answer is not waited for.
            runtime.shutdown_timeout(STRAGGLERS_LIMIT);
            match ended {
                Ok(code) => code,
                Err(e) => fail(&e),
            }
        }
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("reeld: {error}");
    ExitCode::FAILURE
}
