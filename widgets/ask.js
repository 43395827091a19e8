// Ask: the card of a prediction and of a checked exercise. Native controls in the order in which they are read.

const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" }; // what has the focus says itself that its keys are its own

// A sentence in which `words between backticks` are code.
const rich = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", { text: part }) : part));

function ask(ui) {
  // A click beside the controls leaves the focus in the card: else the next key would be the notebook's.
  const body = h("div", { class: "sl-ask", tabindex: "-1", ...OWN_KEYS, onkeydown: beside });
  const hideBox = h("input", { type: "checkbox", ...OWN_KEYS, onchange: () => { hidden = hideBox.checked; draw(); if (card) tell(); } });
  const hideSwitch = h("label", { class: "sl-hide" }, hideBox, "Hide my answer");
  const group = `sl-${Math.random().toString(36).slice(2, 10)}`;
  let card = null, hidden = false, mine = "", reason = "", waiting = false, drawn = "";
  ui.stage.classList.add("sl-asking");
  ui.stage.removeAttribute("tabindex");
  ui.stage.setAttribute("role", "group");
  ui.stage.removeAttribute("aria-roledescription");
  ui.stage.append(body);

  function full(message) {
    const before = card;
    card = message.card;
    waiting = false;
    draw();
    tell();
    if (!before) return;
    if (before.answer == null && card.answer != null) focus(".sl-reveal");
    if ((before.hints?.length ?? 0) < (card.hints?.length ?? 0)) focus(".sl-hints li:last-child");
    if ((before.solution?.length ?? 0) < (card.solution?.length ?? 0)) focus(card.solution.length < card.solution_all ? ".sl-more-lines" : ".sl-solution");
  }

  const tell = () => ui.say(hidden && card.answer != null ? card.say.replace(card.answer, "(hidden)") : card.say);

  // The focus follows what a reader has asked for, if it was in this card.
  function focus(selector) {
    if (!focus.inside) return;
    body.querySelector(selector)?.focus({ preventScroll: true });
  }

  function draw() {
    if (!card) return;
    if (ui.size === "L" && card.kind === "prediction") { if (!hideSwitch.isConnected) ui.bar.append(hideSwitch); }
    else hideSwitch.remove();
    body.classList.toggle("sl-hiding", hidden); // before it is committed as well: a hall votes first
    const text = JSON.stringify([card, hidden, waiting]);
    if (text === drawn) return;
    drawn = text;
    focus.inside = body.contains(document.activeElement);
    const name = document.activeElement?.name, at = document.activeElement?.value;
    body.replaceChildren(...(card.kind === "prediction" ? prediction() : exercise()));
    if (focus.inside && name) [...body.querySelectorAll("input, button")].find((one) => one.name === name && (one.type !== "radio" || one.value === at))?.focus({ preventScroll: true });
  }

  // ------------------------------------------------------------- a prediction

  function prediction() {
    const locked = card.answer != null;
    const said = locked ? card.answer : mine;
    const question = h("legend", { class: "sl-question", text: card.question });
    const choices = card.answers.length ? card.answers.map((one) => choice(one, locked, said)) : [field(locked, said)];
    const form = h("form", { class: "sl-form", onsubmit: commit, onkeydown: entered }, h("fieldset", {}, question, h("div", { class: "sl-answers" }, ...choices)));
    if (locked) return [form, reveal()];
    const why = h("input", { type: "text", class: "sl-input sl-why", name: "why", maxlength: "200", autocomplete: "off", placeholder: "optional", value: reason, ...OWN_KEYS, oninput: (e) => { reason = e.target.value; } });
    const send = h("button", { type: "submit", name: "commit", class: "sl-button sl-commit", text: waiting ? "Asking the machine…" : "Commit", ...OWN_KEYS });
    form.append(h("div", { class: "sl-send" }, h("label", { class: "sl-because" }, h("span", { text: "why?" }), why), send));
    return [form];
  }

  function choice(one, locked, said) {
    const chosen = one === said && !(hidden && locked);
    const input = h("input", { type: "radio", name: group, value: one, checked: chosen, disabled: locked, ...OWN_KEYS, onchange: () => { mine = one; mark(); } });
    const machine = locked && card.reveal?.says === one;
    return h("label", { class: `sl-answer${chosen ? " sl-chosen" : ""}${machine ? " sl-machine" : ""}` }, input, h("span", { text: one }),
      machine ? h("span", { class: "sl-sign", text: "✓", "aria-label": "says the machine", role: "img" }) : "");
  }

  function field(locked, said) {
    const input = h("input", { type: "text", class: "sl-input", name: "answer", "aria-label": `Your answer${card.unit ? `, in ${card.unit}` : ""}`, autocomplete: "off", spellcheck: "false",
      value: hidden && locked ? "" : said, disabled: locked, ...OWN_KEYS, oninput: (e) => { mine = e.target.value; mark(); } });
    return h("span", { class: "sl-field" }, input, card.unit ? h("span", { class: "sl-unit", text: card.unit }) : "");
  }

  function mark() {
    for (const label of body.querySelectorAll(".sl-answer")) label.classList.toggle("sl-chosen", label.querySelector("input").checked);
  }

  function commit(event) {
    event.preventDefault();
    if (waiting || card.answer != null) return;
    if (!mine.trim()) { ui.say(card.answers.length ? "Choose an answer first, then commit it." : "Give an answer first, then commit it."); body.querySelector("input")?.focus(); return; }
    waiting = true;
    ui.send("commit", { answer: mine, why: reason });
    const send = body.querySelector(".sl-commit");
    send.textContent = "Asking the machine…";
    ui.say("Your answer is locked. The machine is being asked.");
  }

  // JupyterLab takes Enter for itself, so that a form never hears of it.
  function entered(event) {
    if (event.key === "Enter" && event.target.matches("input")) commit(event);
  }

  // Enter beside the controls commits what was chosen.
  function beside(event) {
    if (event.key === "Enter" && event.target === body && body.querySelector(".sl-commit[name=commit]")) commit(event);
  }

  function reveal() {
    const found = card.reveal;
    const you = h("dd", { class: "sl-you", text: hidden ? "(hidden)" : card.answer });
    if (!found) {
      const again = h("button", { type: "button", name: "again", class: "sl-button sl-commit", text: "Ask the machine again", ...OWN_KEYS, onclick: () => ui.send("again") });
      return h("div", { class: "sl-reveal", tabindex: "-1" }, h("dl", {}, h("dt", { text: "You said" }), you), again);
    }
    const sign = card.agrees == null || hidden ? "" : h("span", { class: `sl-verdict ${card.agrees ? "sl-good" : "sl-bad"}` },
      h("b", { text: card.agrees ? "=" : "≠", "aria-hidden": "true" }), card.agrees ? "as you said" : "not what you said");
    const parts = [h("dl", {}, h("dt", { text: "You said" }), you, h("dt", { text: "The machine says" }), h("dd", {}, h("b", { text: found.says }), sign))];
    if (found.evidence) parts.push(h("pre", { text: found.evidence, tabindex: "0", role: "region", "aria-label": `What decides: ${card.question}`, ...OWN_KEYS }));
    if (found.because) parts.push(h("p", {}, ...rich(found.because)));
    if (card.why && !hidden) parts.push(h("p", { class: "sl-mine" }, "You wrote: ", h("q", { text: card.why })));
    return h("div", { class: "sl-reveal", tabindex: "-1", ...OWN_KEYS }, ...parts);
  }

  // ------------------------------------------------------------- a checked exercise

  function exercise() {
    const parts = [];
    if (card.question) parts.push(h("p", { class: "sl-task" }, ...rich(card.question)));
    const kind = card.outcome.replaceAll(" ", "-");
    parts.push(h("div", { class: `sl-outcome sl-is-${kind}` }, h("span", { class: "sl-badge", text: card.sign, "aria-hidden": "true" }),
      h("div", {}, h("b", { text: card.outcome }), card.says ? h("p", {}, ...rich(card.says)) : "")));
    if (card.rows.length) parts.push(comparison());
    if (card.look && !card.leads) parts.push(h("p", { class: "sl-look" }, "look at: ", ...rich(card.look)));
    else if (card.look) parts.push(h("p", { class: "sl-look" }, "look at: ", h("button", { type: "button", name: "look", class: "sl-link", text: card.look, ...OWN_KEYS, onclick: () => ui.send("look") })));
    if (card.hints.length) parts.push(h("ol", { class: "sl-hints", "aria-label": "Hints" }, ...card.hints.map((hint) => h("li", { tabindex: "-1" }, ...rich(hint)))));
    if (card.solution.length) parts.push(h("pre", { class: "sl-solution", text: card.solution.join("\n"), tabindex: "0", role: "region", "aria-label": `Solution of ${card.id}`, ...OWN_KEYS }));
    if (card.note) parts.push(h("p", { class: "sl-note", text: card.note }));
    parts.push(h("div", { class: "sl-help" }, ...help(), dots()));
    return parts;
  }

  function comparison() {
    const head = h("tr", {}, ...card.heads.map((text) => h("th", { scope: "col", text })));
    const rows = card.rows.map(([what, you, machine, fits]) => h("tr", { class: fits ? "" : "sl-differs" }, h("th", { scope: "row", text: what }),
      h("td", { class: "sl-own" }, h("span", { class: "sl-mark", text: fits ? "=" : "≠", role: "img", "aria-label": fits ? "the same" : "differs" }), h("span", { text: you })), h("td", {}, h("span", { text: machine }))));
    return h("div", { class: "sl-compare", tabindex: "0", role: "region", "aria-label": `You and the machine: ${card.id}`, ...OWN_KEYS }, h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)));
  }

  function help() {
    const made = [], act = (kind, text, more = "") => h("button", { type: "button", name: kind, class: `sl-button sl-commit ${more}`, text, ...OWN_KEYS, onclick: () => ui.send(kind) });
    if (card.hints.length < card.hints_all) made.push(act("hint", `Hint ${card.hints.length + 1} of ${card.hints_all}`));
    else if (card.hints_all) made.push(h("span", { class: "sl-done", text: `${card.hints_all} of ${card.hints_all} hints` }));
    if (card.solution_open && card.solution.length < card.solution_all)
      made.push(act("line", `Solution, line ${card.solution.length + 1} of ${card.solution_all}`, "sl-more-lines"));
    else if (!card.solution_open && card.solution_all) made.push(h("span", { class: "sl-done", text: "Solution: after the last hint, or when it passes" }));
    return made;
  }

  function dots() {
    if (!card.dots.length) return "";
    const all = card.dots.map(([id, outcome, sign]) => h("span", { class: `sl-dot sl-is-${outcome.replaceAll(" ", "-")}${id === card.id ? " sl-this" : ""}`, title: `${id}: ${outcome}`, text: outcome === "not attempted" ? "" : sign }));
    return h("span", { class: "sl-progress" }, h("span", { class: "sl-dots", role: "img", "aria-label": card.dots.map(([id, outcome]) => `${id}: ${outcome}`).join(", ") }, ...all),
      h("span", { text: `${card.passed} of ${card.dots.length}` }));
  }

  return {
    full,
    resize: () => draw(),
    paint() {},
    around(chrome) { ui.stage.setAttribute("aria-label", chrome.title); },
  };
}
