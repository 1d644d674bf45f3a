//! Faults: the list, and the form that adds one.

use maud::{Markup, html};

use super::{Site, act, failure};
use crate::{Fault, FaultField, FaultKind, FaultTarget, NewFault, Tab};

pub(crate) fn list(site: &Site<'_>, faults: &[Fault]) -> Markup {
    site.page(
        "Faults",
        &html! {
            div.heading {
                h1 { "Faults" }
                a.button.primary href=(site.path(&[Tab::Faults.path(), "new"])) { "Add a fault" }
            }
            p.note {
                "Faults that the emulator injects. The first fault that matches an attempt or a call \
                 applies to it."
            }
            div.table {
                table {
                    thead {
                        tr {
                            th scope="col" { "Target" }
                            th scope="col" { "Fault" }
                            th scope="col" { "Values" }
                            th scope="col" { "Applied" }
                            th scope="col" { span.hidden { "Actions" } }
                        }
                    }
                    tbody #faults data-live {
                        @for fault in faults { (line(site, fault)) }
                        @if faults.is_empty() {
                            tr data-key="nothing" {
                                td.nothing colspan="5" { "No fault is injected." }
                            }
                        }
                    }
                }
            }
        },
    )
}

fn line(site: &Site<'_>, fault: &Fault) -> Markup {
    html! {
        tr data-key=(fault.id) {
            td data-label="Target" { (fault.target.title()) }
            td data-label="Fault" { (spaced(&fault.kind)) }
            td.ids data-label="Values" {
                @for (name, value) in &fault.values {
                    span.id { span.dim { (name) } " " (value) } " "
                }
            }
            td data-label="Applied" {
                (fault.applied)
                @if let Some(times) = fault.times { " of " (times) }
            }
            td { (act(&site.path(&[Tab::Faults.path(), &fault.id, "remove"]), "Remove", "")) }
        }
    }
}

/// The form for one kind, with what was entered before and why that failed.
pub(crate) fn add(
    site: &Site<'_>,
    kinds: &[FaultKind],
    chosen: &FaultKind,
    failed: Option<(&NewFault, &str)>,
) -> Markup {
    let of = |target: FaultTarget| kinds.iter().filter(move |kind| kind.target == target);
    site.page(
        "Add a fault",
        &html! {
            p.crumbs { a href=(site.path(&[Tab::Faults.path()])) { "Faults" } }
            h1 { "Add a fault" }
            @if let Some((_, problem)) = failed { (failure(problem)) }
            form.filters method="get" action=(site.path(&[Tab::Faults.path(), "new"])) {
                label {
                    "Fault"
                    select name="kind" {
                        @for target in [FaultTarget::Deliveries, FaultTarget::Calls] {
                            optgroup label=(target.title()) {
                                @for kind in of(target) {
                                    option value=(kind.name) selected[kind.name == chosen.name] {
                                        (spaced(kind.name))
                                    }
                                }
                            }
                        }
                    }
                }
                button type="submit" { "Show its fields" }
            }
            p { (chosen.description) }
            form.stacked method="post" action=(site.path(&[Tab::Faults.path()])) {
                input type="hidden" name="kind" value=(chosen.name);
                @for field in &chosen.fields { (self::field(field, failed.map(|(entered, _)| entered))) }
                div.actions { button.primary type="submit" { "Add " (spaced(chosen.name)) } }
            }
        },
    )
}

fn field(field: &FaultField, entered: Option<&NewFault>) -> Markup {
    let value = entered.map_or(field.value, |entered| {
        let mut values = entered.values.iter();
        let value = values.find(|(name, _)| name == field.name);
        value.map_or("", |(_, value)| value)
    });
    html! {
        label {
            (field.label)
            @if field.choices.is_empty() {
                input name=(field.name) value=(value) required[field.is_required] autocomplete="off";
            } @else {
                select name=(field.name) {
                    @for (choice, title) in &field.choices {
                        option value=(choice) selected[choice == value] { (title) }
                    }
                }
            }
        }
    }
}

/// `slow_body` as `slow body`.
fn spaced(name: &str) -> String {
    name.replace('_', " ")
}
