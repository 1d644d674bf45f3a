//! In Chromium: what the script adds, the keyboard, and narrow pages.

use std::fs;

use authpi_emulator::faults::{DeliveryFault, DeliveryRule, FaultPlan};
use authpi_sdk::signature::{KeyRing, Verifier};
use fantoccini::key::Key;
use serde_json::json;

use super::{
    Page,
    chromium::{self, Browser, with_browser},
};
use crate::emulator::endpoint::Reply;

/// Creates a webhook with the form. Returns its secret.
async fn create_by_hand(browser: &Browser, page: &Page) -> String {
    browser.open(&format!("{}/webhooks", page.url)).await;
    browser.click("a.primary").await;
    browser.fill("input[name=name]", "by hand").await;
    browser.fill("input[name=url]", &page.endpoint.url).await;
    browser.click("button.primary").await;
    browser.text("#signature-secret").await
}

#[tokio::test]
async fn a_webhook_created_by_hand_shows_its_secret_once() {
    with_browser(async |browser| {
        let page = Page::start().await;
        let secret = create_by_hand(&browser, &page).await;
        assert!(!browser.path().await.contains(&secret));
        page.emulator.trigger("user.created").await.unwrap();
        page.endpoint.until(1).await;
        let received = page.endpoint.received().remove(0);
        let verifier = Verifier::authpi(KeyRing::new().with("shown", &*secret));
        verifier.verify(&received.headers, received.body).unwrap();
        browser.reload().await;
        browser.sees("main", "Secrets are shown once").await;
        assert!(!browser.has("#signature-secret").await);
        assert!(!browser.text("body").await.contains(&secret));
    })
    .await;
}

#[tokio::test]
async fn a_delivery_arrives_live_and_is_resent() {
    with_browser(async |browser| {
        let page = Page::start().await;
        page.webhook("signature", &["user.created"]).await;
        browser.open(&format!("{}/deliveries", page.url)).await;
        browser.sees("#live", "Live").await;
        browser.sees("#deliveries", "No deliveries yet").await;
        browser.run("window.isSamePage = true").await;
        page.endpoint.then([Reply::Status(500)]);
        page.emulator.trigger("user.created").await.unwrap();
        browser
            .sees("#deliveries", "the receiver answered 500")
            .await;
        assert_eq!(browser.run("return window.isSamePage").await, json!(true));

        browser.click("#deliveries a").await;
        browser.find("#attempt-1").await;
        browser.sees("#body", "user.created").await;
        browser.click("form button.primary").await;
        page.endpoint.until(2).await;
        browser.sees("#attempt-2", "200").await;
        browser.sees("#summary", "succeeded").await;
    })
    .await;
}

#[tokio::test]
async fn an_update_keeps_the_focus_and_what_is_unfolded() {
    with_browser(async |browser| {
        let page = Page::start().await;
        page.webhook("none", &["user.created"]).await;
        page.emulator.trigger("user.created").await.unwrap();
        page.emulator.deliveries_settled().await;
        browser.open(&format!("{}/deliveries", page.url)).await;
        browser.sees("#live", "Live").await;
        browser
            .run("document.querySelector('#deliveries a').focus()")
            .await;
        let focused = "return document.activeElement.href";
        let before = browser.run(focused).await;
        page.emulator.trigger("user.created").await.unwrap();
        browser.find("#deliveries tr:nth-child(2)").await;
        assert_eq!(browser.run(focused).await, before);

        browser.click("#deliveries tr:last-child a").await;
        browser.sees("#live", "Live").await;
        browser.click("#attempt-1 > summary").await;
        browser.click("#body > div > details > summary").await;
        let folds = "
            const fold = (css) => document.querySelector(css).open;
            return [fold('#attempt-1'), fold('#body > div > details')];
        ";
        assert_eq!(browser.run(folds).await, json!([false, true]));
        let resend = browser.path().await.replace("/_inspector", "") + "/resend";
        page.post(&resend, &[]).send().await.unwrap();
        browser.sees("#attempt-2", "200").await;
        assert_eq!(browser.run(folds).await, json!([false, true]));
    })
    .await;
}

