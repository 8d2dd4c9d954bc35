// One image on the page: its canvas, and what the reader has set of window, zoom and overlay.

import { $, element } from "./elements.js";

const MOST_ZOOM = 16;
const KEYS = "ArrowLeft ArrowRight ArrowUp ArrowDown Plus Minus 0 I H Enter";

export class Tile {
  /** `sent` is what the service answered of this file, and `pixels` its values. */
  constructor(study, file, sent, pixels) {
    Object.assign(this, { study, file, sent, pixels, overlay: null, overlayName: "", overlays: new Map(), drawPending: false });
    this.canvas = element("canvas", { width: pixels.width, height: pixels.height });
    this.canvas.setAttribute("role", "img");
    this.box = element("div", { className: "light-box" }, this.canvas);
    this.used = element("input", { type: "checkbox", checked: !sent.left_out, disabled: Boolean(sent.left_out) });
    this.about = element("span", { className: "about" });
    this.windowed = element("span", { className: "windowed" });
    this.useLabel = element("label", { className: "use" }, this.used, "in the answer");
    this.enlarge = element("button", { type: "button", className: "quiet", textContent: "Enlarge" });
    const caption = element("figcaption", {}, this.about, this.windowed, this.useLabel, this.enlarge);
    this.figure = element("figure", { className: "tile", tabIndex: 0 }, this.box, caption);
    this.figure.setAttribute("role", "group");
    this.figure.setAttribute("aria-keyshortcuts", KEYS);
    this.reset();
  }

  /** Window, zoom and inversion as the image was opened. */
  reset() {
    Object.assign(this, { window: null, isInverted: false, scale: 1, x: 0, y: 0 });
    this.place();
    this.draw();
  }

  /** The window that is shown. */
  get shownWindow() {
    return this.window ?? this.pixels.firstWindow;
  }

  setWindow({ center, width }) {
    const { firstWindow, windowLimits } = this.pixels;
    const within = (value, [least, greatest]) => Math.min(Math.max(value, least), greatest);
    const limited = { center: within(center, windowLimits.center), width: within(width, windowLimits.width) };
    const isFirst = limited.center === firstWindow.center && limited.width === firstWindow.width;
    this.window = isFirst ? null : limited;
    this.draw();
  }

  /** Show the image `factor` times as large; the point (x, y), in shares of its width and height, stays where it is. */
  zoom(factor, x = 0.5, y = 0.5) {
    const scale = Math.min(MOST_ZOOM, Math.max(1, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.move(0, 0);
  }

  /** Move the image by shares of its width and height, as far as something is hidden there. */
  move(x, y) {
    this.x = Math.min(0, Math.max(1 - this.scale, this.x + x));
    this.y = Math.min(0, Math.max(1 - this.scale, this.y + y));
    this.place();
  }

  place() {
    this.canvas.style.transform = `translate(${100 * this.x}%, ${100 * this.y}%) scale(${this.scale})`;
    this.canvas.classList.toggle("pixelated", this.scale > 4);
  }

  draw() {
    if (this.drawPending) return;
    this.drawPending = true;
    requestAnimationFrame(() => {
      this.drawPending = false;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    this.pixels.paint(context, this.window, this.isInverted);
    if (this.overlay) {
      context.globalAlpha = Number($("opacity").value) / 100;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.overlay, 0, 0, this.canvas.width, this.canvas.height);
      context.globalAlpha = 1;
    }
    const { center, width } = this.shownWindow;
    this.windowed.textContent = `W ${shortNumber(width)} L ${shortNumber(center)}`;
    this.canvas.setAttribute("aria-label", `The radiograph${this.overlay ? `, with ${this.overlayName}` : ""}`);
  }

  /** Say which image of its study this is. */
  describe(number, of) {
    const name = this.study.name === "prior" ? "Prior" : "Current";
    const count = of > 1 ? `, image ${number} of ${of}` : "";
    this.figure.setAttribute("aria-label", `${name}${count}`);
    this.about.textContent = [this.sent.view, this.sent.date].filter(Boolean).join(" · ") || this.file.name;
    this.about.title = this.file.name;
    this.useLabel.hidden = of < 2;
    this.used.setAttribute("aria-label", `${name}${count}: in the answer`);
    this.enlarge.setAttribute("aria-label", `Enlarge ${name.toLowerCase()}${count}`);
  }

  /** The part of the canvas that is visible, in its own pixels: left, top, width and height. */
  get visible() {
    const [inner, outer] = [this.canvas, this.box].map((one) => one.getBoundingClientRect());
    const perPixel = this.canvas.width / inner.width;
    const left = Math.max(0, outer.left - inner.left) * perPixel;
    const top = Math.max(0, outer.top - inner.top) * perPixel;
    const right = this.canvas.width - Math.max(0, inner.right - outer.right) * perPixel;
    const bottom = this.canvas.height - Math.max(0, inner.bottom - outer.bottom) * perPixel;
    return [left, top, right - left, bottom - top].map(Math.round);
  }
}

const shortNumber = (value) => value.toLocaleString(undefined, { maximumSignificantDigits: 5, useGrouping: false });
