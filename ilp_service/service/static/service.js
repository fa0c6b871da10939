"use strict";
// Shows the newest state without a reload: parts that changed are exchanged, and the focus stays where it was.
(() => {
  const EVERY = 3000;
  const SLOWEST = 30000;
  const byId = (id) => document.getElementById(id);
  const state = byId("state");
  const pause = byId("pause");
  let timer = 0;
  let wait = EVERY;
  let paused = false;

  const say = (text) => {
    if (state.textContent !== text) state.textContent = text;
  };

  // A selection that reaches into a part would be lost with it.
  const selecting = (part) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(part, true);
  };

  const exchange = (fresh) => {
    const focused = document.activeElement ? document.activeElement.id : "";
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other === null || part.outerHTML === other.outerHTML || selecting(part)) continue;
      part.replaceWith(document.adoptNode(other));
    }
    if (focused && document.activeElement !== byId(focused)) {
      // A button goes when its job goes on; then the keyboard stays in this part of the page.
      (byId(focused) || byId("main")).focus({ preventScroll: true });
    }
  };

  const look = async () => {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (answer.redirected) {
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
      say("up to date");
      wait = EVERY;
    } catch {
      say("the service does not answer");
      wait = Math.min(SLOWEST, wait * 2);
    }
    plan();
  };

  const plan = () => {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(look, wait);
  };

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    say(paused ? "updates are paused" : "up to date");
    plan();
  });
  document.addEventListener("visibilitychange", plan);
  byId("refresh").hidden = false;
  plan();
})();