#[tokio::test]
async fn an_edited_event_is_triggered_and_found_by_its_text() {
    with_browser(async |browser| {
        let page = Page::start().await;
        page.webhook("none", &["user.updated"]).await;
        browser.open(&format!("{}/events/trigger", page.url)).await;
        browser
            .run("document.querySelector('select[name=type]').value = 'user.updated'")
            .await;
        browser.click("form.filters button").await;
        browser.sees("button.primary", "Trigger user.updated").await;
        browser
            .fill("textarea[name=data]", r#"{"name": "Ada <b>"}"#)
            .await;
        browser.click("button.primary").await;
        browser.sees(".tree", "Ada <b>").await;
        page.endpoint.until(1).await;
        let envelope = page.endpoint.received()[0].envelope();
        assert_eq!(envelope["data"]["data"], json!({"name": "Ada <b>"}));
        for (text, count) in [("ada", 1), ("bob", 0)] {
            browser.open(&format!("{}/events", page.url)).await;
            browser.fill("input[name=text]", text).await;
            browser.click("form.filters button").await;
            browser.sees("form.filters", "Show all").await;
            assert_eq!(browser.has("#events a").await, count > 0, "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_fault_is_added_applied_and_removed() {
    with_browser(async |browser| {
        let page = Page::without_retries().await;
        page.webhook("none", &["user.created"]).await;
        browser.open(&format!("{}/faults", page.url)).await;
        browser.sees("#live", "Live").await;
        browser.sees("#faults", "No fault is injected").await;
        browser.click("a.primary").await;
        browser
            .run("document.querySelector('select[name=kind]').value = 'duplicate'")
            .await;
        browser.click("form.filters button").await;
        browser.sees("button.primary", "Add duplicate").await;
        browser.fill("input[name=copies]", "0").await;
        browser.fill("input[name=times]", "1").await;
        browser.click("button.primary").await;
        browser.sees("[role=alert]", "copies must be from 1").await;
        browser.fill("input[name=copies]", "2").await;
        browser.click("button.primary").await;
        browser.sees("#faults", "0 of 1").await;
        browser.sees("#live", "Live").await;
        browser.run("window.isSamePage = true").await;

        page.emulator.trigger("user.created").await.unwrap();
        page.endpoint.until(3).await;
        browser.sees("#faults", "1 of 1").await;
        page.emulator.trigger("user.created").await.unwrap();
        page.emulator.deliveries_finished().await;
        assert_eq!(page.endpoint.received().len(), 4, "it applied twice");
        // Changes from elsewhere are shown, too.
        let rule = DeliveryRule::new(DeliveryFault::HangUp);
        let plan = page.emulator.faults().plan().delivery(rule);
        page.emulator.faults().set(plan).unwrap();
        browser.sees("#faults", "hang up").await;
        assert_eq!(browser.run("return window.isSamePage").await, json!(true));

        browser.click("#faults tr:first-child button").await;
        browser.sees("#faults", "hang up").await;
        browser.find("#faults tr:only-child").await;
        browser.click("#faults button").await;
        browser.sees("#faults", "No fault is injected").await;
        assert_eq!(page.emulator.faults().plan(), FaultPlan::new());
    })
    .await;
}

/// Presses the tab key until the focus is on an element that matches.
async fn tab_to(browser: &Browser, css: &str) {
    let is_there = format!("return document.activeElement?.matches({css:?}) ?? false");
    for _ in 0..200 {
        if browser.run(&is_there).await == json!(true) {
            return;
        }
        browser.press(char::from(Key::Tab)).await;
    }
    panic!("the tab key does not reach {css}");
}

#[tokio::test]
async fn everything_works_with_the_keyboard_alone() {
    with_browser(async |browser| {
        let page = Page::start().await;
        let enter = char::from(Key::Enter);
        browser.open(&format!("{}/deliveries", page.url)).await;
        tab_to(&browser, "nav a[href$='/webhooks']").await;
        browser.press(enter).await;
        browser.arrives("/_inspector/webhooks").await;
        tab_to(&browser, "a.primary").await;
        browser.press(enter).await;
        browser.arrives("/_inspector/webhooks/new").await;
        tab_to(&browser, "input[name=name]").await;
        browser.type_text("by keyboard").await;
        tab_to(&browser, "input[name=url]").await;
        browser.type_text(&page.endpoint.url).await;
        browser.press(enter).await;
        let secret = browser.text("#signature-secret").await;
        assert!(secret.starts_with("whs_"), "{secret}");
        tab_to(&browser, "[data-copy=signature-secret]").await;

        page.emulator.trigger("user.created").await.unwrap();
        page.emulator.deliveries_settled().await;
        tab_to(&browser, "nav a[href$='/deliveries']").await;
        browser.press(enter).await;
        browser.arrives("/_inspector/deliveries").await;
        tab_to(&browser, "#deliveries a").await;
        browser.press(enter).await;
        browser.find("#attempt-1").await;
        tab_to(&browser, "form button.primary").await;
        browser.press(enter).await;
        page.endpoint.until(2).await;
        browser.find("#attempt-2").await;
    })
    .await;
}

/// Elements that a mouse can use and that are visible.
const CONTROLS: &str = "
    const all = [...document.querySelectorAll('a, button, input, select, textarea, summary')];
    const shown = all.filter((control) => control.checkVisibility() && control.type !== 'hidden');
    window.isReached = window.isReached || new Set();
";

#[tokio::test]
async fn every_control_is_reached_by_tab_and_shows_its_focus() {
    with_browser(async |browser| {
        let page = Page::without_retries().await;
        let paths = full(&page).await;
        for path in paths {
            browser.open(&format!("{}{path}", page.url)).await;
            let script = format!("{CONTROLS} return shown.length");
            let count = browser.run(&script).await.as_u64().unwrap();
            for _ in 0..count + 10 {
                browser.press(char::from(Key::Tab)).await;
                let script = format!(
                    "{CONTROLS} const now = document.activeElement; window.isReached.add(now);
                     return now === document.body || getComputedStyle(now).outlineStyle !== 'none'"
                );
                let is_visible = browser.run(&script).await;
                assert_eq!(is_visible, json!(true), "{path}: a focus is not visible");
            }
            let script = format!(
                "{CONTROLS} return shown.filter((control) => !window.isReached.has(control))
                    .map((control) => control.outerHTML)"
            );
            assert_eq!(browser.run(&script).await, json!([]), "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn no_page_scrolls_sideways_at_400_or_1600_pixels() {
    with_browser(async |browser| {
        let page = Page::without_retries().await;
        let paths = full(&page).await;
        for (width, is_dark) in [(400, true), (1600, false)] {
            browser.resize(width, 900, is_dark).await;
            for path in &paths {
                browser.open(&format!("{}{path}", page.url)).await;
                browser
                    .run("document.querySelectorAll('details').forEach((d) => d.open = true)")
                    .await;
                let wide = browser
                    .run("return document.documentElement.scrollWidth")
                    .await;
                assert!(wide.as_u64().unwrap() <= u64::from(width), "{path}: {wide}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_policy_blocks_nothing_that_the_page_needs() {
    with_browser(async |browser| {
        let page = Page::without_retries().await;
        let paths = full(&page).await;
        let note = "
            window.blocked = [];
            document.addEventListener('securitypolicyviolation', (event) => {
                blocked.push(event.violatedDirective + ' ' + event.blockedURI);
            });
        ";
        browser.run_first(note).await;
        for path in &paths {
            browser.open(&format!("{}{path}", page.url)).await;
            let style = "return getComputedStyle(document.querySelector('main')).maxWidth";
            let width = browser.run(style).await;
            assert_eq!(width, json!("1432px"), "{path}: the style is missing");
            let blocked = browser.run("return window.blocked").await;
            assert_eq!(blocked, json!([]), "{path}");
        }
        // The policy is in force.
        let inline = "
            const script = document.createElement('script');
            script.textContent = 'window.isInline = true';
            document.body.append(script);
            return window.isInline === true;
        ";
        assert_eq!(browser.run(inline).await, json!(false));
    })
    .await;
}

/// Fills the emulator with long and short texts. Returns the paths of all kinds of pages.
async fn full(page: &Page) -> Vec<String> {
    page.webhook("bearer+signature", &["user.created", "user.deleted"])
        .await;
    page.webhook("none", &[]).await;
    let far = "https://a-host-with-a-long-name.internal.example/a/path/that/goes/on?and=a-query";
    let form = [
        ("name", "A webhook elsewhere"),
        ("url", far),
        ("auth", "signature"),
    ];
    page.post("/webhooks", &form).send().await.unwrap();
    // It is never applied.
    let fault = [
        ("kind", "redirect"),
        ("to", far),
        ("rate", "0"),
        ("operation", "webhooks.listDeliveries"),
    ];
    page.post("/faults", &fault).send().await.unwrap();
    page.endpoint.then([Reply::Status(500)]);
    for event_type in ["user.created", "user.deleted", "user.updated"] {
        page.emulator.trigger(event_type).await.unwrap();
    }
    page.emulator.deliveries_settled().await;
    let first = |list: &str, part: &str| {
        let before = format!("href=\"/_inspector{part}");
        let rest = list.split_once(&before).unwrap().1;
        format!("{part}{}", rest.split_once('"').unwrap().0)
    };
    let failed = page.html("/deliveries?text=answered+500").await;
    let events = page.html("/events?type=user.created").await;
    let event = first(&events, "/events/evt_");
    vec![
        "/deliveries".to_owned(),
        "/deliveries?text=nothing".to_owned(),
        first(&failed, "/deliveries/"),
        "/webhooks".to_owned(),
        "/webhooks/new".to_owned(),
        "/webhooks/wh_1/secrets".to_owned(),
        "/events".to_owned(),
        "/events/trigger?type=user.created".to_owned(),
        event,
        "/faults".to_owned(),
        "/faults/new?kind=burst".to_owned(),
    ]
}

/// Every page is drawn, wide and light and narrow and dark. `AUTHPI_SCREENSHOTS` names a folder for
/// the pictures.
#[tokio::test]
async fn every_page_is_drawn_in_both_themes() {
    let folder = chromium::screenshots();
    if let Some(folder) = &folder {
        fs::create_dir_all(folder).unwrap();
    }
    with_browser(async move |browser| {
        let page = Page::start().await;
        let paths = full(&page).await;
        let names = [
            "deliveries",
            "none",
            "delivery",
            "webhooks",
            "create",
            "secrets",
            "events",
            "trigger",
            "event",
            "faults",
            "fault",
        ];
        for (name, width, height, is_dark) in
            [("light", 1600, 1000, false), ("dark", 400, 900, true)]
        {
            browser.resize(width, height, is_dark).await;
            for (path, page_name) in paths.iter().zip(names) {
                browser.open(&format!("{}{path}", page.url)).await;
                let picture = browser.screenshot().await;
                assert!(picture.starts_with(b"\x89PNG"), "{page_name}-{name}");
                // A page without content is a picture of one color, which is much smaller.
                assert!(picture.len() > 10_000, "{page_name}-{name} is empty");
                if let Some(folder) = &folder {
                    let file = folder.join(format!("{page_name}-{name}.png"));
                    fs::write(file, picture).unwrap();
                }
            }
        }
    })
    .await;
}
