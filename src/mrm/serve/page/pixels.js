// The values of an image, and the grey in which a window shows them. A canvas has 8 bits, a radiograph up to 16, so the
// service sends levels: 0 is padding, level k stands for the value low + step * (k - 1).

const decodeBase64 = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

export class Pixels {
  constructor(sent) {
    const bytes = decodeBase64(sent.levels);
    this.levels = new Uint16Array(bytes.length / 2);
    for (let i = 0; i < this.levels.length; i += 1) this.levels[i] = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    this.shown = decodeBase64(sent.shown);
    [this.height, this.width, this.low, this.step] = [sent.height, sent.width, sent.low, sent.step];
    [this.function, this.inverted] = [sent.function, sent.inverted];
    this.firstWindow = { center: sent.center, width: sent.window_width };
    const ends = [this.low, this.valueOf(this.shown.length - 1)];
    [this.least, this.greatest] = [Math.min(...ends), Math.max(...ends)];
    this.range = Math.max(this.greatest - this.least, this.firstWindow.width, Math.abs(this.step));
  }

  /** The least and the greatest center and width that a window may have. */
  get windowLimits() {
    const { center } = this.firstWindow;
    return { center: [Math.min(this.least, center), Math.max(this.greatest, center)], width: [Math.abs(this.step), 2 * this.range] };
  }

  valueOf(level) {
    return this.low + this.step * (level - 1);
  }

  /** The grey (0 to 255) of each level. Without a window it is that of the first view; padding stays black. */
  greys(window_, isInverted) {
    const greys = window_ ? Uint8ClampedArray.from(this.shown, (_, level) => this.grey(this.valueOf(level), window_)) : this.shown.slice();
    if (isInverted) for (let level = 0; level < greys.length; level += 1) greys[level] = 255 - greys[level];
    greys[0] = 0;
    return greys;
  }

  /** The window functions of DICOM (PS3.3, C.11.2.1.2 and C.11.2.1.3). */
  grey(value, { center, width }) {
    let share;
    if (this.function === "SIGMOID") share = 1 / (1 + Math.exp((-4 * (value - center)) / width));
    else if (this.function === "LINEAR" && width <= 1) share = value > center - 0.5 ? 1 : 0;
    else if (this.function === "LINEAR") share = (value - (center - 0.5)) / (width - 1) + 0.5;
    else share = (value - center) / width + 0.5;
    return 255 * (this.inverted ? 1 - Math.min(1, Math.max(0, share)) : share);
  }

  paint(context, window_, isInverted) {
    const colours = Uint32Array.from(this.greys(window_, isInverted), (grey) => (0xff000000 | (grey * 0x010101)) >>> 0);
    const image = context.createImageData(this.width, this.height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i += 1) pixels[i] = colours[this.levels[i]];
    context.putImageData(image, 0, 0);
  }
}

/** The values of a grey PNG in base64, row by row. */
export async function decodeGrey(png) {
  const bitmap = await createImageBitmap(new Blob([decodeBase64(png)], { type: "image/png" }));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const values = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < values.length; i += 1) values[i] = rgba[4 * i];
  return { values, height: bitmap.height, width: bitmap.width };
}

/** A canvas to lay over an image: its opacity is the value (0 to 255) of each pixel, its colour that of the value. */
export function colourCover({ values, height, width }, colours) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0, offset = 0; i < values.length; i += 1, offset += 4) {
    image.data.set(colours[values[i]], offset);
    image.data[offset + 3] = values[i];
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
