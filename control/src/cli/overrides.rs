//! Flags and environment variables of all settings, made from the one table of them.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::{Override, SETTINGS};

/// Settings that win over the files.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides(Vec<Override>);

impl Overrides {
    /// What was given here and further up on the command line. What was typed wins over the environment, and of what
    /// was typed the later.
    pub(super) fn over(&self, outer: &Self) -> Vec<Override> {
        let of = |list: &Self, setting: &'static crate::config::Setting, typed: bool| {
            list.0
                .iter()
                .find(|given| std::ptr::eq(given.setting, setting) && given.is_flag() == typed)
                .cloned()
        };
        SETTINGS
            .iter()
            .filter_map(|setting| {
                of(self, setting, true)
                    .or_else(|| of(outer, setting, true))
                    .or_else(|| of(self, setting, false))
                    .or_else(|| of(outer, setting, false))
            })
            .collect()
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut overrides = Self::default();
        overrides.update_from_arg_matches(matches)?;
        Ok(overrides)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in SETTINGS {
            // An empty variable is one that was not set.
            let Some(value) = matches
                .get_one::<String>(setting.flag)
                .filter(|value| !value.trim().is_empty())
            else {
                continue;
            };
            self.0.retain(|given| !std::ptr::eq(given.setting, setting));
            let typed =
                matches.value_source(setting.flag) == Some(clap::parser::ValueSource::CommandLine);
            self.0.push(if typed {
                Override::by_flag(setting, value.clone())
            } else {
                Override::by_environment(setting, value.clone())
            });
        }
        Ok(())
    }
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        let args = SETTINGS.iter().map(|setting| {
            let arg = Arg::new(setting.flag)
                .long(setting.flag)
                .env(setting.env)
                .hide_env_values(true)
                .value_name(setting.value)
                .help(format!("{} [field: {}]", setting.help, setting.field))
                .help_heading("Settings that win over netcfg.json and tuncfg.json");
            if setting.is_switch() {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
            } else {
                arg
            }
        });
        command.args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
