// The images on the page: which one is selected, and how the mouse, fingers, keys and controls change what is seen of it.

import { $, showMessage } from "./elements.js";
import { allTiles, studies } from "./study.js";

const DRAG_STEPS = 256;  // pixels of a drag that change window or level by the width of the first window
const KEY_STEPS = 32;
const ZOOM_STEP = 1.25;
const MOVE_STEP = 0.1;  // of what is visible

export const viewer = { active: null };
const pointers = new Map();

/** Put the images of both studies on the page, and select the first of the current one. */
export function showTiles() {
  for (const study of Object.values(studies)) {
    const place = $(`${study.name}-study`);
    place.hidden = !study.tiles.length;
    place.querySelector(".tiles").replaceChildren(...study.tiles.map((tile) => tile.figure));
  }
  const tiles = allTiles();
  document.body.classList.toggle("several", tiles.length > 1);
  document.body.classList.toggle("with-prior", studies.prior.tiles.length > 0);
  $("link-label").hidden = tiles.length < 2;
  enlarge(null);
  for (const tile of tiles) {
    tile.figure.onfocus = () => activate(tile);
    tile.enlarge.onclick = () => enlarge(tile.figure.classList.contains("enlarged") ? null : tile);
  }
  if (!tiles.includes(viewer.active)) viewer.active = null;
  if (tiles.length && !viewer.active) activate(studies.current.tiles[0] ?? tiles[0]);
}

function activate(tile) {
  viewer.active = tile;
  for (const other of allTiles()) other.figure.classList.toggle("active", other === tile);
  const { pixels, sent } = tile;
  const { width, center } = pixels.windowLimits;
  for (const [id, [min, max]] of [["window", width], ["level", center]]) Object.assign($(id), { min, max, step: Math.abs(pixels.step) / 2 });
  const size = `${sent.height.toLocaleString()} × ${sent.width.toLocaleString()} pixels`;
  showMessage("about-image", `${tile.file.name}: ${size}, values from ${shortest(pixels.least)} to ${shortest(pixels.greatest)}.`);
  showSettings();
}

const shortest = (value) => value.toLocaleString(undefined, { maximumFractionDigits: 2 });

/** The controls as the selected image is shown. */
function showSettings() {
  const tile = viewer.active;
  const { center, width } = tile.shownWindow;
  $("window").value = width;
  $("level").value = center;
  $("window-value").textContent = shortest(width);
  $("level-value").textContent = shortest(center);
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("zoom-value").textContent = `${Math.round(100 * tile.scale)} %`;
  $("invert").setAttribute("aria-pressed", tile.isInverted);
}

/** Show one image alone, or all together again. */
function enlarge(tile) {
  $("stage").classList.toggle("alone", Boolean(tile));
  for (const other of allTiles()) {
    other.figure.classList.toggle("enlarged", other === tile);
    other.enlarge.textContent = other === tile ? "Show all" : "Enlarge";
    other.enlarge.hidden = allTiles().length < 2;
  }
  for (const study of Object.values(studies)) $(`${study.name}-study`).classList.toggle("empty", Boolean(tile) && tile.study !== study);
  if (tile) tile.figure.focus({ preventScroll: true });
}

// What changes an image ----------------------------------------------------------------------------------

/** Zoom and position change in all images if they are linked; window and level are each image's own. */
function eachLinked(tile, change) {
  for (const other of $("link").checked ? allTiles() : [tile]) change(other);
  showSettings();
}

function shiftWindow(tile, wider, higher) {
  const { center, width } = tile.shownWindow;
  const unit = tile.pixels.firstWindow.width;
  tile.setWindow({ center: center + higher * unit, width: width + wider * unit });
  showSettings();
}

function invert(tile) {
  tile.isInverted = !tile.isInverted;
  tile.draw();
  showSettings();
}

const KEYS = {
  "ArrowLeft": (tile) => shiftWindow(tile, -1 / KEY_STEPS, 0),
  "ArrowRight": (tile) => shiftWindow(tile, 1 / KEY_STEPS, 0),
  "ArrowUp": (tile) => shiftWindow(tile, 0, -1 / KEY_STEPS),
  "ArrowDown": (tile) => shiftWindow(tile, 0, 1 / KEY_STEPS),
  "Shift ArrowLeft": (tile) => eachLinked(tile, (one) => one.move(MOVE_STEP, 0)),
  "Shift ArrowRight": (tile) => eachLinked(tile, (one) => one.move(-MOVE_STEP, 0)),
  "Shift ArrowUp": (tile) => eachLinked(tile, (one) => one.move(0, MOVE_STEP)),
  "Shift ArrowDown": (tile) => eachLinked(tile, (one) => one.move(0, -MOVE_STEP)),
  "+": (tile) => eachLinked(tile, (one) => one.zoom(ZOOM_STEP)),
  "-": (tile) => eachLinked(tile, (one) => one.zoom(1 / ZOOM_STEP)),
  "0": (tile) => eachLinked(tile, (one) => one.reset()),
  "i": invert,
  "h": () => document.querySelector("#findings .none input")?.click(),
  "Enter": (tile) => allTiles().length > 1 && enlarge($("stage").classList.contains("alone") ? null : tile),
};

