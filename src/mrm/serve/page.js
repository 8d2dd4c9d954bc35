// The page of the service. It uses no library, sends requests to its own service only, and keeps only what is on screen.
// HEAT_COLOURS and CLASS_COLOURS come from /palette.js.
"use strict";

const NOTICE = "not for clinical use";
const MAX_RETRIES = 6;  // of a request that a busy service refuses
const METHODS = {
  gradcam: { name: "gradient", about: "which patches raise this probability, not where disease is" },
  attention: { name: "attention of the head", about: "which patches the head takes for this finding" },
  rollout: { name: "attention", about: "what the model attends to, the same for every finding" },
};

const $ = (id) => document.getElementById(id);
const service = { about: null, token: "" };
let current = stateOf(null);

/** What is known of one file. A new file gets a new state, so that late answers about the old one are dropped. */
function stateOf(file) {
  return {
    file, stop: new AbortController(), grey: null, height: 0, width: 0, overlay: null, heatMaps: new Map(),
    prediction: null, mask: null, finding: "", seed: 0,
  };
}

// Requests -----------------------------------------------------------------------------------------------

class Refused extends Error {}

async function request(path, fields, { signal } = {}) {
  const body = fields && new FormData();
  for (const [name, value] of Object.entries(fields || {})) body.append(name, value);
  const headers = service.token ? { Authorization: `Bearer ${service.token}` } : {};
  for (let retries = 0; ; retries += 1) {
    const answer = await fetch(path, { method: body ? "POST" : "GET", body, headers, signal }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused("the service does not answer; is it still running?");
    });
    if (answer.status === 503 && retries < MAX_RETRIES) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (0.5 + Math.random()) * 1.5 ** retries));
      continue;
    }
    const content = await answer.json().catch(() => ({ error: `the service answered ${answer.status}` }));
    if (answer.status === 401) {
      $("token").hidden = false;
      throw new Refused(service.token ? "this is not the token of this service" : "");  // nothing is wrong before one is given
    }
    if (!answer.ok) throw new Refused(content.error || `the service answered ${answer.status}`);
    return content;
  }
}

const requestForImage = (path, fields = {}) => request(path, { image: current.file, ...fields }, { signal: current.stop.signal });

/** Run `work` and show its error in the element `place`, unless another file has been opened meanwhile. */
async function attempt(place, work) {
  const state = current;
  showMessage(place, "");
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError" || state !== current) return;
    if (!(error instanceof Refused)) console.error(error);
    showMessage(place, error instanceof Refused ? asSentence(error.message) : "the page failed; reload it");
  }
}

function showMessage(place, text) {
  $(place).textContent = text;
  $(place).hidden = !text;
}

const asSentence = (text) => text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
const showStatus = (text) => { $("status").textContent = text; };

// A file -------------------------------------------------------------------------------------------------

async function openFile(file) {
  current.stop.abort();
  current = stateOf(file);
  clear();
  const maxMb = service.about ? service.about.limits.body_mb : Infinity;
  if (file.size > maxMb * 1e6) {
    showMessage("problem", `The file has ${(file.size / 1e6).toFixed(0)} MB, and this service accepts at most ${maxMb} MB.`);
    return;
  }
  showStatus("Reading the image …");
  await attempt("problem", loadImage);
  if (!current.grey && current.file === file) showStatus("");
}

function clear() {
  $("work").hidden = true;
  document.body.classList.remove("loaded");
  for (const place of ["problem", "heat-problem", "fill-problem", "restore-problem"]) showMessage(place, "");
  for (const place of ["filled", "restored"]) $(place).replaceChildren();
  for (const row of document.querySelectorAll("#findings > label")) row.remove();
  resetView();
  showStatus("");
}

async function loadImage() {
  const state = current;
  const { capabilities } = service.about;
  const [preview, prediction] = await Promise.all([
    requestForImage("/preview"),
    capabilities.includes("predict") ? requestForImage("/predict") : null,
  ]);
  const grey = await decodeGrey(preview.image);
  if (state !== current) return;
  Object.assign(current, { grey: grey.values, height: grey.height, width: grey.width, prediction });
  $("canvas").height = grey.height;
  $("canvas").width = grey.width;
  showMessage("about-image", `${preview.height.toLocaleString()} × ${preview.width.toLocaleString()} pixels, shown as decoded for the model.`);
  showWarnings(prediction ? prediction.warnings : preview.warnings);
  if (prediction) listFindings(prediction);
  if (prediction && prediction.mask) current.mask = (await decodeGrey(prediction.mask)).values;
  if (state !== current) return;
  document.body.classList.add("loaded");
  $("work").hidden = false;
  draw();
}

