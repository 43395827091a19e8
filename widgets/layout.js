// Layout: the field that is selected is in view, however long the list.

function layout(ui) {
  const picture = acts(ui);
  let chosen = null, wanted = false;

  function show() {
    const item = wanted && ui.stage.querySelector(`[data-key="${CSS.escape(chosen)}"]`);
    if (!item) return;
    const { top, bottom } = item.getBoundingClientRect(), box = ui.stage.getBoundingClientRect();
    if (top < box.top || bottom > box.bottom) ui.stage.scrollTop += top < box.top ? top - box.top - 8 : bottom - box.bottom + 24;
  }

  return {
    ...picture,
    selected(key) { chosen = key; wanted = typeof key === "string"; picture.selected(key); show(); },
    async full(message, buffers) { await picture.full(message, buffers); show(); wanted = false; }, // its place may be another now
  };
}
