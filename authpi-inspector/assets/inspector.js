// Live updates and copy buttons. Everything else works without this.
"use strict";
(() => {
  // What the server sent for a live part, by its key. A part that the server has not changed keeps
  // its element, and with it the focus, the selection and what is unfolded.
  const sent = new WeakMap();
  const key = (part) => part.dataset.key;

  const prepare = (root) => {
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
  };

  const remember = (live) => {
    for (const part of live.children) sent.set(part, part.outerHTML);
  };

  const update = (live, fresh) => {
    const old = new Map([...live.children].map((part) => [key(part), part]));
    const focused = live.contains(document.activeElement) ? document.activeElement : null;
    let at = live.firstElementChild;
    for (const part of [...fresh.children]) {
      const html = part.outerHTML;
      const known = old.get(key(part));
      old.delete(key(part));
      let element = known;
      if (!known || sent.get(known) !== html) {
        element = document.importNode(part, true);
        sent.set(element, html);
        prepare(element);
        if (known) {
          const was = known.contains(focused) ? place(known, focused) : -1;
          const folds = [...known.querySelectorAll("details"), known].map((fold) => fold.open);
          [...element.querySelectorAll("details"), element].forEach((fold, index, all) => {
            if (all.length === folds.length && fold.tagName === "DETAILS") fold.open = folds[index];
          });
          if (at === known) at = element;
          known.replaceWith(element);
          if (was >= 0) controls(element)[was]?.focus();
        }
      }
      if (element === at) at = at.nextElementSibling;
      else live.insertBefore(element, at);
    }
    for (const gone of old.values()) gone.remove();
  };

  const controls = (part) => [...part.querySelectorAll("a, button, summary, pre, input, select")];
  const place = (part, control) => controls(part).indexOf(control);

  let isBusy = false;
  let isStale = false;
  const refresh = async () => {
    isStale = true;
    if (isBusy) return;
    isBusy = true;
    while (isStale) {
      isStale = false;
      try {
        const response = await fetch(location.href);
        if (!response.ok) continue;
        const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
        for (const live of document.querySelectorAll("[data-live]")) {
          const part = fresh.getElementById(live.id);
          if (part) update(live, part);
        }
      } catch {
        // The next signal, or the next connection, tries again.
      }
    }
    isBusy = false;
  };

  const status = document.getElementById("live");
  const say = (text, isOn) => {
    if (status.textContent !== text) status.textContent = text;
    status.classList.toggle("on", isOn);
  };

  // A browser opens few connections to a server, so a page in the background has none.
  let stream = null;
  const connect = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(document.body.dataset.stream);
    stream.addEventListener("open", () => {
      say("Live", true);
      refresh();
    });
    stream.addEventListener("change", refresh);
    stream.addEventListener("error", () => {
      say("Reconnecting", false);
      if (stream && stream.readyState === EventSource.CLOSED) {
        stream = null;
        setTimeout(connect, 2000);
      }
    });
  };
  const disconnect = () => {
    if (stream) stream.close();
    stream = null;
  };

  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    const label = button.dataset.label || button.textContent;
    button.dataset.label = label;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Without permission, the text is selected, to be copied by hand.
      const fold = source.closest("details");
      if (fold) fold.open = true;
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => {
      button.textContent = label;
    }, 2000);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  const live = document.querySelectorAll("[data-live]");
  // First, since this changes what the server sent.
  live.forEach(remember);
  prepare(document);
  if (live.length > 0) {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) disconnect();
      else connect();
    });
    addEventListener("pagehide", disconnect);
    addEventListener("pageshow", connect);
    connect();
  }
})();
