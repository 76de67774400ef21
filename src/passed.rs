//! Flags of the child processes that `up` accepts and passes on.
//!
//! They are taken from the children's own definitions, so that `up` has every flag of feed, proxy,
//! ingress and dns, except those that it sets itself. A flag that several children have is passed
//! to each of them, and `--help` says so. The environment reaches the children anyway and is not
//! repeated as flags.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, Command, Error, FromArgMatches, ValueEnum};
use proxy::Mode;

/// Flags that `up` sets for its children, or that have a different meaning in each of them.
const SET_BY_UP: [&str; 13] = [
    "admin",
    "dir",
    "drain-timeout",
    "feed",
    "http",
    "https",
    "listen",
    "log",
    "log-format",
    "node-ip",
    "parent",
    "state-dir",
    "name",
];

/// Flags of the feed that are for other machines, or that limit the other children as its clients.
const NOT_OF_THE_FEED: [&str; 4] = ["max-connections", "tls-cert", "tls-key", "token-file"];

/// Flags to pass on, by child.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passed(BTreeMap<&'static str, Vec<String>>);

impl Passed {
    /// The flags for that child.
    pub(crate) fn to(&self, child: &str) -> Vec<String> {
        self.0.get(child).cloned().unwrap_or_default()
    }
}

/// The children, with the flags that each can be passed.
fn children() -> [(&'static str, Vec<Arg>); 4] {
    let feed = apiserver::Config::augment_args(Command::new("feed"));
    let follower = |name| feed::Config::augment_args(Command::new(name));
    let children = [
        // The order in which `--help` names them.
        ("proxy", proxy::Config::augment_args(follower("proxy")).mut_arg("mode", with_modes)),
        ("ingress", ingress::Config::augment_args(follower("ingress"))),
        ("dns", dns::Config::augment_args(follower("dns"))),
        ("feed", feed),
    ];
    children.map(|(name, command)| {
        let command = daemon::Flags::augment_args(command);
        let can_be_passed = |arg: &&Arg| {
            arg.get_long().is_some_and(|long| {
                let stays = name == "feed" && NOT_OF_THE_FEED.contains(&long);
                !stays && !SET_BY_UP.contains(&long)
            })
        };
        (name, command.get_arguments().filter(can_be_passed).cloned().collect())
    })
}

/// The flag `--mode` of the proxy, with the modes that this version has.
pub(crate) fn with_modes(flag: Arg) -> Arg {
    let there = [Mode::Auto, Mode::Userspace];
    let names = there.iter().filter_map(ValueEnum::to_possible_value);
    let find = |name: String| Mode::from_str(&name, false).expect("a name of a mode");
    flag.value_parser(PossibleValuesParser::new(names).map(find))
}

/// Where `--help` lists the flags of these children.
fn heading(children: &[&str]) -> &'static str {
    match children {
        ["feed"] => "Passed on to the feed",
        ["proxy"] => "Passed on to the proxy",
        ["ingress"] => "Passed on to the ingress",
        ["dns"] => "Passed on to dns",
        ["proxy", "ingress"] => "Passed on to proxy and ingress",
        ["proxy", "feed"] => "Passed on to proxy and feed",
        ["proxy", "ingress", "dns"] => "Passed on to proxy, ingress and dns",
        _ => "Passed on to several processes",
    }
}

