// The page of the service. No library, no request to anywhere else, nothing kept but what is on the screen.
"use strict";

const NOTICE = "not for clinical use";
const INFERNO =  // 256 colours, as red green blue: the map that mrm.explain uses
  "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f0a07220b07240c08260d0829" +
  "0e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c431e0c451f0c48210c4a230c4c240c4f260c51280b53290b55" +
  "2b0b572d0b592f0a5b310a5c320a5e340a5f3609613809623909633b09643d09653e0966400a67420a68440a68450a69470b6a490b6a4a0c6b" +
  "4c0c6b4d0d6c4f0d6c510e6c520e6d540f6d550f6d57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e67166e69166e" +
  "6a176e6c186e6d186e6f196e71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c801f6c82206c84206b85216b87216b" +
  "88226a8a226a8c23698d23698f24699025689225689326679526679727669827669a28659b29649d29649f2a63a02a63a22b62a32c61a52c60" +
  "a62d60a82e5fa92e5eab2f5ead305dae305cb0315bb1325ab3325ab43359b63458b73557b93556ba3655bc3754bd3853bf3952c03a51c13a50" +
  "c33b4fc43c4ec63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545d24644d34743d44842d54a41d74b3fd84c3ed94d3dda4e3c" +
  "db503bdd513ade5238df5337e05536e15635e25734e35933e45a31e55c30e65d2fe75e2ee8602de9612bea632aeb6429eb6628ec6726ed6925" +
  "ee6a24ef6c23ef6e21f06f20f1711ff1731df2741cf3761bf37819f47918f57b17f57d15f67e14f68013f78212f78410f8850ff8870ef8890c" +
  "f98b0bf98c0af98e09fa9008fa9207fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309fca50afca60cfca80dfcaa0ffcac11" +
  "fcae12fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932f9cb35f8cd37f8cf3af7d13d" +
  "f7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482" +
  "f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1fcffa4";
const COLOUR = Uint8Array.from(INFERNO.match(/../g), (pair) => parseInt(pair, 16));
const METHOD = {
  gradcam: ["gradient", "which patches raise this number; not where disease is"],
  rollout: ["attention", "where the model attends, the same for each finding"],
};

const $ = (id) => document.getElementById(id);
const service = { about: null, token: "" };
let shown = fresh(null);

/** What is known of one file; a new file starts anew, and answers about the old one are dropped. */
function fresh(file) {
  return {
    file, stop: new AbortController(), grey: null, height: 0, width: 0, heat: null, heats: new Map(),
    prediction: null, finding: "", seed: 0,
  };
}

// Asking -------------------------------------------------------------------------------------------------

class Refused extends Error {}

async function ask(path, fields, { signal } = {}) {
  const body = fields && new FormData();
  for (const [name, value] of Object.entries(fields || {})) body.append(name, value);
  const headers = service.token ? { Authorization: `Bearer ${service.token}` } : {};
  for (let tried = 0; ; tried += 1) {
    const answer = await fetch(path, { method: body ? "POST" : "GET", body, headers, signal }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused("the service does not answer; is it still running?");
    });
    if (answer.status === 503 && tried < 6) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((go) => setTimeout(go, 1000 * seconds * (0.5 + Math.random()) * 1.5 ** tried));
      continue;
    }
    const content = await answer.json().catch(() => ({ error: `the service answered ${answer.status}` }));
    if (answer.status === 401) $("token").hidden = false;
    if (!answer.ok) throw new Refused(content.error || `the service answered ${answer.status}`);
    return content;
  }
}

const askAbout = (path, fields = {}) => ask(path, { file: shown.file, ...fields }, { signal: shown.stop.signal });

/** Run `work`; what goes wrong is said in `place`, but not of a file that is no longer shown. */
async function attempt(place, work) {
  const own = shown;
  say(place, "");
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError" || own !== shown) return;
    if (!(error instanceof Refused)) console.error(error);
    say(place, error instanceof Refused ? sentence(error.message) : "this page has failed; load it again");
  }
}

