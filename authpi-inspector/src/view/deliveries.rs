//! The list of deliveries.

use maud::{Markup, html};

use super::{Site, badge, pages, select, time};
use crate::{DeliveryFilter, DeliveryRow, DeliveryStatus, Page, Tab, form::link};

pub(crate) fn list(
    site: &Site<'_>,
    filter: &DeliveryFilter,
    before: Option<&str>,
    types: &[String],
    page: &Page<DeliveryRow>,
) -> Markup {
    let path = site.path(&[Tab::Deliveries.path()]);
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let status = filter.status.map(DeliveryStatus::as_str);
    let at = |before| {
        let query = [
            ("type", filter.event_type.as_deref()),
            ("status", status),
            ("text", filter.text.as_deref()),
            ("before", before),
        ];
        link(&path, &query)
    };
    let newest = before.map(|_| at(None));
    let last = page.items.last().filter(|_| page.has_more);
    let older = last.map(|row| at(Some(&row.id)));
    let is_filtered = *filter != DeliveryFilter::default();
    site.page(
        "Deliveries",
        &html! {
            h1 { "Deliveries" }
            form.filters method="get" action=(path) role="search" {
                label { "Type" (select("type", "All types", &types, filter.event_type.as_deref())) }
                label {
                    "Status"
                    (select("status", "Any status", &DeliveryStatus::ALL.map(DeliveryStatus::as_str), status))
                }
                label.wide {
                    "Text"
                    input type="search" name="text" value=[&filter.text]
                        placeholder="Id, webhook, payload or error";
                }
                button type="submit" { "Filter" }
                @if is_filtered { a href=(path) { "Show all" } }
            }
            div.table {
                table {
                    thead {
                        tr {
                            th scope="col" { "Created (UTC)" }
                            th scope="col" { "Status" }
                            th scope="col" { "Event" }
                            th scope="col" { "Webhook" }
                            th scope="col" { "Attempts" }
                            th scope="col" { "Last response" }
                        }
                    }
                    tbody #deliveries data-live {
                        @for row in &page.items { (line(site, row)) }
                        @if page.items.is_empty() { (nothing(site, is_filtered)) }
                    }
                }
            }
            (pages(newest.as_deref(), older.as_deref()))
        },
    )
}

fn line(site: &Site<'_>, row: &DeliveryRow) -> Markup {
    html! {
        tr data-key=(row.id) {
            td data-label="Created" { (time(row.created_at)) }
            td data-label="Status" { (badge(row.status, row.in_progress)) }
            td data-label="Event" {
                a.row href=(site.path(&[Tab::Deliveries.path(), &row.id])) { (row.event_type) }
            }
            td data-label="Webhook" { (row.webhook) }
            td.number data-label="Attempts" { (row.attempts) }
            td.error data-label="Last response" {
                @match (&row.last_error, row.last_status) {
                    (Some(error), _) => { (error) },
                    (None, Some(status)) => { (status) },
                    (None, None) => { "–" },
                }
            }
        }
    }
}

fn nothing(site: &Site<'_>, is_filtered: bool) -> Markup {
    html! {
        tr data-key="nothing" {
            td.nothing colspan="6" {
                @if is_filtered {
                    "No delivery matches the filters."
                } @else {
                    "No deliveries yet. "
                    @if site.tabs.contains(&Tab::Webhooks) {
                        a href=(site.path(&[Tab::Webhooks.path(), "new"])) { "Create a webhook" }
                        " and "
                    }
                    @if site.tabs.contains(&Tab::Events) {
                        a href=(site.path(&[Tab::Events.path(), "trigger"])) { "trigger an event" }
                        "."
                    }
                }
            }
        }
    }
}
