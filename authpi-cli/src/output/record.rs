//! Records as tables.

use authpi_sdk::UnixMillis;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

/// A record that can be a row of a table.
pub(crate) trait Record: Serialize {
    /// The names of the columns.
    const COLUMNS: &[&str];

    /// One text per column.
    fn cells(&self) -> Vec<String>;

    /// The record on a line of its own, for commands that run on.
    fn line(&self) -> String {
        visible(&self.cells().join("  "))
    }
}

/// The records as rows, or nothing if there are none.
pub(super) fn table<R: Record>(records: &[R]) -> String {
    if records.is_empty() {
        return String::new();
    }
    let head: Vec<_> = R::COLUMNS.iter().map(|name| name.to_uppercase()).collect();
    let mut table = plain();
    table.set_header(head);
    for record in records {
        table.add_row(record.cells().iter().map(|cell| visible(cell)));
    }
    text(&table)
}

/// The members of a JSON object as rows: name and value.
pub(super) fn members(record: &Value) -> String {
    let Value::Object(members) = record else {
        return format!("{record}\n");
    };
    let mut table = plain();
    // What identifies the record comes first.
    let first = ["id", "name"]
        .iter()
        .filter_map(|name| members.get_key_value(*name));
    let rest = members
        .iter()
        .filter(|(name, _)| *name != "id" && *name != "name");
    for (name, value) in first.chain(rest) {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => visible(text),
            Value::Number(number) if name.ends_with("_at") || name == "timestamp" => number
                .as_i64()
                .map_or_else(|| number.to_string(), |millis| time(UnixMillis(millis))),
            other => other.to_string(),
        };
        table.add_row([visible(name), value]);
    }
    text(&table)
}

/// A time to the second, as RFC 3339.
pub(crate) fn time(at: UnixMillis) -> String {
    at.timestamp()
        .ok()
        .and_then(|at| jiff::Timestamp::from_second(at.as_second()).ok())
        .map_or_else(|| at.to_string(), |at| at.to_string())
}

fn plain() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table without the spaces around its lines.
fn text(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

/// Control characters, which could change a terminal, become `�`.
pub(crate) fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    struct Pair(&'static str, &'static str);

    impl Record for Pair {
        const COLUMNS: &[&str] = &["id", "name"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_owned()]
        }
    }

    #[test]
    fn a_table_has_aligned_columns_and_no_control_characters() {
        let rows = [Pair("wh_1", "users"), Pair("wh_12345", "\u{1b}[2J")];
        assert_eq!(
            table(&rows),
            "ID        NAME\nwh_1      users\nwh_12345  \u{fffd}[2J\n"
        );
        assert_eq!(table::<Pair>(&[]), "");
    }

    #[test]
    fn the_members_of_a_record_are_rows_and_times_are_readable() {
        let record = json!({"id": "wh_1", "created_at": 1_700_000_000_123_i64, "none": null});
        assert_eq!(
            members(&record),
            "id          wh_1\ncreated_at  2023-11-14T22:13:20Z\n"
        );
    }
}