function say(place, text) {
  $(place).textContent = text;
  $(place).hidden = !text;
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
const status = (text) => { $("status").textContent = text; };

// A file -------------------------------------------------------------------------------------------------

async function take(file) {
  shown.stop.abort();
  shown = fresh(file);
  clear();
  const most = service.about ? service.about.limits.body_mb : Infinity;
  if (file.size > most * 1e6) {
    say("problem", `The file has ${(file.size / 1e6).toFixed(0)} MB, and this service takes up to ${most} MB.`);
    return;
  }
  status("Reading the image …");
  await attempt("problem", look);
  if (!shown.grey && shown.file === file) status("");
}

function clear() {
  $("work").hidden = true;
  document.body.classList.remove("loaded");
  for (const place of ["problem", "heat-problem", "fill-problem", "restore-problem"]) say(place, "");
  for (const place of ["filled", "restored"]) $(place).replaceChildren();
  for (const row of document.querySelectorAll("#findings > label")) row.remove();
  resetView();
  status("");
}

async function look() {
  const own = shown;
  const can = service.about.can;
  const [preview, prediction] = await Promise.all([
    askAbout("/preview"),
    can.includes("predict") ? askAbout("/predict") : null,
  ]);
  const grey = await values(preview.image);
  if (own !== shown) return;
  Object.assign(shown, { grey: grey.values, height: grey.height, width: grey.width, prediction });
  $("canvas").height = grey.height;
  $("canvas").width = grey.width;
  say("about-image", `${preview.height.toLocaleString()} × ${preview.width.toLocaleString()} pixels, as the model's reader sees it.`);
  warn(prediction ? prediction.warnings : preview.warnings);
  if (prediction) list(prediction);
  if (prediction && prediction.mask) shown.mask = (await values(prediction.mask)).values;
  if (own !== shown) return;
  document.body.classList.add("loaded");
  $("work").hidden = false;
  draw();
}

/** A grey PNG in base64 as its values, row by row. */
async function values(png) {
  const bitmap = await createImageBitmap(new Blob([bytes(png)], { type: "image/png" }));
  const side = document.createElement("canvas");
  [side.height, side.width] = [bitmap.height, bitmap.width];
  const pen = side.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  const rgba = pen.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const found = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < found.length; i += 1) found[i] = rgba[4 * i];
  return { values: found, height: bitmap.height, width: bitmap.width };
}

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// Findings -----------------------------------------------------------------------------------------------

function warn(warnings) {
  $("warnings").replaceChildren(...warnings.map((text) => make("li", { textContent: sentence(text) })));
  $("warnings").hidden = !warnings.length;
}

function list(prediction) {
  const explains = service.about.can.includes("explain") || Boolean(prediction.mask);
  const order = [...prediction.findings].sort((a, b) => Number(b.decision) - Number(a.decision) || b.probability - a.probability);
  $("findings").append(...order.map((finding) => row(finding, explains)));
  if (explains) $("findings").append(none());
  const decided = prediction.findings.filter((finding) => finding.decision !== null);
  const above = decided.filter((finding) => finding.decision);
  const where = prediction.mask ? "Choose one to see its outline." : explains ? "Choose one to see what in the image raises it." : "";
  say("findings-about", `Probability of each finding by this model; the upright mark is its threshold. ${where}`);
  if (prediction.abstain) status("Done. The model abstains from decisions on this image.");
  else if (prediction.mask) status(`Done. ${above.length} of ${order.length} findings outlined.`);
  else if (decided.length) status(`Done. ${above.length} of ${decided.length} findings with a threshold are at or above it.`);
  else status(`Done. ${order.length} findings; this model carries no thresholds, so nothing is decided.`);
}

function row(finding, explains) {
  const label = make("label", { className: `finding${finding.decision ? " above" : ""}${explains ? "" : " plain"}` });
  label.dataset.finding = finding.finding;
  const radio = make("input", { type: "radio", name: "finding", value: finding.finding, disabled: !explains });
  radio.addEventListener("change", () => choose(finding.finding));
  const bar = make("span", { className: "bar", ariaHidden: "true" }, make("i"));
  bar.firstChild.style.width = `${100 * finding.probability}%`;
  if (finding.threshold !== null) {
    bar.append(make("b"));
    bar.lastChild.style.left = `${100 * finding.threshold}%`;
  }
  label.append(
    radio,
    make("span", { className: "name", textContent: finding.finding.replaceAll("_", " ") }),
    make("span", { className: "number", textContent: finding.probability.toFixed(3) }),
    bar,
    make("span", { className: "decision", textContent: decision(finding) }),
  );
  return label;
}

