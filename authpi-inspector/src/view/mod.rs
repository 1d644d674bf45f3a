//! The pages. Each is a function from what a source says to HTML.

pub(crate) mod curl;
pub(crate) mod deliveries;
pub(crate) mod delivery;
pub(crate) mod events;
pub(crate) mod faults;
mod json;
pub(crate) mod webhooks;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{DeliveryStatus, Tab};

/// What every page shows, and where its links lead.
pub(crate) struct Site<'a> {
    pub(crate) base: &'a str,
    pub(crate) name: &'a str,
    pub(crate) tabs: &'a [Tab],
    pub(crate) current: Option<Tab>,
}

impl Site<'_> {
    /// The path of these segments.
    pub(crate) fn path(&self, segments: &[&str]) -> String {
        let mut path = self.base.to_owned();
        for segment in segments {
            path.push('/');
            path.extend(utf8_percent_encode(segment, IN_PATHS));
        }
        path
    }

    /// A whole page.
    pub(crate) fn page(&self, title: &str, content: &Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · " (self.name) }
                    link rel="icon" href=(self.path(&["assets", "icon.svg"])) type="image/svg+xml";
                    link rel="stylesheet" href=(self.path(&["assets", "inspector.css"]));
                    script src=(self.path(&["assets", "inspector.js"])) defer {}
                }
                body data-stream=(self.path(&["stream"])) {
                    a.skip href="#main" { "Skip to the content" }
                    header.top {
                        a.brand href=(self.path(&[""])) {
                            span.mark aria-hidden="true" {}
                            (self.name)
                        }
                        nav aria-label="Sections" {
                            @for tab in self.tabs {
                                a href=(self.path(&[tab.path()]))
                                    aria-current=[(self.current == Some(*tab)).then_some("page")] {
                                    (tab.title())
                                }
                            }
                        }
                        p #live role="status" {
                            noscript { "Reload to update" }
                        }
                    }
                    main #main tabindex="-1" { (content) }
                }
            }
        }
    }
}

/// Everything except the characters of ids and file names.
const IN_PATHS: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.');

/// A text that a button copies; the script shows the button.
fn copy(id: &str, label: &str) -> Markup {
    html! { button type="button" data-copy=(id) hidden { (label) } }
}

/// A button that changes something.
fn act(path: &str, label: &str, class: &str) -> Markup {
    html! {
        form.inline method="post" action=(path) {
            button class=(class) type="submit" { (label) }
        }
    }
}

/// The message of something that failed.
fn failure(message: &str) -> Markup {
    html! { p.problem role="alert" { (message) } }
}

/// A time of day in UTC, with the date as its title.
fn time(at: Timestamp) -> Markup {
    let text = format!("{at:.3}");
    let of_day = text.get(11..23).unwrap_or(&text);
    html! { time datetime=(text) title=(text) { (of_day) } }
}

/// Says what went wrong.
pub(crate) fn problem(site: &Site<'_>, title: &str, message: &str) -> Markup {
    site.page(title, &html! { h1 { (title) } (failure(message)) })
}

fn badge(status: DeliveryStatus, in_progress: bool) -> Markup {
    html! {
        span class={ "badge " (status.as_str()) } {
            @if in_progress { "sending" } @else { (status.as_str()) }
        }
    }
}

/// A select of `options`, the first of which is for all.
fn select(id: &str, all: &str, options: &[&str], chosen: Option<&str>) -> Markup {
    html! {
        select id=(id) name=(id) {
            option value="" { (all) }
            @if let Some(other) = chosen && !options.contains(&other) {
                option value=(other) selected { (other) }
            }
            @for option in options {
                option value=(option) selected[chosen == Some(*option)] { (option) }
            }
        }
    }
}

/// Links to the newest and to older items.
fn pages(newest: Option<&str>, older: Option<&str>) -> Markup {
    html! {
        nav.pages #pages data-live aria-label="Pages" {
            @if let Some(newest) = newest { a data-key="newest" href=(newest) { "Newest" } }
            @if let Some(older) = older { a data-key="older" href=(older) rel="next" { "Older" } }
        }
    }
}
