// Machine: a drawing whose commands are buttons: one press gives them.

function machine(ui) {
  const picture = drawing(ui);
  const pressed = (event) => event.target.closest?.("[data-press]");
  // The drawing acts on a double click; of a button's two clicks the first has done it.
  ui.stage.addEventListener("dblclick", (event) => { if (pressed(event)) event.stopPropagation(); }, true);
  ui.stage.addEventListener("click", (event) => {
    const item = pressed(event);
    if (item && event.detail < 2) ui.send("act", { key: item.dataset.key });
  });
  return picture;
}
