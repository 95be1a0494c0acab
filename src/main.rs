use reeld::{
    app::{self, App},
    cli::{self, Command, LogFormat},
    telemetry::{LogStyle, init_logs},
};
use std::process::ExitCode;

fn main() -> ExitCode {
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
        Command::Serve(args) => {
            let style = if args.log_format == LogFormat::Json { LogStyle::Json } else { LogStyle::Text };
            if let Err(e) = init_logs(style) {
                return fail(&e);
            }
            match runtime.block_on(App::run(cli.config.as_deref())) {
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
