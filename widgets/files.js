// Files: what a reader takes along, the picture as PNG or SVG, the rows as CSV.

async function raster(text) {
  const image = new Image();
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  await image.decode();
  const canvas = h("canvas", { width: 2 * image.naturalWidth, height: 2 * image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

async function download({ what, name, type }, buffer) {
  let blob = new Blob([await bytes(buffer)], { type });
  if (what === "png") blob = await raster(await blob.text());
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// One button for each; `ask(what)` has the kernel make the file.
const fileButtons = (ask) => ["png", "svg", "csv"].map((what) => button(what.toUpperCase(), () => ask(what)));
