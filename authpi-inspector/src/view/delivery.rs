//! One delivery, with its attempts.

use maud::{Markup, html};

use super::{Site, act, badge, copy, curl, failure, json, time};
use crate::{Attempt, Delivery, SignatureView, Tab};

pub(crate) fn detail(site: &Site<'_>, delivery: &Delivery) -> Markup {
    let row = &delivery.row;
    let path =
        |rest: &[&str]| site.path(&[&[Tab::Deliveries.path(), row.id.as_str()], rest].concat());
    let last = delivery.recorded.last();
    site.page(
        &row.event_type,
        &html! {
            p.crumbs { a href=(site.path(&[Tab::Deliveries.path()])) { "Deliveries" } }
            div #summary data-live {
                div data-key="summary" {
                    h1 { (row.event_type) " " (badge(row.status, row.in_progress)) }
                    (facts(site, delivery))
                }
            }
            div.actions {
                (act(&path(&["resend"]), "Resend", "primary"))
                div #actions data-live {
                    @if let Some(last) = last {
                        a.button data-key="fixture" href=(path(&["fixture"])) download {
                            "Save as fixture"
                        }
                        div.curl data-key="curl" {
                            (copy("curl", "Copy as curl"))
                            details {
                                summary { "curl command" }
                                pre #curl tabindex="0" { (curl::command(last)) }
                            }
                        }
                    }
                }
            }
            h2 { "Attempts" }
            div #attempts data-live {
                @if let Some(why) = &delivery.missing {
                    p.note data-key="missing" { (why) }
                }
                @for attempt in delivery.recorded.iter().rev() {
                    (one(attempt, last.is_some_and(|last| last.number == attempt.number)))
                }
            }
            div #body data-live {
                @if let Some(last) = last {
                    div data-key="body" { (body(last, &path(&["body"]))) }
                }
            }
        },
    )
}

fn facts(site: &Site<'_>, delivery: &Delivery) -> Markup {
    let row = &delivery.row;
    html! {
        dl {
            dt { "Webhook" }
            dd { (row.webhook) " " span.dim { (row.url) } }
            dt { "Event" }
            dd {
                @if site.tabs.contains(&Tab::Events) {
                    a href=(site.path(&[Tab::Events.path(), &row.event_id])) { (row.event_id) }
                } @else {
                    (row.event_id)
                }
            }
            dt { "Delivery" }
            dd { (row.id) }
            dt { "Created" }
            dd { (time(row.created_at)) " UTC" }
            @if let Some(at) = row.next_attempt_at {
                dt { "Next attempt" }
                dd { (time(at)) " UTC" }
            }
            @if let Some(error) = &row.last_error {
                dt { "Last error" }
                dd.error { (error) }
            }
        }
    }
}

fn one(attempt: &Attempt, is_last: bool) -> Markup {
    let key = format!("attempt-{}", attempt.number);
    html! {
        details.attempt #(key) data-key=(key) open[is_last] {
            summary {
                span.dim { "#" (attempt.number) } " "
                span class={ "badge " @if attempt.error.is_some() { "failed" } @else { "succeeded" } } {
                    @match attempt.status {
                        Some(status) => { (status) },
                        None => { "no response" },
                    }
                } " "
                (time(attempt.at)) " "
                span.dim { (attempt.took.as_millis()) " ms" }
                @if attempt.is_resend { " " span.dim { "resent" } }
            }
            @if let Some(error) = &attempt.error { (failure(error)) }
            h3 { "Request" }
            p.url { "POST " (attempt.url) }
            table.headers {
                tbody {
                    @for (name, value) in &curl::redacted(&attempt.headers) {
                        tr {
                            th scope="row" { (name) }
                            td { (String::from_utf8_lossy(value.as_bytes())) }
                        }
                    }
                }
            }
            h3 { "Signature" }
            @match &attempt.signature {
                Some(signature) => { (signed(attempt, signature)) },
                None => { p { "Not signed." } },
            }
            h3 { "Response" }
            (answer(attempt))
        }
    }
}

fn signed(attempt: &Attempt, signature: &SignatureView) -> Markup {
    let value = attempt.headers.get(&signature.header);
    html! {
        dl {
            dt { "Header" }
            dd { (signature.header) }
            dt { "Value" }
            dd { (value.map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default()) }
            dt { "Method" }
            dd { (signature.method) }
            dt { "Signed bytes" }
            dd {
                @if !signature.prefix.is_empty() { code { (signature.prefix) } " and then " }
                "the " (attempt.body.len()) " bytes of the body"
            }
        }
    }
}

fn answer(attempt: &Attempt) -> Markup {
    let (text, is_cut) = json::raw(&attempt.answer);
    html! {
        @if attempt.status.is_none() {
            p { "There was no response." }
        } @else if attempt.answer.is_empty() {
            p { "The body is empty." }
        } @else {
            pre tabindex="0" { (text) }
            @if is_cut || attempt.answer_cut { p.note { "Only the beginning is shown." } }
        }
    }
}

fn body(attempt: &Attempt, path: &str) -> Markup {
    let (text, is_cut) = json::raw(&attempt.body);
    html! {
        h2 { "Body" }
        @match json::body_tree(&attempt.body) {
            Some(tree) => { (tree) },
            None => { p.note { "It is not JSON, or too large to be shown as a tree." } },
        }
        details {
            summary { "Raw (" (attempt.body.len()) " bytes)" }
            p.actions {
                (copy("raw", "Copy the body"))
                a.button href=(path) download { "Download the body" }
            }
            pre #raw tabindex="0" { (text) }
            @if is_cut { p.note { "Only the beginning is shown. The download is complete." } }
        }
    }
}
