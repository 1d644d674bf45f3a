//! `docs/cli.md`: the help of every command, written and checked by a test.

use std::{env, fs, path::Path};

use clap::{Command, CommandFactory as _};

use crate::cli::Arguments;

const HEAD: &str = "\
# The `authpi` program

<!-- Generated from the commands. Do not edit: change the texts in `authpi-cli/src`, then run
`UPDATE_GOLDEN=1 cargo test -p authpi-cli`. -->

What every command has in common:

- **Settings** come from an option, else from the profile that `--profile` names, else from the
  environment (`AUTHPI_BASE_URL`, `AUTHPI_ACCOUNT_ID`, `AUTHPI_KEY_ID`, `AUTHPI_KEY_SECRET`), else
  from the active profile. No option takes a secret's value, since other users can see a program's
  arguments: secrets come from a file, from standard input (`-`) or from the environment.
- **Results** go to standard output: a table on a terminal, one JSON document per line (`ndjson`)
  otherwise; `--output` chooses. Everything else goes to standard error. `NO_COLOR` is respected.
- **Exit codes**: 0 done, 1 failed, 2 usage, 3 not found, 4 not authorized. An error is one line. A
  closed pipe ends the program quietly, with 0.
";

fn reference() -> String {
    let mut text = HEAD.to_owned();
    // Long lines are wrapped at the same place on each terminal.
    let mut command = Arguments::command().term_width(100);
    command.build();
    describe(&command, "authpi", &mut text);
    text
}

fn describe(command: &Command, path: &str, text: &mut String) {
    let help = command.clone().render_help().to_string();
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    let help = lines.join("\n");
    text.extend(["\n## `", path, "`\n\n"]);
    // The short help leaves out all but the first paragraph of the description.
    if let Some(long) = command.get_long_about() {
        let paragraphs: Vec<_> = long.to_string().split("\n\n").map(wrapped).collect();
        text.extend([&paragraphs[1..].join("\n\n"), "\n\n"]);
    }
    text.extend(["```text\n", help.trim(), "\n```\n"]);
    for sub in command.get_subcommands() {
        if sub.get_name() != "help" {
            describe(sub, &format!("{path} {}", sub.get_name()), text);
        }
    }
}

/// A paragraph in lines of at most 100 characters.
fn wrapped(paragraph: &str) -> String {
    let mut lines = vec![String::new()];
    for word in paragraph.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= 100 {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}

#[test]
fn docs_cli_md_is_what_the_commands_say() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = reference();
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(written, text, "UPDATE_GOLDEN=1 accepts the change");
}

#[test]
fn every_command_has_an_example_and_no_argument_contradicts_another() {
    fn check(command: &Command) {
        if command.get_subcommands().count() == 0 {
            let example = command.get_after_help().map(ToString::to_string);
            assert!(
                example.is_some_and(|text| text.contains("Example")),
                "{} has no example",
                command.get_name()
            );
        }
        command.get_subcommands().for_each(check);
    }
    let mut command = Arguments::command();
    command.clone().debug_assert();
    // Without clap's own `help`.
    command = command.disable_help_subcommand(true);
    command.build();
    check(&command);
}
