//! The alerts and the dashboard in `ops/`, checked by promtool, which knows the query language.
//!
//! The test `ops` of the integration suite compares them with the metrics of the code.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Stopped, graph::Metadata, system};
use crate::run::{program, run};

const DASHBOARD: &str = "ops/dashboard.json";

pub(super) fn check(root: &Path) -> Result<(), Stopped> {
    system::promtool(root)?;
    let promtool = |args: &[&str]| run(&mut program(root, "promtool", args));
    promtool(&["check", "rules", "ops/alerts.yml"])?;
    promtool(&["test", "rules", "ops/alerts.test.yml"])?;
    // promtool reads rules, not dashboards, so each query becomes a recording rule.
    let rules = Metadata::read(root)?
        .target_directory
        .join("dashboard.rules.json");
    let text = fs::read_to_string(root.join(DASHBOARD)).context(DASHBOARD)?;
    let dashboard: Value = serde_json::from_str(&text).context(DASHBOARD)?;
    fs::write(&rules, as_rules(&dashboard)?.to_string()).context("cannot write the rules")?;
    promtool(&["check", "rules", &rules.to_string_lossy()])?;
    Ok(())
}

/// The dashboard's queries as rules. JSON is YAML, too.
fn as_rules(dashboard: &Value) -> Result<Value> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.filter_map(|target| target["expr"].as_str());
    // Grafana replaces these variables.
    let rules: Vec<_> = queries
        .map(|query| {
            query
                .replace("$__rate_interval", "5m")
                .replace("$endpoint", "users")
        })
        .enumerate()
        .map(|(n, query)| json!({ "record": format!("query:{n}"), "expr": query }))
        .collect();
    ensure!(!rules.is_empty(), "{DASHBOARD} has no queries");
    Ok(json!({ "groups": [{ "name": "dashboard", "rules": rules }] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_becomes_a_rule_without_grafanas_variables() {
        let dashboard = json!({ "panels": [
            { "type": "row" },
            { "targets": [
                { "expr": "rate(a{endpoint=~\"$endpoint\"}[$__rate_interval])" },
                { "expr": "b" },
            ] },
        ] });
        let rules = as_rules(&dashboard).unwrap();
        let rules = rules["groups"][0]["rules"].as_array().unwrap();
        let queries: Vec<_> = rules
            .iter()
            .map(|rule| rule["expr"].as_str().unwrap())
            .collect();
        assert_eq!(queries, ["rate(a{endpoint=~\"users\"}[5m])", "b"]);
        assert!(as_rules(&json!({})).is_err());
    }
}