/** The values of a grey PNG in base64, row by row. */
async function decodeGrey(png) {
  const bitmap = await createImageBitmap(new Blob([decodeBase64(png)], { type: "image/png" }));
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = [bitmap.height, bitmap.width];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const values = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < values.length; i += 1) values[i] = rgba[4 * i];
  return { values, height: bitmap.height, width: bitmap.width };
}

const decodeBase64 = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

// Findings -----------------------------------------------------------------------------------------------

function showWarnings(warnings) {
  $("warnings").replaceChildren(...warnings.map((text) => element("li", { textContent: asSentence(text) })));
  $("warnings").hidden = !warnings.length;
}

function listFindings(prediction) {
  const explains = service.about.capabilities.includes("explain") || Boolean(prediction.mask);
  const order = [...prediction.findings].sort((a, b) => Number(b.decision) - Number(a.decision) || b.probability - a.probability);
  $("findings").append(...order.map((finding) => findingRow(finding, explains)));
  if (explains) $("findings").append(noOverlayRow());
  const decided = prediction.findings.filter((finding) => finding.decision !== null);
  const above = decided.filter((finding) => finding.decision);
  let hint = "";
  if (prediction.mask) hint = "Select one to see its outline.";
  else if (explains) hint = "Select one to see what in the image raises it.";
  showMessage("findings-about", `Probability of each finding from this model; the vertical mark is its threshold. ${hint}`);
  if (prediction.abstain) showStatus("Done. The model abstains from a decision on this image.");
  else if (prediction.mask) showStatus(`Done. ${above.length} of ${order.length} findings outlined.`);
  else if (decided.length) showStatus(`Done. ${above.length} of ${decided.length} findings with a threshold are at or above it.`);
  else showStatus(`Done. ${order.length} findings; this model has no thresholds, so it makes no decisions.`);
}

function findingRow(finding, explains) {
  const label = element("label", { className: `finding${finding.decision ? " above" : ""}${explains ? "" : " plain"}` });
  label.dataset.finding = finding.finding;
  const radio = element("input", { type: "radio", name: "finding", value: finding.finding, disabled: !explains });
  radio.addEventListener("change", () => selectFinding(finding.finding));
  const bar = element("span", { className: "bar", ariaHidden: "true" }, element("i"));
  bar.firstChild.style.width = `${100 * finding.probability}%`;
  if (finding.threshold !== null) {
    bar.append(element("b"));
    bar.lastChild.style.left = `${100 * finding.threshold}%`;
  }
  label.append(
    radio,
    element("span", { className: "name", textContent: finding.finding.replaceAll("_", " ") }),
    element("span", { className: "number", textContent: finding.probability.toFixed(3) }),
    bar,
    element("span", { className: "decision", textContent: decisionText(finding) }),
  );
  return label;
}

function decisionText(finding) {
  if (finding.threshold === null) return "no threshold";
  if (finding.decision === null) return "no decision";
  if (finding.area !== null) return finding.decision ? `▲ outlined, ${(100 * finding.area).toFixed(1)} %` : "not outlined";
  return `${finding.decision ? "▲ above" : "below"} ${finding.threshold.toFixed(3)}`;
}

function noOverlayRow() {
  const radio = element("input", { type: "radio", name: "finding", value: "", checked: true });
  radio.addEventListener("change", () => selectFinding(""));
  return element("label", { className: "none" }, radio, "No overlay");
}

/** Show what raises a finding's probability. Heat maps are kept as long as the image is open. */
async function selectFinding(name) {
  current.finding = name;
  current.overlay = null;
  await attempt("heat-problem", async () => {
    const state = current;
    if (!name) return;
    const overlay = current.mask ? outlineOf(name) : await heatMapOf(name, $("method").value);
    if (state === current && state.finding === name) current.overlay = overlay;
  });
  draw();
}

