// All that a saved notebook keeps of a widget's program. The rest comes from the
// kernel when a view opens, once a page however many widgets there are.
const HASH = "@HASH@";

async function load([js, css]) {
  const text = (part) => new Response(new Blob([part]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  const url = URL.createObjectURL(new Blob([await text(js)], { type: "text/javascript" }));
  return { css: await text(css), ...(await import(url)) };
}

export default {
  async render(context) {
    const { model, el } = context;
    const codes = (globalThis.sevlabWidgets ??= {});
    const early = []; // messages that arrive before the program does
    let wake;
    const arrived = new Promise((done) => (wake = done));
    const listen = (message, buffers) => {
      if (message.kind !== "code") early.push([message, buffers]);
      else if (message.hash === HASH) wake((codes[HASH] ??= load(buffers)));
    };
    model.on("msg:custom", listen);
    let note;
    const late = setTimeout(() => {
      note = el.appendChild(document.createElement("p"));
      note.textContent = "This picture is drawn by a running kernel. If the kernel is busy, it comes in a moment; if it is gone, run the cell again.";
    }, 2500);
    if (!codes[HASH]) model.send({ kind: "code" });
    const code = await (codes[HASH] ?? arrived);
    clearTimeout(late);
    note?.remove();
    model.off("msg:custom", listen);
    return code.render(context, early, code.css);
  },
};
