"use strict";
// Drawings are compressed SVGs: the page holds all of them in a quarter of their size.
async function unpack(image) {
  const bytes = Uint8Array.from(atob(image.dataset.packed), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const svg = await new Response(stream).blob();
  image.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
}
for (const image of document.querySelectorAll("img[data-packed]")) unpack(image);