function decision(finding) {
  if (finding.threshold === null) return "no threshold";
  if (finding.decision === null) return "not decided";
  if (finding.area !== null) return finding.decision ? `▲ outlined, ${(100 * finding.area).toFixed(1)} %` : "not outlined";
  return `${finding.decision ? "▲ above" : "below"} ${finding.threshold.toFixed(3)}`;
}

function none() {
  const radio = make("input", { type: "radio", name: "finding", value: "", checked: true });
  radio.addEventListener("change", () => choose(""));
  return make("label", { className: "none" }, radio, "No overlay");
}

/** Show what raises a finding's number. Maps are kept as long as the image is. */
async function choose(name) {
  shown.finding = name;
  shown.heat = null;
  await attempt("heat-problem", async () => {
    const own = shown;
    const heat = name && (shown.mask ? outlined(name) : await heatOf(name, $("method").value));
    if (own !== shown || own.finding !== name) return;
    shown.heat = heat || null;
  });
  draw();
}

function outlined(name) {
  const number = shown.prediction.findings.findIndex((finding) => finding.finding === name) + 1;
  return shown.mask.map((value) => (value === number ? 255 : 0));
}

async function heatOf(name, method) {
  const key = `${method} ${name}`;
  if (!shown.heats.has(key)) {
    const own = shown;
    status(`Looking for what raises the number of ${name} …`);
    const answer = await askAbout("/explain", { finding: name, method });
    own.heats.set(key, (await values(answer.heat)).values);
    if (own === shown) status(`Heat map of ${name}.`);
  }
  return shown.heats.get(key);
}

// Drawing ------------------------------------------------------------------------------------------------

let waiting = false;

function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (shown.grey) paint();
  });
}

