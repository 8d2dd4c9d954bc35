// The two studies on the page: the current one, which the answer is about, and a prior one to compare with.

import { Pixels, decodeGrey } from "./pixels.js";
import { Refused, can, request, service } from "./requests.js";
import { Tile } from "./tile.js";

const SIDE = 2048;  // pixels of the longer side of an image in the viewer

/** A study as it was opened. What is answered late, about images that are no longer there, is dropped by its signals. */
class Study {
  constructor(name) {
    this.name = name;
    this.stops = { images: new AbortController(), answer: new AbortController() };
    this.clear();
  }

  clear() {
    this.stop("images");
    this.stop("answer");
    Object.assign(this, { tiles: [], prediction: null, mask: null, problems: [] });
  }

  /** A new signal, after what went on under the one before has been stopped. */
  stop(what) {
    this.stops[what].abort();
    this.stops[what] = new AbortController();
    return this.stops[what].signal;
  }

  get used() {
    return this.tiles.filter((tile) => tile.used.checked);
  }

  get date() {
    return this.tiles.map((tile) => tile.sent.date).find(Boolean) ?? "";
  }

  get patients() {
    return new Set(this.tiles.map((tile) => tile.sent.patient).filter(Boolean));
  }

  /** Read the images. Those that cannot be read are left out and listed in `problems`. Throws Refused if none can. */
  async open(files) {
    this.clear();
    refuseTooMuch(files);
    const { signal } = this.stops.images;
    const results = await Promise.allSettled(files.map((file) => this.openImage(file, signal)));
    if (signal.aborted) throw new DOMException("another study was opened", "AbortError");
    const failed = results.flatMap(({ reason }, i) => (reason ? [{ name: files[i].name, reason }] : []));
    const fault = failed.find(({ reason }) => !(reason instanceof Refused));
    if (fault) throw fault.reason;
    if (failed.length === files.length) throw failed[0].reason;
    this.tiles = results.flatMap(({ value }) => (value ? [value] : []));
    this.problems = failed.map(({ name, reason }) => `${name} is left out: ${reason.message}`);
    this.problems.push(...this.tiles.filter((tile) => tile.sent.left_out).map((tile) => `${tile.file.name} ${tile.sent.left_out}`));
    this.tiles.forEach((tile, i) => tile.describe(i + 1, this.tiles.length));
  }

  async openImage(file, signal) {
    const sent = await request("/preview", { image: file, format: "values", side: SIDE }, { signal });
    const pixels = new Pixels(sent.values);
    sent.values = null;
    return new Tile(this, file, sent, pixels);
  }

  /** One answer for the images that are used; from a segmenter also the mask of its only image. */
  async answer(pool) {
    const signal = this.stop("answer");
    this.prediction = this.mask = null;
    const image = this.used.map((tile) => tile.file);
    if (!can("predict") || !image.length) return;
    const prediction = image.length > 1
      ? await request("/predict-study", { image, pool }, { signal })
      : await request("/predict", { image }, { signal });
    const mask = prediction.mask ? await decodeGrey(prediction.mask) : null;
    if (signal.aborted) throw new DOMException("the images have changed", "AbortError");
    Object.assign(this, { prediction, mask });
  }
}

export const studies = { current: new Study("current"), prior: new Study("prior") };
export const allTiles = () => [...studies.prior.tiles, ...studies.current.tiles];

/** Throws Refused for images that the service would refuse together, before any is sent. */
function refuseTooMuch(files) {
  const { limits, kind, study_images: most } = service.about;
  const megabytes = files.reduce((sum, file) => sum + file.size, 0) / 1e6;
  if (kind === "segmenter" && files.length > 1) throw new Refused("this model outlines one image at a time; choose one image");
  if (files.length > most) throw new Refused(`${files.length} images are more than the ${most} that this service takes of a study; choose fewer`);
  if (megabytes > limits.body_mb) {
    const what = files.length > 1 ? "the images have together" : "the file has";
    throw new Refused(`${what} ${megabytes.toFixed(0)} MB, and this service accepts at most ${limits.body_mb} MB`);
  }
}

/** Reasons to doubt that the two studies can be compared. */
export function doubtsOfPrior() {
  const { current, prior } = studies;
  if (!prior.tiles.length) return [];
  const doubts = [];
  const patients = new Set([...current.patients, ...prior.patients]);
  if (patients.size > Math.max(current.patients.size, prior.patients.size)) doubts.push("the prior study states another patient than the current one; check that they belong together");
  if (current.date && prior.date > current.date) doubts.push(`the prior study is of ${prior.date}, later than the current one of ${current.date}`);
  return doubts;
}
