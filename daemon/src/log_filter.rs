//! The value of `--log`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Checks the value of `--log`: levels, or `TARGET=LEVEL`, separated by commas.
///
/// # Errors
///
/// Names the part that is neither of them.
pub(crate) fn parse_filter(text: &str) -> Result<String, String> {
    for directive in text.split(',').map(str::trim) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "`{directive}` is not a level (off, error, warn, info, debug, trace) and not \
                 TARGET=LEVEL (example: info,ingress=debug)"
            ));
        }
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused() {
        for filter in ["info", "off", "warn,ingress=debug", "h2::proto=trace", "INFO"] {
            assert_eq!(parse_filter(filter), Ok(filter.to_owned()));
        }
        for filter in ["verbose", "nonsense=foo", "", "info,", "ingress=", "info,loud"] {
            let error = parse_filter(filter).unwrap_err();
            assert!(error.contains("is not a level (off, error,"), "{filter}: {error}");
        }
    }
}