function paint() {
  const [window_, level, opacity] = ["window", "level", "opacity"].map((id) => Number($(id).value));
  const table = Uint8ClampedArray.from({ length: 256 }, (_, v) => ((v - level + window_ / 2) / window_) * 255);
  const pen = $("canvas").getContext("2d");
  const image = pen.createImageData(shown.width, shown.height);
  const { grey, heat } = shown;
  for (let i = 0, o = 0; i < grey.length; i += 1, o += 4) {
    const value = table[grey[i]];
    const cover = heat ? (heat[i] / 255) * (opacity / 100) : 0;  // as mrm.explain.overlay
    const colour = heat ? 3 * heat[i] : 0;
    for (let c = 0; c < 3; c += 1) image.data[o + c] = value * (1 - cover) + COLOUR[colour + c] * cover;
    image.data[o + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  const over = heat ? `, with ${shown.mask ? "the outline" : "a heat map"} of ${shown.finding}` : "";
  $("canvas").setAttribute("aria-label", `The radiograph${over}`);
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
  const own = shown;
  const report = $("report").value;
  $("filled").replaceChildren();
  const answer = await askAbout("/fill-in", { report, top: 5 });
  if (own !== shown) return;
  // A form is sent with the line ends of the network, and the service counts characters, JavaScript halves of some.
  const letters = [...report.replaceAll("\n", "\r\n")];
  const read = make("p", { className: "read" });
  let at = 0;
  for (const blank of answer.blanks) {
    const best = blank.with_image[0];
    read.append(letters.slice(at, blank.start).join(""), make("mark", { textContent: best ? best.word : "____" }));
    at = blank.end;
  }
  read.append(letters.slice(at).join(""));
  const tables = answer.blanks.map((blank, i) => tableOf(blank, i + 1));
  $("filled").append(read, make("div", { className: "blanks" }, ...tables));
}

function tableOf(blank, number) {
  const rows = blank.with_image.map((word, i) => make("tr", {}, cell(word), cell(blank.without_image[i])));
  const head = make("tr", {}, ...["with this image", "without an image"].map((textContent) => make("th", { scope: "col", textContent })));
  return make("table", {}, make("caption", { textContent: `Blank ${number}` }), make("thead", {}, head), make("tbody", {}, ...rows));
}

function cell(word) {
  if (!word) return make("td");
  return make("td", {}, word.word, make("span", { textContent: word.probability.toFixed(3) }));
}

// Restoring ----------------------------------------------------------------------------------------------

async function restore() {
  const own = shown;
  const answer = await askAbout("/reconstruct", { seed: shown.seed });
  if (own !== shown) return;
  shown.seed += 1;
  const figures = [
    ["masked", "what the model saw"], ["restored", "what it restored"], ["original", "the image"],
    ["residual", "the difference, brighter where larger"],
  ];
  $("restored").replaceChildren(...figures.map(([key, about]) => make("figure", {},
    make("img", { src: `data:image/png;base64,${answer[key]}`, alt: about }),
    make("figcaption", { textContent: key === "restored" ? `${about}; error ${answer.error.toFixed(2)}` : about }),
  )));
  $("restore-go").textContent = "Hide others";
}

// Downloads ----------------------------------------------------------------------------------------------

function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function saveJson() {
  const { mask, overlay, ...plain } = shown.prediction;
  save("findings.json", new Blob([`${JSON.stringify(plain, null, 2)}\n`], { type: "application/json" }));
}

function saveCsv() {
  const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""').replace(/^[=+@-]/, "'$&")}"`;
  const lines = shown.prediction.findings.map((f) => [
    quoted(shown.prediction.model), quoted(f.finding), f.probability, f.threshold ?? "",
    f.decision === null ? "" : Number(f.decision), quoted(NOTICE),
  ].join(","));
  const text = ["model,finding,probability,threshold,decision,notice", ...lines, ""].join("\n");
  save("findings.csv", new Blob([text], { type: "text/csv" }));
}

/** The image as it is on the screen, with a line below that says what it is. */
function savePng() {
  const from = $("canvas");
  const strip = Math.max(28, Math.round(from.width / 26));
  const to = make("canvas", { width: from.width, height: from.height + strip });
  const pen = to.getContext("2d");
  pen.fillRect(0, 0, to.width, to.height);
  pen.drawImage(from, 0, 0);
  pen.fillStyle = "#fff";
  pen.font = `${Math.round(strip * 0.5)}px sans-serif`;
  pen.textBaseline = "middle";
  const what = shown.finding ? [shown.finding, shown.mask ? "outline" : $("method").value] : [];
  pen.fillText([NOTICE.toUpperCase(), service.about.model, ...what].join("  ·  "), strip * 0.4, from.height + strip / 2, to.width - strip);
  to.toBlob((blob) => save("radiograph.png", blob), "image/png");
}

// The page -----------------------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function start() {
  await attempt("token-problem", async () => {
    service.about = await ask("/model");
    $("token").hidden = true;
  });
  $("drop").hidden = !service.about;
  if (!service.about) {
    if ($("token").hidden) say("problem", $("token-problem").textContent);
    return;
  }
  const { about } = service;
  say("problem", "");
  $("model").textContent = [about.model, about.pretrained !== about.model && about.pretrained].filter(Boolean).join(" + ");
  $("answer").hidden = !about.can.includes("predict");
  $("fill").hidden = !about.can.includes("fill-in");
  $("restore").hidden = !about.can.includes("reconstruct");
  $("method-line").hidden = !about.methods.length;
  $("opacity-label").hidden = !about.can.includes("predict");
  $("method").replaceChildren(...about.methods.map((value) => make("option", { value, textContent: (METHOD[value] || [value])[0] })));
  tellMethod();
}

function tellMethod() {
  $("method-about").textContent = (METHOD[$("method").value] || ["", ""])[1];
}

/** A button's work, once at a time. */
function busy(button, place, work) {
  return async (event) => {
    event.preventDefault();
    button.disabled = true;
    await attempt(place, work);
    button.disabled = false;
  };
}

for (const id of ["window", "level", "opacity"]) $(id).addEventListener("input", draw);
$("reset").addEventListener("click", resetView);
$("method").addEventListener("change", () => { tellMethod(); choose(shown.finding); });
$("fill-form").addEventListener("submit", busy($("fill-form").querySelector("button"), "fill-problem", fillIn));
$("restore-go").addEventListener("click", busy($("restore-go"), "restore-problem", restore));
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
  $("file").value = "";  // the same file may be chosen again
  if (file) take(file);
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
  if (file && service.about) take(file);
});
start();
