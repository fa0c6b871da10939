"use strict";
(() => {
  const PAGE = 25;
  const VIEWS = { mc: "multiple choice", generation: "generation", both: "both" };
  const FORMS = ["tuned", "base", "base, after examples", "base, statement", "base, own probe"];
  const SIGNS = { "+": "↑ speaks for", "-": "↓ speaks against", "0": "· neither" };
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const causes = new Map(data.causes.map((cause) => [cause.name, cause]));
  const labelOf = (name) => (causes.has(name) ? causes.get(name).label : String(name).replaceAll("_", " "));
  const colourOf = (name) => (causes.has(name) ? causes.get(name).colour : "none");
  const fixed = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const rows = data.rows;
  rows.forEach((row, place) => {
    row.severity = place;
    row.haystack = [row.id, row.prompt, row.response, row.why].join("\n").toLowerCase();
  });
  const state = { key: "severity", up: true, page: 0, open: null, found: rows };

  // Every node is built here, and text enters as text only.
  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "width") node.style.width = value;
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children) if (child !== null && child !== undefined) node.append(child);
    return node;
  }
  function svg(tag, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
    return node;
  }

  function matches(row) {
    const query = byId("query").value.trim().toLowerCase();
    const rule = byId("rule").value;
    return (!query || row.haystack.includes(query))
      && (!byId("cause").value || row.cause === byId("cause").value)
      && (!byId("subset").value || row.subset === byId("subset").value.slice(1))
      && (!byId("view").value || row.view === byId("view").value)
      && (!rule || (row.rule === row.cause) === (rule === "same"));
  }
  function compare(left, right) {
    const a = left[state.key], b = right[state.key];
    const absent = (a === null || a === undefined) - (b === null || b === undefined);
    if (absent) return absent;
    const order = typeof a === "string" ? a.localeCompare(b) : a - b;
    return (state.up ? order : -order) || left.severity - right.severity;
  }
  function refresh() {
    state.found = rows.filter(matches).sort(compare);
    state.page = 0;
    state.open = null;
    for (const bar of document.querySelectorAll(".bar")) bar.setAttribute("aria-pressed", String(bar.dataset.cause === byId("cause").value));
    draw();
  }
  function draw() {
    const first = state.page * PAGE;
    const shown = state.found.slice(first, first + PAGE);
    const body = byId("rows");
    body.replaceChildren();
    for (const row of shown) {
      body.append(line(row));
      if (state.open === row.id) body.append(detail(row));
    }
    if (!shown.length) body.append(el("tr", {}, el("td", { colspan: 6, class: "none" }, rows.length ? "No sample matches. Clear a filter or the search." : "There is nothing to explain.")));
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE));
    byId("status").textContent = shown.length
      ? `${first + 1}–${first + shown.length} of ${state.found.length}` + (state.found.length < rows.length ? ` (${rows.length} in all)` : "")
      : "0 samples";
    byId("page").textContent = `Page ${state.page + 1} of ${pages}`;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page + 1 >= pages;
    byId("pager").hidden = pages < 2;
  }

  function line(row) {
    const open = state.open === row.id;
    const toggle = el("button", { type: "button", class: "toggle", "aria-expanded": String(open), "aria-controls": open ? "detail" : null },
      el("span", { class: "prompt", dir: "auto" }, row.prompt || "(empty prompt)"), el("span", { class: "answer", dir: "auto" }, row.response));
    const node = el("tr", { class: `row ${colourOf(row.cause)}${open ? " open" : ""}`, "data-id": row.id },
      el("td", { class: "what" }, toggle),
      el("td", { "data-label": "Cause" }, el("span", { class: "tag" }, labelOf(row.cause)),
        row.rule === row.cause ? null : el("span", { class: "differs" }, `rules: ${labelOf(row.rule)}`)),
      el("td", { class: "num", "data-label": "Confidence" }, fixed(row.confidence, 2)),
      el("td", { class: "num", "data-label": "Pass rate" }, fixed(row.p, 3)),
      el("td", { "data-label": "Unlearned by" }, VIEWS[row.view] || "–"),
      el("td", { "data-label": "Subset" }, row.subset));
    node.addEventListener("click", (event) => {
      if (!event.target.closest(".toggle") && String(window.getSelection())) return;
      state.open = open ? null : row.id;
      draw();
      const again = [...document.querySelectorAll(".row")].find((other) => other.dataset.id === row.id);
      if (again) again.querySelector(".toggle").focus({ preventScroll: true });
    });
    return node;
  }

  function detail(row) {
    const inner = el("div", { class: "inner" }, why(row), texts(row), chances(row));
    if (row.options.length) inner.append(options(row));
    if (row.steps.length > 1) inner.append(record(row));
    inner.append(evidence(row));
    return el("tr", { class: `detail ${colourOf(row.cause)}`, id: "detail" }, el("td", { colspan: 6 }, inner));
  }
  function why(row) {
    const verdict = row.rule === row.cause
      ? "The paper's rules, one after another, say the same."
      : `The paper's rules, one after another, say: ${labelOf(row.rule)}.`;
    const next = row.runner_up && row.cause !== "unattributed" ? ` Next in line: ${labelOf(row.runner_up)}.` : "";
    return el("div", { class: "full" }, el("h3", {}, "Why it was not learned"), el("p", { class: "lead" }, row.why), el("p", { class: "sub verdict" }, verdict + next));
  }
  function texts(row) {
    const measured = [`pass rate ${fixed(row.p, 3)} (0–1)`];
    if (row.said !== null) measured.push(`says it in ${Math.round(100 * row.said)} % of continuations`);
    if (row.greedy !== null && row.greedy !== undefined) measured.push(row.greedy ? "greedy continuation right" : "greedy continuation wrong");
    if (row.logprob !== null) measured.push(`${fixed(row.logprob, 2)} nats per token`);
    if (row.jsd !== null) measured.push(`divergence from the base ${fixed(row.jsd, 2)} bits (0–1)`);
    const place = [row.id, row.line ? `row ${row.line}` : null, row.turn ? `turn ${row.turn + 1}` : null].filter(Boolean).join(" · ");
    return el("div", {}, el("h3", {}, "Prompt"), el("div", { class: "text", dir: "auto", tabindex: 0 }, row.prompt), el("h3", {}, "Answer in the training data"),
      el("div", { class: "text", dir: "auto", tabindex: 0 }, row.response), el("p", { class: "sub verdict" }, measured.join(" · ")), el("p", { class: "sub" }, place));
  }
  function chances(row) {
    const list = el("div", { class: "chances" });
    data.causes.forEach((cause, place) => {
      const p = row.probabilities[place];
      list.append(p === null
        ? el("div", { class: "chance off" }, el("span", {}, cause.label), el("span", { class: "num" }, cause.status === "failed" ? "failed" : "not measured"))
        : el("div", { class: `chance ${cause.colour}` }, el("span", {}, cause.label),
          el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "fill", width: `${100 * p}%` })), el("span", { class: "num" }, fixed(p, 2))));
    });
    return el("div", {}, el("h3", {}, "Probability of each cause (0–1)"), list);
  }
  function options(row) {
    const used = FORMS.map((_, form) => row.options.some((option) => option[2 + form] !== null));
    const head = el("tr", {}, el("th", { scope: "col" }, "Option"), el("th", { scope: "col" }, "From"));
    FORMS.forEach((form, place) => { if (used[place]) head.append(el("th", { scope: "col", class: "num" }, form)); });
    const body = el("tbody");
    for (const option of row.options) {
      const gold = option[1] === "gold";
      const cells = el("tr", { class: gold ? "right" : null }, el("td", { class: "code", dir: "auto" }, (gold ? "✓ " : "") + option[0]), el("td", {}, gold ? "training data" : String(option[1]).replaceAll("_", " ")));
      FORMS.forEach((_, place) => { if (used[place]) cells.append(el("td", { class: "num" }, fixed(option[2 + place], 3))); });
      body.append(cells);
    }
    const more = row.more_options ? el("p", { class: "sub" }, `${row.more_options} less probable options are left out.`) : null;
    return el("div", { class: "full" }, el("h3", {}, "Options and their probability in each form of asking (0–1)"), el("div", { class: "scroll" }, el("table", { class: "plain options" }, el("thead", {}, head), body)), more);
  }
  function record(row) {
    const steps = row.steps, last = steps[steps.length - 1];
    const low = Math.min(...steps.map((s) => s[1])), high = Math.max(...steps.map((s) => s[1]));
    const x = (step) => 100 * (step - steps[0][0]) / Math.max(1, last[0] - steps[0][0]);
    const points = (kept, y) => kept.map((s) => `${x(s[0]).toFixed(2)},${y(s).toFixed(2)}`).join(" ");
    const text = `Loss from ${fixed(steps[0][1], 2)} at step ${steps[0][0]} to ${fixed(last[1], 2)} at step ${last[0]}; lowest ${fixed(low, 2)}`;
    const chart = svg("svg", { class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": text });
    chart.append(svg("line", { class: "base", x1: 0, x2: 100, y1: 40, y2: 40 }));
    const rated = steps.filter((s) => s[2] !== null);
    if (rated.length > 1) chart.append(svg("polyline", { class: "rate", points: points(rated, (s) => 40 - 40 * s[2]) }));
    chart.append(svg("polyline", { class: "loss", points: points(steps, (s) => 40 - 38 * (s[1] - low) / Math.max(1e-9, high - low)) }));
    return el("div", { class: "full" }, el("h3", {}, "Training record: loss, nats per token" + (rated.length > 1 ? " (line), and pass rate, 0–1 (dashes)" : "")), chart,
      el("p", { class: "sub legend" }, el("span", {}, `step ${steps[0][0]}: ${fixed(steps[0][1], 2)}`), el("span", {}, `lowest ${fixed(low, 2)}, highest ${fixed(high, 2)}`), el("span", {}, `step ${last[0]}: ${fixed(last[1], 2)}`)));
  }
  function evidence(row) {
    const block = el("div", { class: "full evidence" }, el("h3", {}, "Evidence"));
    data.causes.forEach((cause) => {
      if (!data.signals.some((signal) => signal.cause === cause.name)) return;
      const body = el("tbody");
      data.signals.forEach((signal, place) => {
        const value = row.evidence[place];
        if (signal.cause !== cause.name || value === null) return;
        body.append(el("tr", {}, el("th", { scope: "row" }, signal.name.replaceAll("_", " ")), el("td", { class: "value", dir: "auto" }, String(value), signal.text ? null : el("small", {}, ` ${signal.unit}`)),
          el("td", { class: "sign" }, signal.text ? "quoted" : SIGNS[signal.direction]), el("td", { class: "meaning" }, signal.meaning)));
      });
      const count = body.childElementCount;
      const head = el("thead", {}, el("tr", {}, ...["Signal", "Value", "A higher value", "Meaning"].map((name) => el("th", { scope: "col" }, name))));
      const status = cause.status === "measured" ? `${count} signals` : cause.status === "failed" ? "failed" : "not measurable";
      block.append(el("details", { open: cause.name === row.cause }, el("summary", {}, cause.label, el("small", {}, status)),
        count ? el("table", { class: "plain" }, head, body) : el("p", { class: "sub" }, "Nothing was measured.")));
    });
    return block;
  }

  function begin() {
    for (const cause of data.causes) byId("cause").append(el("option", { value: cause.name }, cause.label));
    const subsets = [...new Set(rows.map((row) => row.subset))].sort((a, b) => a.localeCompare(b));
    // The mark before the name tells an empty name from "all".
    for (const name of subsets) byId("subset").append(el("option", { value: `=${name}` }, name || "(none)"));
    for (const head of document.querySelectorAll(".samples > thead th")) {
      const button = el("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      if (head.dataset.key === "severity") head.setAttribute("aria-sort", "ascending");
      button.addEventListener("click", () => {
        const key = head.dataset.key;
        state.up = state.key === key ? !state.up : key !== "confidence";
        state.key = key;
        for (const other of document.querySelectorAll(".samples > thead th")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", state.up ? "ascending" : "descending");
        refresh();
      });
    }
    byId("tools").addEventListener("input", refresh);
    byId("reset").addEventListener("click", () => {
      for (const control of byId("tools").querySelectorAll("input, select")) control.value = "";
      refresh();
    });
    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    for (const bar of document.querySelectorAll(".bar")) {
      bar.addEventListener("click", () => {
        byId("cause").value = byId("cause").value === bar.dataset.cause ? "" : bar.dataset.cause;
        refresh();
        byId("samples").scrollIntoView({ block: "start" });
      });
    }
    byId("tools").hidden = false;
    refresh();
  }
  function turn(by) {
    state.page += by;
    state.open = null;
    draw();
    byId("samples").scrollIntoView({ block: "start" });
  }
  begin();
})();
