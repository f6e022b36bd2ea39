//! What can be wrong with a model that somebody hands us: the place, the cause, a way out.

use std::path::{Path, PathBuf};

use kbuild_engine::runner::{AtPath, Failure};

/// A model, its files or its use are not what they must be.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Reading or writing failed.
    #[error("`{}`: {cause}", path.display())]
    Io {
        path: PathBuf,
        cause: std::io::Error,
    },
    /// The content of a file cannot be used.
    #[error("`{}`: {message}", path.display())]
    File {
        path: PathBuf,
        message: String,
        help: String,
    },
    /// A value cannot be used.
    #[error("{message}")]
    Invalid { message: String, help: String },
}

impl ModelError {
    pub fn io(path: &Path, cause: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            cause,
        }
    }

    pub fn file(path: &Path, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.into(),
            help: help.into(),
        }
    }

    pub fn invalid(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Invalid {
            message: message.into(),
            help: help.into(),
        }
    }

    /// Names the file that an invalid value came from.
    pub fn within(self, path: &Path) -> Self {
        match self {
            Self::Invalid { message, help } => Self::file(path, message, help),
            other => other,
        }
    }

    /// A way out; may be empty.
    pub fn help(&self) -> &str {
        match self {
            Self::Io { .. } => "",
            Self::File { help, .. } | Self::Invalid { help, .. } => help,
        }
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let help = error.help().to_owned();
        match error {
            ModelError::Io { path, cause } => Err::<(), _>(cause).at(&path).unwrap_err(),
            other => Failure::input(other.to_string()).help(help),
        }
    }
}
