/** An SVG as a PNG, drawn by resvg with a font that comes along: the same bytes on any machine. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { initWasm, Resvg } from "@resvg/resvg-wasm";

/** Pixels for each unit of the SVG: sharp on a screen of today. */
const ZOOM = 2;
const require = createRequire(import.meta.url);
const FONTS = [
  require.resolve("dejavu-fonts-ttf/ttf/DejaVuSans.ttf"),
  require.resolve("dejavu-fonts-ttf/ttf/DejaVuSans-Bold.ttf"),
];
let ready: Promise<void> | null = null;

export async function svgToPng(svg: string): Promise<Uint8Array> {
  // The library can be initialised once in a process.
  ready ??= initWasm(readFileSync(require.resolve("@resvg/resvg-wasm/index_bg.wasm")));
  await ready;
  const fonts = FONTS.map((font) => readFileSync(font));
  const image = new Resvg(svg, {
    font: { fontBuffers: fonts, defaultFontFamily: "DejaVu Sans" },
    fitTo: { mode: "zoom", value: ZOOM },
    background: "white",
  });
  return image.render().asPng();
}