/** The share (0 to 255) by which each pixel is covered, and the colours that cover it. */
function outlineOf(name) {
  const number = current.prediction.findings.findIndex((finding) => finding.finding === name) + 1;
  const colour = CLASS_COLOURS[(number - 1) % CLASS_COLOURS.length];
  return { cover: current.mask.map((value) => (value === number ? 255 : 0)), colours: Array(256).fill(colour) };
}

async function heatMapOf(name, method) {
  const key = `${method} ${name}`;
  if (!current.heatMaps.has(key)) {
    const state = current;
    showStatus(`Computing the heat map of ${name} …`);
    const answer = await requestForImage("/explain", { finding: name, method });
    const cover = (await decodeGrey(answer.heat_map)).values;
    state.heatMaps.set(key, { cover, colours: HEAT_COLOURS });
    if (state === current) showStatus(`Heat map of ${name}.`);
  }
  return current.heatMaps.get(key);
}

// Drawing ------------------------------------------------------------------------------------------------

let drawPending = false;

function draw() {
  if (drawPending) return;
  drawPending = true;
  requestAnimationFrame(() => {
    drawPending = false;
    if (current.grey) paint();
  });
}

function paint() {
  const [window_, level, opacity] = ["window", "level", "opacity"].map((id) => Number($(id).value));
  const greyLevels = Uint8ClampedArray.from({ length: 256 }, (_, v) => ((v - level + window_ / 2) / window_) * 255);
  const context = $("canvas").getContext("2d");
  const image = context.createImageData(current.width, current.height);
  const { grey, overlay } = current;
  for (let i = 0, offset = 0; i < grey.length; i += 1, offset += 4) {
    const value = greyLevels[grey[i]];
    const share = overlay ? (overlay.cover[i] / 255) * (opacity / 100) : 0;  // as heat_maps.overlay does
    const colour = overlay ? overlay.colours[overlay.cover[i]] : [0, 0, 0];
    for (let c = 0; c < 3; c += 1) image.data[offset + c] = value * (1 - share) + colour[c] * share;
    image.data[offset + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  const description = overlay ? `, with ${current.mask ? "the outline" : "a heat map"} of ${current.finding}` : "";
  $("canvas").setAttribute("aria-label", `The radiograph${description}`);
  $("window-value").textContent = window_;
  $("level-value").textContent = level;
  $("opacity-value").textContent = `${opacity} %`;
}

function resetView() {
  for (const id of ["window", "level", "opacity"]) $(id).value = $(id).defaultValue;
  draw();
}

// The report ---------------------------------------------------------------------------------------------

async function fillIn() {
  const state = current;
  const report = $("report").value;
  $("filled").replaceChildren();
  const answer = await requestForImage("/fill-in", { report, top: 5 });
  if (state !== current) return;
  // A form is sent with CRLF line ends. The service counts characters, JavaScript strings count UTF-16 units.
  const characters = [...report.replaceAll("\n", "\r\n")];
  const filled = element("p", { className: "read" });
  let position = 0;
  for (const blank of answer.blanks) {
    const best = blank.with_image[0];
    filled.append(characters.slice(position, blank.start).join(""), element("mark", { textContent: best ? best.word : "____" }));
    position = blank.end;
  }
  filled.append(characters.slice(position).join(""));
  const tables = answer.blanks.map((blank, i) => blankTable(blank, i + 1));
  $("filled").append(filled, element("div", { className: "blanks" }, ...tables));
}

function blankTable(blank, number) {
  const rows = blank.with_image.map((word, i) => element("tr", {}, wordCell(word), wordCell(blank.without_image[i])));
  const head = element("tr", {}, ...["with this image", "without the image"].map((textContent) => element("th", { scope: "col", textContent })));
  return element("table", {}, element("caption", { textContent: `Blank ${number}` }), element("thead", {}, head), element("tbody", {}, ...rows));
}

function wordCell(word) {
  if (!word) return element("td");
  return element("td", {}, word.word, element("span", { textContent: word.probability.toFixed(3) }));
}

// Restoring ----------------------------------------------------------------------------------------------

async function restore() {
  const state = current;
  const answer = await requestForImage("/reconstruct", { seed: current.seed });
  if (state !== current) return;
  current.seed += 1;
  const figures = [
    ["masked", "masked, as the model sees it"], ["restored", "restored"], ["original", "original"],
    ["residual", "difference, brighter where larger"],
  ];
  $("restored").replaceChildren(...figures.map(([key, about]) => element("figure", {},
    element("img", { src: `data:image/png;base64,${answer[key]}`, alt: about }),
    element("figcaption", { textContent: key === "restored" ? `${about}; error ${answer.error.toFixed(2)}` : about }),
  )));
  $("restore-go").textContent = "Mask other patches";
}

// Downloads ----------------------------------------------------------------------------------------------

function save(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function saveJson() {
  const { mask, overlay, ...plain } = current.prediction;
  save("findings.json", new Blob([`${JSON.stringify(plain, null, 2)}\n`], { type: "application/json" }));
}

/** A cell of a CSV; text that a spreadsheet would compute gets an apostrophe in front (mrm.system.spreadsheet_cells). */
function quoted(value) {
  const text = String(value ?? "");
  const computed = /^'*(\s*[-=+@＝＋－＠]|[\t\r\n])/.test(text) && !/^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$/.test(text);
  return `"${computed ? "'" : ""}${text.replaceAll('"', '""')}"`;
}

function saveCsv() {
  const lines = current.prediction.findings.map((f) => [
    quoted(current.prediction.model), quoted(f.finding), f.probability, f.threshold ?? "",
    f.decision === null ? "" : Number(f.decision), quoted(NOTICE),
  ].join(","));
  const text = ["model,finding,probability,threshold,decision,notice", ...lines, ""].join("\n");
  save("findings.csv", new Blob([text], { type: "text/csv" }));
}

/** The image as it is on screen, with a line below that says what it is. */
function savePng() {
  const canvas = $("canvas");
  const strip = Math.max(28, Math.round(canvas.width / 26));
  const copy = element("canvas", { width: canvas.width, height: canvas.height + strip });
  const context = copy.getContext("2d");
  context.fillRect(0, 0, copy.width, copy.height);
  context.drawImage(canvas, 0, 0);
  context.fillStyle = "#fff";
  context.font = `${Math.round(strip * 0.5)}px sans-serif`;
  context.textBaseline = "middle";
  const details = current.finding ? [current.finding, current.mask ? "outline" : $("method").value] : [];
  context.fillText([NOTICE.toUpperCase(), service.about.model, ...details].join("  ·  "), strip * 0.4, canvas.height + strip / 2, copy.width - strip);
  copy.toBlob((blob) => save("radiograph.png", blob), "image/png");
}

// The page -----------------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

async function start() {
  await attempt("token-problem", async () => {
    service.about = await request("/model");
    $("token").hidden = true;
  });
  $("drop").hidden = !service.about;
  if (!service.about) {
    if ($("token").hidden) showMessage("problem", $("token-problem").textContent);
    return;
  }
  const { about } = service;
  showMessage("problem", "");
  $("model").textContent = [about.model, about.pretrained !== about.model && about.pretrained].filter(Boolean).join(" + ");
  $("answer").hidden = !about.capabilities.includes("predict");
  $("fill").hidden = !about.capabilities.includes("fill-in");
  $("restore").hidden = !about.capabilities.includes("reconstruct");
  $("method-line").hidden = !about.methods.length;
  $("opacity-label").hidden = !about.capabilities.includes("predict");
  $("method").replaceChildren(...about.methods.map((value) => element("option", { value, textContent: METHODS[value]?.name ?? value })));
  showMethod();
}

function showMethod() {
  $("method-about").textContent = METHODS[$("method").value]?.about ?? "";
}

/** A listener that runs a button's work once at a time. */
function onceAtATime(button, place, work) {
  return async (event) => {
    event.preventDefault();
    button.disabled = true;
    await attempt(place, work);
    button.disabled = false;
  };
}

for (const id of ["window", "level", "opacity"]) $(id).addEventListener("input", draw);
$("reset").addEventListener("click", resetView);
$("method").addEventListener("change", () => { showMethod(); selectFinding(current.finding); });
$("fill-form").addEventListener("submit", onceAtATime($("fill-form").querySelector("button"), "fill-problem", fillIn));
$("restore-go").addEventListener("click", onceAtATime($("restore-go"), "restore-problem", restore));
$("save-json").addEventListener("click", saveJson);
$("save-csv").addEventListener("click", saveCsv);
$("save-png").addEventListener("click", savePng);
$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  service.token = $("token-text").value;
  start();
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";  // so that the same file can be chosen again
  if (file) openFile(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file && service.about) openFile(file);
});
start();