function onKey(event) {
  const tile = allTiles().find(({ figure }) => figure === event.target);
  if (!tile || event.ctrlKey || event.altKey || event.metaKey) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const work = KEYS[event.shiftKey && name.startsWith("Arrow") ? `Shift ${name}` : name === "=" ? "+" : name];
  if (!work) return;
  event.preventDefault();
  work(tile);
}

// Mouse and fingers --------------------------------------------------------------------------------------

const tileUnder = (event) => allTiles().find(({ box }) => box.contains(event.target));

function onDown(event) {
  const tile = tileUnder(event);
  if (!tile || event.button > 1) return;
  tile.figure.focus({ preventScroll: true });
  tile.box.setPointerCapture(event.pointerId);
  if (pointers.size && [...pointers.values()][0].tile !== tile) pointers.clear();
  pointers.set(event.pointerId, { tile, x: event.clientX, y: event.clientY });
}

function onMove(event) {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = { ...before, x: event.clientX, y: event.clientY };
  pointers.set(event.pointerId, now);
  const [dx, dy] = [now.x - before.x, now.y - before.y];
  const { tile } = now;
  const moves = event.shiftKey || event.buttons & 4 || $("drag").value === "move";
  if (pointers.size > 1) pinch(tile, event.pointerId, before, now);
  else if (moves) eachLinked(tile, (one) => one.move(dx / tile.canvas.clientWidth, dy / tile.canvas.clientHeight));
  else shiftWindow(tile, dx / DRAG_STEPS, dy / DRAG_STEPS);
}

/** Two fingers zoom by their distance and move by their middle. */
function pinch(tile, id, before, now) {
  const other = [...pointers].find(([otherId]) => otherId !== id)[1];
  const distance = (one) => Math.max(8, Math.hypot(one.x - other.x, one.y - other.y));
  const [x, y] = shareOf(tile, (now.x + other.x) / 2, (now.y + other.y) / 2);
  eachLinked(tile, (one) => {
    one.zoom(distance(now) / distance(before), x, y);
    one.move((now.x - before.x) / 2 / tile.canvas.clientWidth, (now.y - before.y) / 2 / tile.canvas.clientHeight);
  });
}

/** A point of the screen as shares of the width and height in which an image that is not zoomed is shown. */
function shareOf(tile, clientX, clientY) {
  const { left, top } = tile.canvas.getBoundingClientRect();
  const [width, height] = [tile.canvas.clientWidth, tile.canvas.clientHeight];
  return [(clientX - left) / width + tile.x, (clientY - top) / height + tile.y];
}

function onUp(event) {
  pointers.delete(event.pointerId);
}

/** The wheel zooms the image that has the focus, or any with Ctrl; elsewhere it scrolls the page. */
function onWheel(event) {
  const tile = tileUnder(event);
  if (!tile || !(event.ctrlKey || tile.figure.contains(document.activeElement))) return;
  event.preventDefault();
  const [x, y] = shareOf(tile, event.clientX, event.clientY);
  eachLinked(tile, (one) => one.zoom(1.0015 ** -event.deltaY, x, y));
}

function onDoubleClick(event) {
  const tile = tileUnder(event);
  if (tile) KEYS.Enter(tile);
}

export function connectViewer() {
  const stage = $("stage");
  stage.addEventListener("keydown", onKey);
  stage.addEventListener("pointerdown", onDown);
  stage.addEventListener("pointermove", onMove);
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, onUp);
  stage.addEventListener("wheel", onWheel, { passive: false });
  stage.addEventListener("dblclick", onDoubleClick);
  stage.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());  // no scrolling by the middle button
  for (const id of ["window", "level"]) {
    $(id).addEventListener("input", () => {
      const shown = viewer.active.shownWindow;
      viewer.active.setWindow({ ...shown, [id === "window" ? "width" : "center"]: Number($(id).value) });
      showSettings();
    });
  }
  $("opacity").addEventListener("input", () => {
    for (const tile of allTiles()) tile.draw();
    showSettings();
  });
  $("invert").addEventListener("click", () => invert(viewer.active));
  $("zoom-in").addEventListener("click", () => KEYS["+"](viewer.active));
  $("zoom-out").addEventListener("click", () => KEYS["-"](viewer.active));
  $("reset").addEventListener("click", resetView);
}

/** All images as they were opened, and the opacity too. */
export function resetView() {
  $("opacity").value = $("opacity").defaultValue;
  for (const tile of allTiles()) tile.reset();
  if (viewer.active) showSettings();
}
