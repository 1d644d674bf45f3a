//! Webhooks: the list, the form, and new secrets.

use maud::{Markup, html};

use super::{Site, act, copy, failure};
use crate::{NewWebhook, Secrets, Tab, Webhook};

/// The kinds of authentication: the API's name, and what the form shows.
const AUTH: [(&str, &str); 4] = [
    ("signature", "Signature"),
    ("bearer", "Bearer token"),
    ("bearer+signature", "Signature and bearer token"),
    ("none", "None"),
];

pub(crate) fn list(site: &Site<'_>, webhooks: &[Webhook]) -> Markup {
    site.page(
        "Webhooks",
        &html! {
            div.heading {
                h1 { "Webhooks" }
                a.button.primary href=(site.path(&[Tab::Webhooks.path(), "new"])) { "Create Webhook" }
            }
            div.cards #webhooks data-live {
                @for webhook in webhooks { (card(site, webhook)) }
                @if webhooks.is_empty() {
                    p.nothing data-key="nothing" { "There are no webhooks." }
                }
            }
        },
    )
}

fn card(site: &Site<'_>, webhook: &Webhook) -> Markup {
    let path = |action| site.path(&[Tab::Webhooks.path(), &webhook.id, action]);
    html! {
        section.card data-key=(webhook.id) {
            h2 {
                (webhook.name) " "
                span class={ "badge " (webhook.status) } { (webhook.status) }
            }
            p.url { (webhook.url) }
            @if let Some(warning) = &webhook.warning { p.problem { (warning) } }
            dl {
                dt { "Id" }
                dd { (webhook.id) }
                @if let Some(reason) = &webhook.reason {
                    dt { "Reason" }
                    dd { (reason) }
                }
                dt { "Authentication" }
                dd { (webhook.auth) }
                dt { "Events" }
                dd {
                    @match &webhook.events {
                        None => { "all" },
                        Some(events) if events.len() <= 4 => { (events.join(", ")) },
                        Some(events) => {
                            details {
                                summary { (events.len()) " types" }
                                ul.plain { @for event in events { li { (event) } } }
                            }
                        },
                    }
                }
            }
            div.actions {
                @if webhook.is_enabled() {
                    (act(&path("disable"), "Disable", ""))
                } @else {
                    (act(&path("enable"), "Enable", ""))
                }
                @if webhook.has_secrets() {
                    details.confirm {
                        summary { "Rotate the secrets" }
                        p { "The present secrets stop working at once." }
                        (act(&path("rotate"), "Rotate now", "danger"))
                    }
                }
                details.confirm {
                    summary { "Delete" }
                    p { "Deliveries that wait for it fail." }
                    (act(&path("delete"), "Delete the webhook", "danger"))
                }
            }
        }
    }
}

/// The form, with what was entered before if that failed.
pub(crate) fn create(
    site: &Site<'_>,
    entered: &NewWebhook,
    types: &[String],
    problem: Option<&str>,
) -> Markup {
    let auth = if entered.auth.is_empty() {
        "signature"
    } else {
        &entered.auth
    };
    site.page(
        "Create Webhook",
        &html! {
            p.crumbs { a href=(site.path(&[Tab::Webhooks.path()])) { "Webhooks" } }
            h1 { "Create Webhook" }
            @if let Some(problem) = problem { (failure(problem)) }
            form.stacked method="post" action=(site.path(&[Tab::Webhooks.path()])) {
                label { "Name" input name="name" required value=(entered.name) autocomplete="off"; }
                label {
                    "URL"
                    input name="url" type="url" required value=(entered.url) autocomplete="off"
                        placeholder="http://localhost:3000/webhooks";
                }
                label {
                    "Authentication"
                    select name="auth" {
                        @for (value, title) in AUTH {
                            option value=(value) selected[value == auth] { (title) }
                        }
                    }
                }
                details open[!entered.events.is_empty()] {
                    summary { "Events (all, unless you select some)" }
                    fieldset.choices {
                        legend.hidden { "Events" }
                        @for name in types {
                            label.choice {
                                input type="checkbox" name="events" value=(name)
                                    checked[entered.events.contains(name)];
                                (name)
                            }
                        }
                    }
                }
                div.actions { button.primary type="submit" { "Create Webhook" } }
            }
        },
    )
}

/// New secrets, which are shown once; `None` if they have been.
pub(crate) fn secrets(site: &Site<'_>, webhook_id: &str, secrets: Option<&Secrets>) -> Markup {
    let one = |id: &str, title: &str, secret: &str| {
        html! {
            h2 { (title) }
            p.secret { code id=(id) { (secret) } (copy(id, "Copy")) }
        }
    };
    site.page(
        "Secrets",
        &html! {
            p.crumbs { a href=(site.path(&[Tab::Webhooks.path()])) { "Webhooks" } }
            h1 { "Secrets of " (webhook_id) }
            @if let Some(secrets) = secrets {
                p { "Save them now. They are not shown again." }
                @if let Some(secret) = &secrets.signature {
                    (one("signature-secret", "Signature secret", secret.expose()))
                }
                @if let Some(token) = &secrets.bearer {
                    (one("bearer-token", "Bearer token", token.expose()))
                }
            } @else {
                p { "Secrets are shown once, when they are new. Rotate them to get new ones." }
            }
        },
    )
}
