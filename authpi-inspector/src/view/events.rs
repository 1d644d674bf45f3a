//! The event log, one event, and the form that triggers one.

use maud::{Markup, html};
use serde_json::Value;

use super::{Site, failure, json, pages, select, time};
use crate::{Event, EventFilter, EventRow, Page, Tab, form::link};

pub(crate) fn list(
    site: &Site<'_>,
    filter: &EventFilter,
    before: Option<&str>,
    types: &[String],
    page: &Page<EventRow>,
) -> Markup {
    let path = site.path(&[Tab::Events.path()]);
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let at = |before| {
        let query = [
            ("type", filter.event_type.as_deref()),
            ("text", filter.text.as_deref()),
            ("before", before),
        ];
        link(&path, &query)
    };
    let newest = before.map(|_| at(None));
    let last = page.items.last().filter(|_| page.has_more);
    let older = last.map(|row| at(Some(&row.id)));
    let is_filtered = *filter != EventFilter::default();
    site.page(
        "Events",
        &html! {
            div.heading {
                h1 { "Events" }
                a.button.primary href=(site.path(&[Tab::Events.path(), "trigger"])) { "Trigger an event" }
            }
            form.filters method="get" action=(path) role="search" {
                label { "Type" (select("type", "All types", &types, filter.event_type.as_deref())) }
                label.wide {
                    "Text"
                    input type="search" name="text" value=[&filter.text] placeholder="Id, subject or payload";
                }
                button type="submit" { "Filter" }
                @if is_filtered { a href=(path) { "Show all" } }
            }
            div.table {
                table {
                    thead {
                        tr {
                            th scope="col" { "Time (UTC)" }
                            th scope="col" { "Type" }
                            th scope="col" { "Subject" }
                            th scope="col" { "Trigger" }
                            th scope="col" { "Deliveries" }
                        }
                    }
                    tbody #events data-live {
                        @for row in &page.items { (line(site, row)) }
                        @if page.items.is_empty() {
                            tr data-key="nothing" {
                                td.nothing colspan="5" {
                                    @if is_filtered { "No event matches the filters." }
                                    @else { "No events yet." }
                                }
                            }
                        }
                    }
                }
            }
            (pages(newest.as_deref(), older.as_deref()))
        },
    )
}

fn line(site: &Site<'_>, row: &EventRow) -> Markup {
    html! {
        tr data-key=(row.id) {
            td data-label="Time" { (time(row.at)) }
            td data-label="Type" {
                a.row href=(site.path(&[Tab::Events.path(), &row.id])) { (row.event_type) }
            }
            td.ids data-label="Subject" { (ids(&row.subject)) }
            td data-label="Trigger" { (row.trigger) }
            td data-label="Deliveries" { (deliveries(site, &row.id)) }
        }
    }
}

fn ids(subject: &Value) -> Markup {
    let members = subject.as_object().into_iter().flatten();
    html! {
        @for (name, id) in members {
            span.id {
                span.dim { (name) } " "
                (id.as_str().map_or_else(|| id.to_string(), str::to_owned))
            } " "
        }
    }
}

fn deliveries(site: &Site<'_>, event_id: &str) -> Markup {
    let path = link(
        &site.path(&[Tab::Deliveries.path()]),
        &[("text", Some(event_id))],
    );
    html! { a href=(path) { "Show" span.hidden { " the deliveries of " (event_id) } } }
}

pub(crate) fn detail(site: &Site<'_>, event: &Event) -> Markup {
    let row = &event.row;
    site.page(
        &row.event_type,
        &html! {
            p.crumbs { a href=(site.path(&[Tab::Events.path()])) { "Events" } }
            h1 { (row.event_type) }
            dl {
                dt { "Event" }
                dd { (row.id) }
                dt { "Time" }
                dd { (time(row.at)) " UTC" }
                dt { "Trigger" }
                dd { (row.trigger) }
                dt { "Deliveries" }
                dd { (deliveries(site, &row.id)) }
            }
            h2 { "Event" }
            (json::tree(&event.shown))
        },
    )
}

/// What the form contains.
pub(crate) struct Entered<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) data: &'a str,
}

pub(crate) fn trigger(
    site: &Site<'_>,
    entered: &Entered<'_>,
    types: &[String],
    problem: Option<&str>,
) -> Markup {
    site.page(
        "Trigger an event",
        &html! {
            p.crumbs { a href=(site.path(&[Tab::Events.path()])) { "Events" } }
            h1 { "Trigger an event" }
            @if let Some(problem) = problem { (failure(problem)) }
            form.filters method="get" action=(site.path(&[Tab::Events.path(), "trigger"])) {
                label {
                    "Type"
                    select name="type" {
                        @for name in types {
                            option value=(name) selected[name == entered.event_type] { (name) }
                        }
                    }
                }
                button type="submit" { "Load the example" }
            }
            form.stacked method="post" action=(site.path(&[Tab::Events.path()])) {
                input type="hidden" name="type" value=(entered.event_type);
                label { "Subject" textarea name="subject" rows="6" spellcheck="false" { "\n" (entered.subject) } }
                label { "Data" textarea name="data" rows="16" spellcheck="false" { "\n" (entered.data) } }
                div.actions { button.primary type="submit" { "Trigger " (entered.event_type) } }
            }
        },
    )
}
