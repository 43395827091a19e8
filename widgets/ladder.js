// Ladder: a drawing, and below it the bench where a reader makes a call fail on purpose.

function ladder(ui) {
  const picture = drawing(ui);
  const own = { "data-lm-suppress-shortcuts": "true" };
  const list = h("ul", { class: "sl-switches" });
  const guess = h("select", { ...own });
  const send = h("button", { type: "submit", class: "sl-button sl-go", text: "Make the call", ...own });
  const bench = h("form", { class: "sl-bench", hidden: true, onsubmit: make },
    h("details", {}, h("summary", { text: "Break it yourself", ...own }), list),
    h("label", { class: "sl-guess" }, h("span", { text: "it will answer" }), guess), send);
  ui.foot.after(bench);
  let drawn = "", shown = "";

  function make(event) {
    event.preventDefault();
    if (!guess.value) { ui.say("Commit a guess first: what will the call answer?"); guess.focus(); return; }
    const wrong = [...list.querySelectorAll("input:checked")].map((one) => +one.value);
    ui.send("call", { wrong, guess: guess.value });
  }

  function build({ switches, codes, guess: said }) {
    bench.hidden = !switches.length;
    const text = JSON.stringify([switches, codes, said]);
    if (text === drawn || bench.hidden) return;
    drawn = text;
    const open = list.contains(document.activeElement) ? document.activeElement.value : null;
    list.replaceChildren(...switches.map(([number, words, wrong]) =>
      h("li", {}, h("label", {}, h("input", { type: "checkbox", value: number, checked: wrong, ...own }), h("span", { text: words })))));
    if (open !== null) list.querySelector(`input[value="${open}"]`)?.focus();
    guess.replaceChildren(h("option", { value: "", text: "…" }), h("option", { value: "0", text: "0, done" }), ...codes.map((code) => h("option", { value: code, text: code })));
    guess.value = said;
  }

  // The rung that said no is what one came for.
  function bringUp() {
    const rung = ui.stage.querySelector(".sl-fail")?.closest("[data-key]");
    const now = rung && `${rung.dataset.key} ${rung.ownerSVGElement.getAttribute("width")}`; // another width is another picture
    if (!rung || now === shown) return;
    shown = now;
    const { top, bottom } = rung.getBoundingClientRect(), box = ui.stage.getBoundingClientRect();
    if (top >= box.top && bottom <= box.bottom) return; // it is in view, and the heading of the first rungs may be too
    ui.stage.scrollTop += (top + bottom) / 2 - (box.top + box.bottom) / 2;
    const tops = [...ui.stage.querySelectorAll("[data-key]")].map((one) => one.getBoundingClientRect().top - box.top);
    const first = Math.min(...tops.filter((one) => one >= -1).concat(1e6)) % 1e6;
    if (first === tops[0]) ui.stage.scrollTop = 0; // with its heading
    else ui.stage.scrollTop += first - 2; // no rung is cut at the top
  }

  return { ...picture, full: async (message, buffers) => { await picture.full(message, buffers); build(message); bringUp(); } };
}