/// The flag as `up` has it: the first child's, with what it means to the others if they describe it
/// otherwise or have another default.
fn combined(flag: &[(&'static str, Arg)]) -> Arg {
    let (_, first) = &flag[0];
    let told = |arg: &Arg| {
        let text = arg.get_long_help().or(arg.get_help()).map(ToString::to_string);
        let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        let default = defaults.collect::<Vec<_>>().join(",");
        let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
        text.unwrap_or_default() + &default
    };
    let others = flag[1..].iter().filter(|(_, arg)| told(arg) != told(first));
    let others: String =
        others.map(|(name, arg)| format!("\n\nFor the {name}: {}", told(arg))).collect();
    let names: Vec<&str> = flag.iter().map(|(name, _)| *name).collect();
    // Only `--help` lists them; `-h` is short.
    let arg = first.clone().help_heading(heading(&names)).hide_short_help(true);
    if others.is_empty() {
        return arg;
    }
    let text = first.get_long_help().or(first.get_help()).map(ToString::to_string);
    arg.long_help(text.unwrap_or_default() + &others)
}

impl clap::Args for Passed {
    fn augment_args(command: Command) -> Command {
        let mut flags: Vec<Vec<(&'static str, Arg)>> = Vec::new();
        for (name, args) in children() {
            for arg in args {
                // Flags of `up` itself.
                if command.get_arguments().any(|own| own.get_id() == arg.get_id()) {
                    continue;
                }
                let is_same = |flag: &&mut Vec<(_, Arg)>| flag[0].1.get_long() == arg.get_long();
                match flags.iter_mut().find(is_same) {
                    Some(flag) => flag.push((name, arg)),
                    None => flags.push(vec![(name, arg)]),
                }
            }
        }
        // Flags with the same heading together, the shared ones first.
        let names = |flag: &[(&'static str, Arg)]| -> Vec<&'static str> {
            flag.iter().map(|(name, _)| *name).collect()
        };
        flags.sort_by_key(|flag| (Reverse(flag.len()), names(flag)));
        command.args(flags.iter().map(|flag| combined(flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Passed::augment_args(command)
    }
}

impl FromArgMatches for Passed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Passed, Error> {
        let passed = children().map(|(name, args)| {
            let given = args.iter().filter(|arg| {
                let source = matches.value_source(arg.get_id().as_str());
                source == Some(ValueSource::CommandLine)
            });
            (name, given.flat_map(|arg| as_flags(arg, matches)).collect())
        });
        Ok(Passed(passed.into_iter().collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Passed::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A flag as it was given, once for each of its values.
fn as_flags(arg: &Arg, matches: &ArgMatches) -> Vec<String> {
    let long = arg.get_long().unwrap_or_default();
    if !arg.get_action().takes_values() {
        return vec![format!("--{long}")];
    }
    let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
    values.map(|value| format!("--{long}={}", value.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        passed: Passed,
    }

    #[test]
    fn each_child_is_passed_its_own_flags() {
        let line = "up --service-cidr 10.96.0.0/16 --upstream 192.0.2.1,192.0.2.2 --workers 2 \
                    --trusted-proxies 10.0.0.0/8 --max-connections=100 --proxy-protocol";
        let passed = Cli::try_parse_from(line.split_ascii_whitespace()).unwrap().passed;
        let expected = [
            ("feed", "--service-cidr=10.96.0.0/16"),
            ("proxy", "--max-connections=100 --service-cidr=10.96.0.0/16"),
            ("ingress", "--max-connections=100 --proxy-protocol --trusted-proxies=10.0.0.0/8"),
            ("dns", "--upstream=192.0.2.1 --upstream=192.0.2.2"),
        ];
        for (child, flags) in expected {
            let mut got = passed.to(child);
            got.retain(|flag| flag != "--workers=2");
            got.sort();
            assert_eq!(got.join(" "), flags, "{child}");
            assert!(passed.to(child).contains(&"--workers=2".to_owned()), "{child}");
        }
    }

    #[test]
    fn the_help_says_which_processes_a_flag_is_for() {
        let command = Passed::augment_args(Command::new("up"));
        let arg = |long: &str| {
            command.get_arguments().find(|arg| arg.get_long() == Some(long)).unwrap().clone()
        };
        for (long, heading) in [
            ("workers", "Passed on to several processes"),
            ("stale-after", "Passed on to proxy, ingress and dns"),
            ("max-connections", "Passed on to proxy and ingress"),
            ("service-cidr", "Passed on to proxy and feed"),
            ("node-name", "Passed on to the proxy"),
            ("upstream", "Passed on to dns"),
        ] {
            assert_eq!(arg(long).get_help_heading(), Some(heading), "{long}");
        }
        let idle = arg("idle-timeout").get_long_help().unwrap().to_string();
        let of_ingress = "\n\nFor the ingress: Time that a connection may wait for its next \
                          request [default: 75s]";
        assert!(idle.ends_with(of_ingress), "{idle}");
        assert!(arg("stale-after").get_long_help().is_none(), "the same text for all");
    }

    #[test]
    fn a_value_that_a_child_would_refuse_is_refused() {
        let error = Cli::try_parse_from(["up", "--service-cidr", "nonsense"]).unwrap_err();
        assert!(error.to_string().contains("--service-cidr"), "{error}");
        assert!(Cli::try_parse_from(["up", "--listen", "127.0.0.1:53"]).is_err());
        let error = Cli::try_parse_from(["up", "--mode", "ebpf"]).unwrap_err().to_string();
        assert!(error.contains("[possible values: auto, userspace]"), "{error}");
        let passed = Cli::try_parse_from(["up", "--mode", "userspace"]).unwrap().passed;
        assert_eq!(passed.to("proxy"), ["--mode=userspace"]);
    }
}
