//! Why a process failed, and the exit code that says so.

use std::process::ExitCode;

/// Why a process ended other than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The operator's flags or files cannot work: exit code 2.
    #[error("{0}")]
    Configuration(String),
    /// Something failed while starting or running: exit code 1.
    #[error("{what}")]
    Failed { what: String, source: Option<Box<dyn std::error::Error + Send + Sync>> },
}

impl Failure {
    pub fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Failure {
        Failure::Failed { what: what.into(), source: Some(source.into()) }
    }

    /// Exit code as the command line promises: 1 failed, 2 invalid configuration.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Configuration(_) => ExitCode::from(2),
            Failure::Failed { .. } => ExitCode::from(1),
        }
    }
}
