// Acts: a drawing, and below it what a reader can do: buttons with a key each, some with a field beside them.

function acts(ui) {
  const picture = drawing(ui), board = ui.stage.querySelector(".sl-board");
  const own = { "data-lm-suppress-shortcuts": "true" };
  const bench = h("div", { class: "sl-acts", role: "toolbar", "aria-label": "What can be done", hidden: true });
  ui.foot.after(bench);
  ui.stage.closest(".sl").classList.add("sl-benched");
  let drawn = "", known = [];

  function press(act) {
    if (act.why) { ui.say(act.why); return; }
    if (act.field) {
      const field = bench.querySelector(`input[name="${act.name}"]`), asked = !field.hidden && field.value.trim();
      for (const other of bench.querySelectorAll("input")) open(other, other === field);
      if (!asked) { field.focus(); ui.say(`${act.label}: ${act.field}, then Enter.`); return; }
      ui.send("press", { name: act.name, value: field.value });
    } else ui.send("press", { name: act.name });
  }

  // A field is there while it is wanted.
  function open(field, wanted) {
    field.hidden = !wanted;
    bench.querySelector(`button[name="${field.name}"]`).setAttribute("aria-expanded", String(wanted));
  }

  function typed(event, act) {
    if (event.key === "Enter") press(act);
    else if (event.key === "Escape") { open(event.target, false); ui.stage.focus(); event.stopPropagation(); }
    else return;
    event.preventDefault();
  }

  function one(act) {
    const name = act.key ? [h("span", { text: act.label }), h("kbd", { text: act.key, "aria-hidden": "true" })] : [h("span", { text: act.label })];
    const control = h("button", { type: "button", class: "sl-button sl-act", name: act.name, title: act.why || null,
      "aria-disabled": act.why ? "true" : null, "aria-pressed": act.pressed === null ? null : String(act.pressed), "aria-keyshortcuts": act.key || null, "aria-expanded": act.field ? "false" : null,
      onclick: () => press(act), ...own }, ...name);
    if (!act.field) return [control];
    return [control, h("input", { type: "text", class: "sl-input sl-short", name: act.name, "aria-label": `${act.label}: ${act.field}`, placeholder: act.field,
      value: act.value, autocomplete: "off", spellcheck: "false", hidden: true, onkeydown: (e) => typed(e, act), ...own })];
  }

  function build(chrome) {
    picture.around?.(chrome);
    known = ui.past ? [] : chrome.acts ?? [];
    ui.stage.classList.toggle("sl-own-ring", Boolean(chrome.own_ring));
    bench.hidden = !known.length;
    const text = JSON.stringify(known);
    if (text === drawn) return;
    drawn = text;
    const focused = bench.contains(document.activeElement) ? [document.activeElement.tagName, document.activeElement.name] : null;
    const before = new Map([...bench.querySelectorAll("input")].map((field) => [field.name, [field.value, field.hidden]]));
    bench.replaceChildren(...known.flatMap(one));
    for (const field of bench.querySelectorAll("input")) {
      const [value, hidden] = before.get(field.name) ?? ["", true];
      if (!field.value) field.value = value;
      open(field, !hidden);
    }
    if (focused) bench.querySelector(`${focused[0]}[name="${focused[1]}"]`)?.focus();
  }

  function key(event) {
    const act = known.find((one) => one.key === event.key);
    if (act) { press(act); return true; }
    if ((ui.chrome.walk ?? []).includes(event.key) && !event.shiftKey) { ui.send("walk", { key: event.key }); return true; }
    return picture.key(event);
  }

  board.addEventListener("pointerdown", (event) => {
    const item = event.target.closest?.("[data-pick]");
    if (!item) return;
    const box = item.querySelector("image, rect").getBoundingClientRect();
    ui.send("pick", { key: item.dataset.key, x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
  });

  return { ...picture, key, around: build, full: async (message, buffers) => { await picture.full(message, buffers); build(ui.chrome); } };
}
